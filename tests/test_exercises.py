"""The README's exercises, solved in a few lines each, and what shows that they are solved."""
import numpy as np
from scipy import ndimage  # which scikit-learn brings

from cnn_numpy import (
    ConvolutionLayer,
    ConvolutionNeuralNetwork,
    LinearLayer,
    NetworkLayer,
    ReLULayer,
)

X = np.random.default_rng(0).standard_normal((2, 2, 6, 4))


def train_three_epochs(network, digits, lr):
    """Return the training losses of three epochs on a few digits."""
    x, y = digits
    return [network.train(x[:400], y[:400], 20, 3, lr) for _ in range(3)]


class MomentumLinearLayer(LinearLayer):
    """Exercise 1. The sums' names end in _grad, because they are no parameters to save."""

    w_sum_grad = b_sum_grad = 0

    def update(self, lr):
        self.w_sum_grad = 0.9 * self.w_sum_grad + self.w_grad
        self.b_sum_grad = 0.9 * self.b_sum_grad + self.b_grad
        self.w -= lr * self.w_sum_grad
        self.b -= lr * self.b_sum_grad


def test_1_momentum_goes_further_with_short_steps(digits):
    np.random.seed(0)
    without, with_momentum = ConvolutionNeuralNetwork(), ConvolutionNeuralNetwork()
    with_momentum.layers[7] = MomentumLinearLayer(400, 10)
    losses = train_three_epochs(without, digits, 0.01)
    assert train_three_epochs(with_momentum, digits, 0.01)[2] < losses[2]


def test_1_a_network_with_momentum_can_be_saved_and_loaded(digits, tmp_path):
    network = ConvolutionNeuralNetwork()
    network.layers[7] = MomentumLinearLayer(400, 10)
    train_three_epochs(network, digits, 0.01)
    network.save(tmp_path / "momentum.npz")
    ConvolutionNeuralNetwork().load(tmp_path / "momentum.npz")


class SigmoidLayer(NetworkLayer):
    """Exercise 2."""

    def forward(self, x):
        return 1 / (1 + np.exp(-x))

    def backward(self, x, last_x_grad):
        y = self.forward(x)
        return last_x_grad * y * (1 - y)


def test_2_a_sigmoid_layer_has_the_right_gradient(check_gradients):
    check_gradients(SigmoidLayer(), X)


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


def test_3_padding_keeps_the_size_of_an_image():
    layer = PaddedConvolutionLayer(2, 3, 5, 5, p=2)
    assert layer.forward(X).shape == (2, 3, 6, 4)


def test_3_padding_has_the_right_gradients(check_gradients):
    check_gradients(PaddedConvolutionLayer(2, 3, 5, 5, p=2), X)


def test_3_padding_by_0_changes_nothing():
    layer, padded = ConvolutionLayer(2, 3, 3, 3), PaddedConvolutionLayer(2, 3, 3, 3, p=0)
    padded.k, padded.b = layer.k, layer.b
    y = layer.forward(X)
    np.testing.assert_array_equal(padded.forward(X), y)
    np.testing.assert_array_equal(padded.backward(X, y), layer.backward(X, y))


def test_4_a_second_linear_layer_learns(digits):
    np.random.seed(0)
    network = ConvolutionNeuralNetwork()
    network.layers[7:] = [LinearLayer(400, 100), ReLULayer(), LinearLayer(100, 10)]
    losses = train_three_epochs(network, digits, 0.1)
    assert losses[2] < losses[0]


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


def test_6_warped_images_move_but_stay_near(digits):
    np.random.seed(0)
    moved = []
    for image in digits[0][:100, 0]:
        centre = np.array(ndimage.center_of_mass(image))
        moved.append(np.abs(ndimage.center_of_mass(warped(image)) - centre))
    assert 0.5 < np.mean(moved) < 1.5
    assert np.max(moved) < 3
