"""The README's exercises, solved in a few lines each, and what shows that they are solved."""
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage  # which scikit-learn brings

from cnn_numpy import (
    ConvolutionLayer,
    ConvolutionNeuralNetwork,
    LinearLayer,
    NetworkLayer,
    ReLULayer,
)

X = np.random.default_rng(0).standard_normal((2, 2, 6, 4))


@pytest.fixture(scope="module")
def check_gradients():
    readme = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n([^`]*def check_gradients[^`]*)```", readme)
    exec(block, names := {})
    return names["check_gradients"]


def losses(digits, change, lr=0.1):
    """Return the training losses of a few epochs of a network after a change."""
    np.random.seed(0)
    network = ConvolutionNeuralNetwork()
    change(network.layers)
    return [network.train(digits[0][:400], digits[1][:400], 20, 3, lr) for _ in range(3)]


class MomentumLinearLayer(LinearLayer):
    w_sum_grad = b_sum_grad = 0

    def update(self, lr):
        self.w_sum_grad = 0.9 * self.w_sum_grad + self.w_grad
        self.b_sum_grad = 0.9 * self.b_sum_grad + self.b_grad
        self.w -= lr * self.w_sum_grad
        self.b -= lr * self.b_sum_grad


def test_1_momentum_goes_further_with_short_steps(digits):
    def with_momentum(layers):
        layers[7].__class__ = MomentumLinearLayer

    assert losses(digits, with_momentum, 0.01)[2] < losses(digits, lambda layers: None, 0.01)[2]


class SigmoidLayer(NetworkLayer):
    def forward(self, x):
        return 1 / (1 + np.exp(-x))

    def backward(self, x, last_x_grad):
        y = self.forward(x)
        return last_x_grad * y * (1 - y)


def test_2_a_sigmoid_layer(check_gradients):
    check_gradients(SigmoidLayer(), X)


class PaddedConvolutionLayer(ConvolutionLayer):
    def __init__(self, c1, c2, k1, k2, p):
        super().__init__(c1, c2, k1, k2)
        self.p = p

    def padded(self, x):
        return np.pad(x, [(0, 0), (0, 0), (self.p, self.p), (self.p, self.p)])

    def forward(self, x):
        return super().forward(self.padded(x))

    def backward(self, x, last_x_grad):
        return super().backward(self.padded(x), last_x_grad)[:, :, self.p:-self.p, self.p:-self.p]


def test_3_a_convolution_with_padding(check_gradients):
    layer = PaddedConvolutionLayer(2, 3, 5, 5, p=2)
    check_gradients(layer, X)
    assert layer.forward(X).shape == (2, 3, 6, 4)


def test_4_a_second_linear_layer(digits):
    def with_another(layers):
        layers[7:] = [LinearLayer(400, 100), ReLULayer(), LinearLayer(100, 10)]

    first, _, last = losses(digits, with_another)
    assert last < first


def train_until_it_gets_no_better(network, train, held_out, batch_size, epochs=200):
    losses = []
    for epoch in range(epochs):
        network.train(*train, batch_size, epochs, lr=0.1)
        losses.append(network.test(*held_out, batch_size))
        if losses[-1] == min(losses):
            network.save("best.npz")
        if epoch - np.argmin(losses) == 10:
            break
    network.load("best.npz")
    return losses


def test_5_early_stopping(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.random.seed(0)
    network = ConvolutionNeuralNetwork()
    train, held_out = [part[:200] for part in digits], [part[200:500] for part in digits]
    losses = train_until_it_gets_no_better(network, train, held_out, batch_size=20)
    assert len(losses) - np.argmin(losses) == 11  # the best and ten more
    assert network.test(*held_out, 20) == min(losses) < losses[-1]


def warped(x):
    y = np.empty_like(x)
    for image, warped_image in zip(x[:, 0], y[:, 0]):
        matrix = np.eye(2) + np.random.uniform(-0.15, 0.15, (2, 2))
        corner = 13.5 - matrix @ [13.5, 13.5] + np.random.uniform(-1.5, 1.5, 2)
        ndimage.affine_transform(image, matrix, corner, output=warped_image, order=1)
    return y


def test_6_warped_images_are_never_the_same_and_near(digits):
    x = digits[0][:100]
    y, z = warped(x), warped(x)
    assert y.dtype == x.dtype and not np.array_equal(y, z)
    moved = [np.subtract(ndimage.center_of_mass(new[0]), ndimage.center_of_mass(old[0]))
             for new, old in zip(y, x)]
    assert 0.5 < np.abs(moved).mean() < 1.5 and np.abs(moved).max() < 3
