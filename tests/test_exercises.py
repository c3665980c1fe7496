"""The solutions of the README's exercises are right; exercise 4 has its solution in its text."""
import exercises
import numpy as np
import pytest
from scipy import ndimage

from cnn_numpy import ConvolutionNeuralNetwork


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


def test_5_early_stopping_keeps_the_best_network(digits, tmp_path):
    np.random.seed(0)
    x, y = digits
    network, held_out = ConvolutionNeuralNetwork(), (x[300:500], y[300:500])
    losses = exercises.train_until_best(network, (x[:300], y[:300]), held_out, tmp_path / "best")
    assert losses[-11] == min(losses)  # the best epoch and ten more
    assert network.test(*held_out, batch_size=100) == min(losses)


def test_6_a_warped_image_has_moved_but_stays_near(digits):
    image = digits[0][0, 0]
    before = np.array(ndimage.center_of_mass(image))
    after = np.array(ndimage.center_of_mass(exercises.warped(image)))
    assert 0 < abs(after - before).max() < 3  # pixels
