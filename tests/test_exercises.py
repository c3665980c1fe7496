"""The README's exercises, solved in a few lines each, and what shows that they are solved."""
import numpy as np
from scipy import ndimage  # which scikit-learn brings

from cnn_numpy import ConvolutionLayer, ConvolutionNeuralNetwork, LinearLayer, NetworkLayer

X = np.random.default_rng(0).standard_normal((2, 2, 6, 4))


def losses(digits, lr, start, *layers):
    """Return the training losses of a few epochs of a network with other layers from a place."""
    network = ConvolutionNeuralNetwork()
    network.layers[start:start + 1] = layers
    return [network.train(digits[0][:400], digits[1][:400], 20, 3, lr) for _ in range(3)]


class MomentumLinearLayer(LinearLayer):
    w_sum = b_sum = 0

    def update(self, lr):
        self.w_sum, self.b_sum = 0.9 * self.w_sum + self.w_grad, 0.9 * self.b_sum + self.b_grad
        self.w -= lr * self.w_sum
        self.b -= lr * self.b_sum


def test_1_momentum_goes_further_with_short_steps(digits):
    _, _, with_momentum = losses(digits, 0.01, 7, MomentumLinearLayer(400, 10))
    assert with_momentum < losses(digits, 0.01, 7, LinearLayer(400, 10))[2]


class SigmoidLayer(NetworkLayer):
    def forward(self, x):
        return 1 / (1 + np.exp(-x))

    def backward(self, x, last_x_grad):
        y = self.forward(x)
        return last_x_grad * y * (1 - y)


def test_2_a_sigmoid_layer(check_gradients):
    check_gradients(SigmoidLayer(), X)


class PaddedConvolutionLayer(ConvolutionLayer):
    padding = (0, 0), (0, 0), (2, 2), (2, 2)

    def forward(self, x):
        return super().forward(np.pad(x, self.padding))

    def backward(self, x, last_x_grad):
        return super().backward(np.pad(x, self.padding), last_x_grad)[:, :, 2:-2, 2:-2]


def test_3_a_convolution_with_padding(check_gradients, digits):
    layer = PaddedConvolutionLayer(2, 3, 5, 5)
    check_gradients(layer, X)
    assert layer.forward(X).shape == (2, 3, 6, 4)
    first, _, last = losses(digits, 0.1, 0, PaddedConvolutionLayer(1, 1, 5, 5),
                            ConvolutionLayer(1, 4, 5, 5))
    assert last < first


def test_4_a_second_linear_layer(digits):
    relu = ConvolutionNeuralNetwork().layers[5]
    first, _, last = losses(digits, 0.1, 7, LinearLayer(400, 100), relu, LinearLayer(100, 10))
    assert last < first


def test_5_early_stopping(digits, tmp_path):
    np.random.seed(0)
    network, losses = ConvolutionNeuralNetwork(), []
    train, held_out = [part[:200] for part in digits], [part[200:500] for part in digits]
    while not losses or len(losses) - np.argmin(losses) <= 10:  # the best was one of the last ten
        network.train(*train, batch_size=20, epochs=200, lr=0.1)
        losses.append(network.test(*held_out, batch_size=20))
        if losses[-1] == min(losses):
            network.save(tmp_path / "best.npz")
    network.load(tmp_path / "best.npz")
    assert network.test(*held_out, batch_size=20) == min(losses) < losses[-1]


def test_6_warped_images_stay_near(digits):
    moved = []
    for image in digits[0][:100, 0]:
        matrix = np.eye(2) + np.random.uniform(-0.15, 0.15, (2, 2))
        corner = 13.5 - matrix @ [13.5, 13.5] + np.random.uniform(-1.5, 1.5, 2)
        warped = ndimage.affine_transform(image, matrix, corner, order=1)
        moved.append(np.subtract(ndimage.center_of_mass(warped), ndimage.center_of_mass(image)))
    assert 0.5 < np.abs(moved).mean() < 1.5 and np.abs(moved).max() < 3
