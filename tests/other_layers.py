"""The layers once more: in float64, by sums over whole arrays, with the articles' signatures.

They are another person's layers, beside which ours must work and compute the same. They share no
line with cnn_numpy.py, and they are fast where definitions.py is too slow.
"""
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class MaxPoolingLayer:
    def __init__(self, k1, k2):
        self.k1, self.k2 = k1, k2

    def windows(self, x):
        B, C, H, W = x.shape
        x = x.reshape(B, C, H // self.k1, self.k1, W // self.k2, self.k2)
        x = x.transpose(0, 1, 2, 4, 3, 5)  # (B, C, H/k1, W/k2, k1, k2)
        return x.reshape(*x.shape[:4], self.k1 * self.k2)

    def forward(self, x):
        return self.windows(x).max(axis=4)

    def backward(self, x, last_x_grad):
        first = self.windows(x).argmax(axis=4)
        won = np.eye(self.k1 * self.k2)[first]  # (B, C, H/k1, W/k2, k1*k2), 1 where it won
        x_grad = last_x_grad[..., np.newaxis] * won
        x_grad = x_grad.reshape(*x_grad.shape[:4], self.k1, self.k2)
        return x_grad.transpose(0, 1, 2, 4, 3, 5).reshape(x.shape)


class ReLULayer:
    def forward(self, x):
        return np.where(x > 0, x, 0)

    def backward(self, x, last_x_grad):
        return np.where(x > 0, last_x_grad, 0)


class FlattenLayer:
    def forward(self, x):
        return x.reshape(len(x), -1)

    def backward(self, x, last_x_grad):
        return last_x_grad.reshape(x.shape)


class LinearLayer:
    def __init__(self, d1, d2):
        self.w, self.b = np.random.uniform(-0.1, 0.1, (d1, d2)), np.zeros((1, d2))

    def forward(self, x):
        return np.einsum("ni,io->no", x, self.w) + self.b

    def backward(self, x, last_x_grad):
        self.w_grad = np.einsum("ni,no->io", x, last_x_grad)
        self.b_grad = np.einsum("no->o", last_x_grad)[np.newaxis]
        return np.einsum("no,io->ni", last_x_grad, self.w)

    def update(self, lr):
        self.w, self.b = self.w - lr * self.w_grad, self.b - lr * self.b_grad


class ConvolutionLayer:
    def __init__(self, c1, c2, k1, k2):
        self.k, self.b = np.random.uniform(-0.2, 0.2, (c2, c1, k1, k2)), np.zeros((1, c2, 1, 1))

    def patches(self, x):
        return sliding_window_view(x, self.k.shape[2:], (2, 3))  # (B, C, o1, o2, k1, k2)

    def forward(self, x):
        y = np.einsum("ncijrs,ocrs->noij", self.patches(x), self.k, optimize=True)
        return y + self.b

    def backward(self, x, last_x_grad):
        self.k_grad = np.einsum("ncijrs,noij->ocrs", self.patches(x), last_x_grad, optimize=True)
        self.b_grad = np.einsum("noij->o", last_x_grad).reshape(self.b.shape)
        k1, k2 = self.k.shape[2:]
        border = [(0, 0), (0, 0), (k1 - 1, k1 - 1), (k2 - 1, k2 - 1)]
        places = self.patches(np.pad(last_x_grad, border))  # where a pixel was under the kernel
        turned = self.k[:, :, ::-1, ::-1]  # the last place was under the first pixel of the kernel
        return np.einsum("noijrs,ocrs->ncij", places, turned, optimize=True)

    def update(self, lr):
        self.k, self.b = self.k - lr * self.k_grad, self.b - lr * self.b_grad
