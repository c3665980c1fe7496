"""The README's exercises 1 to 3, which are layers, are solved."""
import exercises
import numpy as np
import pytest


def test_1_with_momentum_equal_gradients_make_longer_steps():
    layer = exercises.MomentumLinearLayer(1, 1)
    layer.w[...] = 0
    layer.w_grad[...] = 1
    for w in (-1, -2.9, -5.61):  # steps of 1, 1 + 0.9, 1 + 0.9 + 0.81
        layer.update(lr=1)
        assert layer.w == pytest.approx(w)


def test_2_a_sigmoid_layer_has_the_right_gradient(check_gradients):
    check_gradients(exercises.SigmoidLayer(), np.array([-3.0, 0, 1, 5]))


@pytest.mark.parametrize("p", [0, 2])
def test_3_a_padded_convolution_has_the_right_gradients(check_gradients, p):
    layer = exercises.PaddedConvolutionLayer(2, 3, 3, 3, p)
    x = np.random.random((2, 2, 6, 4))
    assert layer.forward(x).shape == (2, 3, 4 + 2 * p, 2 + 2 * p)
    check_gradients(layer, x)
