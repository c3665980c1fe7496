"""The README's exercises, solved in a few lines each; the text of exercise 4 is its solution.

The layers are to be imported: network.layers[2] = SigmoidLayer() takes one into a network.
"""
import numpy as np
import shared  # noqa: F401 - after it, Python finds cnn_numpy.py
from scipy import ndimage  # SciPy, which is installed with scikit-learn

from cnn_numpy import ConvolutionLayer, LinearLayer, NetworkLayer, ParamLayer

EACH_CHANNEL = {"axis": (0, 2, 3), "keepdims": True}  # x.mean(**EACH_CHANNEL) is (1, C, 1, 1)


class MomentumLinearLayer(LinearLayer):
    """Exercise 1. The sums' names end in _grad, because they are no parameters to save."""

    w_sum_grad = b_sum_grad = 0

    def update(self, lr):
        self.w_sum_grad = 0.9 * self.w_sum_grad + self.w_grad
        self.b_sum_grad = 0.9 * self.b_sum_grad + self.b_grad
        self.w -= lr * self.w_sum_grad
        self.b -= lr * self.b_sum_grad


class SigmoidLayer(NetworkLayer):
    """Exercise 2."""

    def forward(self, x):
        return 1 / (1 + np.exp(-x))

    def backward(self, x, last_x_grad):
        y = self.forward(x)
        return last_x_grad * y * (1 - y)


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
        if not self.need_x_grad:
            return None
        return x_grad[:, :, p:p + H, p:p + W]  # p:-p would be empty where p is 0


def train_until_best(network, train, held_out, path):
    """Exercise 5. Train with images and labels until the loss of others falls no more."""
    losses = []
    while not losses or min(losses) in losses[-10:]:
        network.train(*train, batch_size=100, epochs=200, lr=0.1)
        losses.append(network.test(*held_out, batch_size=100))
        if losses[-1] == min(losses):
            network.save(path)
    network.load(path)
    return losses


def warped(image):
    """Exercise 6. Return an image (28, 28), a little turned, stretched, sheared and shifted."""
    matrix = np.eye(2) + np.random.uniform(-0.15, 0.15, (2, 2))
    shift = np.random.uniform(-1.5, 1.5, 2)
    corner = 13.5 - matrix @ [13.5, 13.5] + shift  # so that the middle stays near the middle
    return ndimage.affine_transform(image, matrix, corner, order=1)


class BatchNormLayer(ParamLayer):
    """Exercise 7. Each channel gets mean 0 and variance 1, then is stretched and moved.

    Training takes the mean and the variance of the batch, and keeps running ones for later. Their
    names do not end in _grad, so save keeps them. They change in backward, because forward keeps
    nothing: what is only tested or predicted leaves no trace.
    """

    is_training = True  # set it to False before test and predict, and to True before train

    def __init__(self, C):
        self.gamma = np.ones((1, C, 1, 1), np.float32)
        self.beta = np.zeros((1, C, 1, 1), np.float32)
        self.mean = np.zeros((1, C, 1, 1), np.float32)
        self.variance = np.ones((1, C, 1, 1), np.float32)

    def mean_and_variance(self, x):
        if self.is_training:
            return x.mean(**EACH_CHANNEL), x.var(**EACH_CHANNEL)
        return self.mean, self.variance

    def forward(self, x):
        mean, variance = self.mean_and_variance(x)
        normal = (x - mean) / np.sqrt(variance + 1e-5)
        return self.gamma * normal + self.beta

    def backward(self, x, last_x_grad):
        mean, variance = self.mean_and_variance(x)
        normal = (x - mean) / np.sqrt(variance + 1e-5)
        self.gamma_grad = (last_x_grad * normal).sum(**EACH_CHANNEL)
        self.beta_grad = last_x_grad.sum(**EACH_CHANNEL)
        x_grad = last_x_grad * self.gamma / np.sqrt(variance + 1e-5)
        if self.is_training:
            self.mean += 0.1 * (mean - self.mean)
            self.variance += 0.1 * (variance - self.variance)
            # Each element moves its channel's mean and variance, too, and so the others' y.
            through_mean = x_grad.mean(**EACH_CHANNEL)
            through_variance = normal * (x_grad * normal).mean(**EACH_CHANNEL)
            x_grad -= through_mean + through_variance
        return x_grad

    def update(self, lr):
        self.gamma -= lr * self.gamma_grad
        self.beta -= lr * self.beta_grad


if __name__ == "__main__":
    print(__doc__)
