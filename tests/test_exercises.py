"""The README's exercises 1, 2, 3 and 7, which are layers, are solved."""
import exercises
import numpy as np
import pytest
from check_gradients import check_gradients

from cnn_numpy import ConvolutionNeuralNetwork

IMAGES = np.random.default_rng(0).standard_normal((4, 2, 4, 3))


def test_1_with_momentum_equal_gradients_make_longer_steps():
    layer = exercises.MomentumLinearLayer(1, 1)
    layer.w[...] = 0
    layer.w_grad[...] = 1
    for w in (-1, -2.9, -5.61):  # steps of 1, 1 + 0.9, 1 + 0.9 + 0.81
        layer.update(lr=1)
        assert layer.w == pytest.approx(w)


@pytest.mark.parametrize("layer", [
    exercises.SigmoidLayer(), exercises.PaddedConvolutionLayer(2, 3, 3, 3, p=0),
    exercises.PaddedConvolutionLayer(2, 3, 3, 3, p=2), exercises.BatchNormLayer(2)])
def test_2_3_and_7_a_layer_has_the_right_gradients(layer):
    check_gradients(layer, IMAGES)
    layer.is_training = False  # which only batch norm has
    check_gradients(layer, IMAGES)


def test_3_a_padded_convolution_has_larger_results_and_need_x_grad():
    layer = exercises.PaddedConvolutionLayer(2, 3, 3, 3, p=2)
    y = layer.forward(IMAGES)
    assert y.shape == (4, 3, 6, 5)
    layer.need_x_grad = False
    assert layer.backward(IMAGES, y) is None


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
