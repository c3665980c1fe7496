"""The README's exercises, solved in a few lines each, and what shows that they are solved."""
import numpy as np
import pytest
from scipy import ndimage  # which scikit-learn brings

from cnn_numpy import ConvolutionLayer, ConvolutionNeuralNetwork, LinearLayer, NetworkLayer


class MomentumLinearLayer(LinearLayer):
    """Exercise 1. The sums' names end in _grad, because they are no parameters to save."""

    w_sum_grad = b_sum_grad = 0

    def update(self, lr):
        self.w_sum_grad = 0.9 * self.w_sum_grad + self.w_grad
        self.b_sum_grad = 0.9 * self.b_sum_grad + self.b_grad
        self.w -= lr * self.w_sum_grad
        self.b -= lr * self.b_sum_grad


def test_1_with_momentum_equal_gradients_make_longer_steps():
    layer = MomentumLinearLayer(1, 1)
    layer.w[...] = 0
    layer.w_grad[...] = 1
    for w in (-1, -2.9, -5.61):  # steps of 1, 1 + 0.9, 1 + 0.9 + 0.81
        layer.update(lr=1)
        assert layer.w == pytest.approx(w)


class SigmoidLayer(NetworkLayer):
    """Exercise 2."""

    def forward(self, x):
        return 1 / (1 + np.exp(-x))

    def backward(self, x, last_x_grad):
        y = self.forward(x)
        return last_x_grad * y * (1 - y)


def test_2_a_sigmoid_layer_has_the_right_gradient(check_gradients):
    check_gradients(SigmoidLayer(), np.array([-3.0, 0, 1, 5]))


class PaddedConvolutionLayer(ConvolutionLayer):
    """Exercise 3."""

    def __init__(self, c1, c2, k1, k2, p):
        super().__init__(c1, c2, k1, k2)
        self.p = p

    def pad(self, x):
        B, C, H, W = x.shape
        p = self.p
        padded = np.zeros((C, H + 2 * p, W + 2 * p, B), x.dtype)  # B is innermost in memory
        padded[:, p:p + H, p:p + W] = x.transpose(1, 2, 3, 0)
        return padded.transpose(3, 0, 1, 2)  # (B, C, H + 2p, W + 2p)

    def forward(self, x):
        return super().forward(self.pad(x))

    def backward(self, x, last_x_grad):
        H, W = x.shape[2:]
        p = self.p
        x_grad = super().backward(self.pad(x), last_x_grad)
        return x_grad[:, :, p:p + H, p:p + W]  # p:-p would be empty where p is 0


@pytest.mark.parametrize("p", [0, 2])
def test_3_a_padded_convolution_has_the_right_gradients(check_gradients, p):
    layer, x = PaddedConvolutionLayer(2, 3, 3, 3, p), np.random.random((2, 2, 6, 4))
    assert layer.forward(x).shape == (2, 3, 4 + 2 * p, 2 + 2 * p)
    check_gradients(layer, x)


# Exercise 4 is solved where the README asks for it.


def test_5_early_stopping_keeps_the_best_network(digits, tmp_path):
    np.random.seed(0)
    network, losses = ConvolutionNeuralNetwork(), []
    x, y = digits
    while not losses or min(losses) in losses[-10:]:
        network.train(x[:200], y[:200], batch_size=20, epochs=200, lr=0.1)
        losses.append(network.test(x[200:500], y[200:500], batch_size=20))
        if losses[-1] == min(losses):
            network.save(tmp_path / "best.npz")
    network.load(tmp_path / "best.npz")
    assert network.test(x[200:500], y[200:500], batch_size=20) == min(losses) < losses[-1]


def warped(image):
    """Exercise 6: return an image (28, 28), a little turned, stretched, sheared and shifted."""
    matrix = np.eye(2) + np.random.uniform(-0.15, 0.15, (2, 2))
    shift = np.random.uniform(-1.5, 1.5, 2)
    corner = 13.5 - matrix @ [13.5, 13.5] + shift  # so that the middle stays near the middle
    return ndimage.affine_transform(image, matrix, corner, order=1)


def test_6_a_warped_image_has_moved_but_stays_near(digits):
    image = digits[0][0, 0]
    moved = np.subtract(ndimage.center_of_mass(warped(image)), ndimage.center_of_mass(image))
    assert 0 < np.abs(moved).max() < 3
