"""The README's exercises 1, 2, 3 and 7, which are layers, are solved."""
import exercises
import numpy as np
import pytest

from cnn_numpy import ConvolutionNeuralNetwork

IMAGES = np.random.default_rng(0).standard_normal((4, 2, 3, 3))

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
    layer.need_x_grad = False
    assert layer.backward(x, layer.forward(x)) is None


@pytest.mark.parametrize("is_training", [True, False])
def test_7_a_batch_normalisation_has_the_right_gradients(check_gradients, is_training):
    layer = exercises.BatchNormLayer(2)
    layer.is_training = is_training
    check_gradients(layer, IMAGES)


def test_7_a_loaded_batch_normalisation_knows_the_mean_of_the_training(tmp_path):
    network = ConvolutionNeuralNetwork()
    network.layers = [exercises.BatchNormLayer(2)]
    for _ in range(100):
        network.layers[0].backward(IMAGES, IMAGES)
    y = network.forward(IMAGES)
    network.save(tmp_path / "norm.npz")
    network.layers = [exercises.BatchNormLayer(2)]
    network.load(tmp_path / "norm.npz")
    network.layers[0].is_training = False
    np.testing.assert_allclose(network.forward(IMAGES), y, atol=1e-3)
