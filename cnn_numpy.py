"""A convolutional network for handwritten digits in plain NumPy.

It follows the three-part series at ww-rm.github.io (/posts/2023/10/13/cnn-numpy-1/, then
/10/14/cnn-numpy-2/ and /10/15/cnn-numpy-3/) in order, names and symbols: B batch, C channels,
H and W height and width; c1 and c2 channels in and out, k1 and k2 kernel height and width,
o1 and o2 output height and width; d1 and d2 features in and out; L the loss.

How the arrays lie in memory, and why: an array of shape (B, C, H, W) is a transposed view of
memory ordered (C, H, W, B), "batch last". Every slice that convolution and pooling take is then
made of long contiguous runs, which is what a processor reads fastest. NumPy's element-wise
functions keep that order, convolution and the linear layer's backward give their results in it,
and the images are brought into it once a batch. No value depends on it.
"""
# The series fixes a run with np.random.seed, so all draws come from that global generator:
# ruff: noqa: NPY002

import argparse
import math
import sys
import time
from functools import partial
from numbers import Integral, Real
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import classification_report


def load_dataset(folder, shuffle=False):
    """Read a folder of images, one subfolder "0" to "9" for each digit (series, part 1).

    Files are read in the order of their names. Hidden files, Thumbs.db and desktop.ini are
    skipped, colours are turned into grey, transparent pixels into black.

    Args:
        folder: Path of the folder that holds the ten subfolders.
        shuffle: Whether to permute the images, with NumPy's global generator.

    Returns:
        inputs, float32 (B, 1, H, W), pixels from 0 (black) to 1 (white), and targets,
        integers (B,), the digits.

    Raises:
        FileNotFoundError: A folder is missing, or a digit's folder holds no image.
        ValueError: A file is not a readable image, or two images differ in size.
    """
    folder = Path(folder)
    paths, images, targets = [], [], []
    for digit in range(10):
        for path in _image_paths(folder / str(digit)):
            image = _read_image(path)
            if images and image.shape != images[0].shape:
                raise ValueError(f"{path} has (height, width) {image.shape}, expected that of "
                                 f"{paths[0]}, {images[0].shape}")
            paths.append(path)
            images.append(image)
            targets.append(digit)
    inputs, targets = np.stack(images)[:, np.newaxis], np.array(targets)
    if shuffle:
        order = np.random.permutation(len(targets))
        inputs, targets = inputs[order], targets[order]
    return inputs, targets


def _image_paths(folder):
    """Return the paths of a digit's images in the order of their names."""
    for needed in (folder.parent.parent, folder.parent, folder):
        if not needed.is_dir():
            raise FileNotFoundError(f"{needed} is missing or not a folder")
    paths = [path for path in sorted(folder.iterdir(), key=lambda path: path.name)
             if not path.name.startswith(".")
             and path.name.lower() not in ("thumbs.db", "desktop.ini")]
    if not paths:
        raise FileNotFoundError(f"{folder} is empty, expected at least one image")
    return paths


def _read_image(path):
    """Return an image as grey float32 pixels 0..1, (H, W)."""
    try:
        image = plt.imread(path)
    except Exception as error:  # which one it is depends on where in the file the reader fails
        raise ValueError(f"{path} is not a readable image: {error}") from error
    if image.dtype.kind != "f":
        image = image / np.iinfo(image.dtype).max
    if image.ndim == 3:
        colour, opacity = image[..., :3], image[..., 3:]
        image = colour @ [0.299, 0.587, 0.114]
        if opacity.size:
            image = image * opacity[..., 0]
    return image.astype(np.float32)


class NetworkLayer:
    """What every layer offers: y = f(x) and, given dL/dy, dL/dx (series, part 1).

    A layer keeps nothing between the two: whoever calls backward hands it the same x again.
    """

    def forward(self, x):
        """Return y = f(x)."""
        raise NotImplementedError

    def backward(self, x, last_x_grad):
        """Return dL/dx, given the x of the forward pass and last_x_grad, which is dL/dy."""
        raise NotImplementedError


class MaxPoolingLayer(NetworkLayer):
    """The largest element of each k1 x k2 window; the windows do not overlap (series, part 1).

    dL/dX is dL/dY at the one element of the window that won, and 0 at the others. Of equal
    elements the first in row order wins.

    Args:
        k1, k2: Height and width of the window, at least 1.

    Shapes: x (B, C, H, W) to y (B, C, H/k1, W/k2), of the same dtype.

    Raises:
        ValueError: A size below 1; x without four axes or not divisible into windows; a
            last_x_grad whose shape is not that of y.
    """

    def __init__(self, k1, k2):
        """Set the size of the window, which is the stride as well."""
        if min(k1, k2) < 1:
            raise ValueError(f"k1, k2 = {k1}, {k2}, expected integers of at least 1")
        self.k1 = k1
        self.k2 = k2

    def forward(self, x):
        """Return the maxima, (B, C, H/k1, W/k2)."""
        if x.ndim != 4 or x.shape[2] % self.k1 or x.shape[3] % self.k2:
            raise ValueError(f"x has shape {x.shape}, expected (B, C, H, W) with H a multiple of "
                             f"{self.k1} and W a multiple of {self.k2}")
        first, *others = self._window_elements(x)
        y = first.copy(order="K")
        for element in others:
            np.maximum(y, element, out=y)
        return y

    def backward(self, x, last_x_grad):
        """Return dL/dX, (B, C, H, W): each window's gradient at its winner."""
        y = self.forward(x)
        if last_x_grad.shape != y.shape:
            raise ValueError(f"last_x_grad has shape {last_x_grad.shape}, expected that of the "
                             f"output, {y.shape}")
        x_grad = np.empty_like(x, dtype=last_x_grad.dtype)
        undecided = np.ones_like(y, dtype=bool)
        *grads, last_grad = self._window_elements(x_grad)
        for element, element_grad in zip(self._window_elements(x), grads):
            won = (element == y) & undecided
            undecided ^= won
            np.multiply(last_x_grad, won, out=element_grad)
        np.multiply(last_x_grad, undecided, out=last_grad)  # no other has won there
        return x_grad

    def _window_elements(self, x):
        """Return, for each place in the window, a view of it in all windows, in row order."""
        return [x[:, :, i::self.k1, j::self.k2]  # (B, C, H/k1, W/k2)
                for i in range(self.k1) for j in range(self.k2)]


class ReLULayer(NetworkLayer):
    """y = max(x, 0), of any shape (series, part 1).

    dL/dx is dL/dy where x > 0, and 0 elsewhere.

    Raises:
        ValueError: A last_x_grad whose shape is not that of x.
    """

    def forward(self, x):
        """Return max(x, 0)."""
        return np.maximum(x, 0)

    def backward(self, x, last_x_grad):
        """Return dL/dx = dL/dy (x > 0)."""
        if last_x_grad.shape != x.shape:
            raise ValueError(f"last_x_grad has shape {last_x_grad.shape}, expected that of the "
                             f"output, {x.shape}")
        return last_x_grad * (x > 0)


class FlattenLayer(NetworkLayer):
    """Make the axes from start to end one (series, part 1).

    Args:
        start: The first axis; negative ones count from the end.
        end: The last axis, included.

    Shapes: x (B, C, H, W) to y (B, C*H*W) with the defaults, of the same dtype.

    Raises:
        ValueError: x without these axes, or end before start; a last_x_grad whose shape is not
            that of y.
    """

    def __init__(self, start=1, end=-1):
        """Set the first and the last axis."""
        self.start = start
        self.end = end

    def forward(self, x):
        """Return x in its new shape."""
        return x.reshape(self._output_shape(x))

    def backward(self, x, last_x_grad):
        """Return dL/dx: the same numbers in the shape of x."""
        if last_x_grad.shape != self._output_shape(x):
            raise ValueError(f"last_x_grad has shape {last_x_grad.shape}, expected that of the "
                             f"output, {self._output_shape(x)}")
        return last_x_grad.reshape(x.shape)

    def _output_shape(self, x):
        """Return the shape of y."""
        axes = range(x.ndim)  # axes[-1] is the last axis, counted from the start
        if not (-x.ndim <= self.start < x.ndim and -x.ndim <= self.end < x.ndim
                and axes[self.start] <= axes[self.end]):
            raise ValueError(f"x has shape {x.shape}, expected the axes {self.start} to "
                             f"{self.end} among its axes")
        start, end = axes[self.start], axes[self.end]
        return x.shape[:start] + (math.prod(x.shape[start:end + 1]),) + x.shape[end + 1:]


class ParamLayer(NetworkLayer):
    """A layer with parameters; backward also sets their gradients (series, part 2)."""

    def update(self, lr):
        """Take one step of gradient descent in place: p = p - lr dL/dp."""
        raise NotImplementedError


class LinearLayer(ParamLayer):
    """Fully connected layer, Z = X W + b (series, part 2).

    dL/db sums dL/dZ over the batch, dL/dW = X^T dL/dZ, dL/dX = dL/dZ W^T.

    w, float32 (d1, d2), and b, float32 (1, d2), are drawn from U(-1/sqrt(d1), 1/sqrt(d1)): with
    d1 terms in a sum, wider draws give outputs so large that ReLUs die in the first steps.

    Args:
        d1, d2: Features in and out, at least 1.

    Shapes: x (B, d1) to z (B, d2).

    Raises:
        ValueError: A size below 1; x that is not (B, d1); a last_x_grad that is not (B, d2).
    """

    def __init__(self, d1, d2):
        """Draw the parameters from NumPy's global generator."""
        if min(d1, d2) < 1:
            raise ValueError(f"d1, d2 = {d1}, {d2}, expected integers of at least 1")
        bound = 1 / math.sqrt(d1)
        self.w = np.random.uniform(-bound, bound, (d1, d2)).astype(np.float32)
        self.b = np.random.uniform(-bound, bound, (1, d2)).astype(np.float32)
        self.w_grad = np.zeros_like(self.w)
        self.b_grad = np.zeros_like(self.b)

    def forward(self, x):
        """Return Z = X W + b, (B, d2)."""
        self._output_shape(x)
        return x @ self.w + self.b

    def backward(self, x, last_x_grad):
        """Return dL/dX = dL/dZ W^T, (B, d1), and set w_grad and b_grad."""
        if last_x_grad.shape != self._output_shape(x):
            raise ValueError(f"last_x_grad has shape {last_x_grad.shape}, expected that of the "
                             f"output, {self._output_shape(x)}")
        self.b_grad = last_x_grad.sum(axis=0, keepdims=True)
        self.w_grad = x.T @ last_x_grad
        return (self.w @ last_x_grad.T).T  # batch last in memory, as dL/dZ W^T would not be

    def update(self, lr):
        """Take one step of gradient descent in place."""
        self.w -= lr * self.w_grad
        self.b -= lr * self.b_grad

    def _output_shape(self, x):
        """Return the shape of z."""
        if x.ndim != 2 or x.shape[1] != len(self.w):
            raise ValueError(f"x has shape {x.shape}, expected (B, {len(self.w)})")
        return len(x), self.w.shape[1]


class ConvolutionLayer(ParamLayer):
    """Convolution with stride 1 and without padding, Y = X * K + b (series, part 2).

    As a matrix product, Y' = K' X' (the series' Y' = X' K'^T, transposed): a row of K' is one
    kernel, a column of X' one patch of the image, both in the order k1, c1, k2. All of X' would
    not fit into the processor's second-level cache. So x is unfolded along its width alone, into
    strips, and the patches of an output row are k1 strips that follow each other in memory.

    dL/db sums dL/dY over the batch and the pixels, dL/dK' = dL/dY' X'^T, and dL/dX is
    K'^T dL/dY' folded back: each number is added to the pixel it was unfolded from. The series
    gets the same dL/dX from the large, mostly zero K''.

    k, float32 (c2, c1, k1, k2), and b, float32 (1, c2, 1, 1), are drawn from U(-1/sqrt(n),
    1/sqrt(n)): with n = c1 k1 k2 terms in a sum, wider draws give outputs so large that ReLUs
    die in the first steps.

    Args:
        c1, c2: Channels in and out, at least 1.
        k1, k2: Height and width of the kernel, at least 1.

    Shapes: x (B, c1, H, W) to y (B, c2, o1, o2), o1 = H - k1 + 1 and o2 = W - k2 + 1.

    Raises:
        ValueError: A size below 1; x that is not (B, c1, H, W) or smaller than the kernel; a
            last_x_grad whose shape is not that of y.
    """

    def __init__(self, c1, c2, k1, k2):
        """Draw the parameters from NumPy's global generator."""
        if min(c1, c2, k1, k2) < 1:
            raise ValueError(f"c1, c2, k1, k2 = {c1}, {c2}, {k1}, {k2}, expected integers of at "
                             "least 1")
        bound = 1 / math.sqrt(c1 * k1 * k2)
        self.k = np.random.uniform(-bound, bound, (c2, c1, k1, k2)).astype(np.float32)
        self.b = np.random.uniform(-bound, bound, (1, c2, 1, 1)).astype(np.float32)
        self.k_grad = np.zeros_like(self.k)
        self.b_grad = np.zeros_like(self.b)

    def forward(self, x):
        """Return Y, (B, c2, o1, o2)."""
        B, c2, o1, o2 = self._output_shape(x)
        kernel = self.k.transpose(0, 2, 1, 3).reshape(c2, -1)  # (c2, k1*c1*k2)
        y = np.empty((c2, o1, o2 * B), np.result_type(x, self.k, self.b))
        for i, columns, patches in self._patches(self._strips(x)):
            np.matmul(kernel, patches, out=y[:, i, columns])
        y = y.reshape(c2, o1, o2, B).transpose(3, 0, 1, 2)
        y += self.b
        return y

    def backward(self, x, last_x_grad):
        """Return dL/dX, (B, c1, H, W), and set k_grad and b_grad."""
        self.set_grads(x, last_x_grad)
        B, c1, H, W = x.shape
        _, c2, o1, o2 = last_x_grad.shape
        k2 = self.k.shape[3]
        kernel = self.k.transpose(0, 2, 1, 3).reshape(c2, -1)  # (c2, k1*c1*k2)
        y_grad = last_x_grad.transpose(1, 2, 3, 0).reshape(c2, o1, o2 * B)
        strips_grad = np.zeros((H, c1 * k2, o2 * B), np.result_type(kernel, y_grad))
        for i, columns, patches_grad in self._patches(strips_grad):
            patches_grad += kernel.T @ y_grad[:, i, columns]
        strips_grad = strips_grad.reshape(H, c1, k2, o2, B)
        x_grad = np.zeros((c1, H, W, B), strips_grad.dtype).transpose(3, 0, 1, 2)
        for j in range(k2):
            x_grad[..., j:j + o2] += strips_grad[:, :, j].transpose(3, 1, 0, 2)  # (B, c1, H, o2)
        return x_grad

    def set_grads(self, x, last_x_grad):
        """Set k_grad and b_grad, all that backward does for a layer whose dL/dX nobody needs."""
        B, c2, o1, o2 = self._output_shape(x)
        if last_x_grad.shape != (B, c2, o1, o2):
            raise ValueError(f"last_x_grad has shape {last_x_grad.shape}, expected that of the "
                             f"output, {(B, c2, o1, o2)}")
        _, c1, k1, k2 = self.k.shape
        y_grad = last_x_grad.transpose(1, 2, 3, 0).reshape(c2, o1, o2 * B)
        k_grad = np.zeros((c2, k1 * c1 * k2), np.result_type(x, y_grad))
        for i, columns, patches in self._patches(self._strips(x)):
            k_grad += y_grad[:, i, columns] @ patches.T
        self.k_grad = k_grad.reshape(c2, k1, c1, k2).transpose(0, 2, 1, 3)
        # twice as fast as last_x_grad.sum
        self.b_grad = np.einsum("bchw->c", last_x_grad).reshape(self.b.shape)

    def update(self, lr):
        """Take one step of gradient descent in place."""
        self.k -= lr * self.k_grad
        self.b -= lr * self.b_grad

    def _output_shape(self, x):
        """Return the shape of y."""
        c2, c1, k1, k2 = self.k.shape
        if x.ndim != 4 or x.shape[1] != c1 or x.shape[2] < k1 or x.shape[3] < k2:
            raise ValueError(f"x has shape {x.shape}, expected (B, {c1}, H, W) with H at least "
                             f"{k1} and W at least {k2}")
        return len(x), c2, x.shape[2] - k1 + 1, x.shape[3] - k2 + 1

    def _strips(self, x):
        """Return x unfolded along its width, (H, c1*k2, o2*B)."""
        B, _, _, o2 = self._output_shape(x)
        H, c1, k2 = x.shape[2], x.shape[1], self.k.shape[3]
        strips = np.empty((H, c1, k2, o2, B), x.dtype)
        for j in range(k2):
            strips[:, :, j] = x[..., j:j + o2].transpose(2, 1, 3, 0)  # (H, c1, o2, B)
        return strips.reshape(H, c1 * k2, o2 * B)

    def _patches(self, strips):
        """Yield output row, columns in it and their patches (k1*c1*k2, width), a view to add to."""
        size, k1 = self.k[0].size, self.k.shape[2]
        width = max(1, 60_000 // size)  # 240 KB of float32, which the second-level cache holds
        for start in range(0, strips.shape[2], width):
            columns = slice(start, start + width)
            for i in range(len(strips) - k1 + 1):
                yield i, columns, strips[i:i + k1, :, columns].reshape(size, -1)


class CrossEntropyLoss:
    """Softmax and cross-entropy, L = -mean(log p[y]), p = softmax(x) (series, part 2).

    dL/dx = (p - q) / B, where q is 1 at the label and 0 elsewhere. The row's largest logit is
    subtracted first, which does not change p and keeps exp from overflowing.

    Shapes: x, logits of C classes, float (B, C); y, labels 0..C-1, integer (B,).

    Raises:
        ValueError: x that is not (B, C) or is empty; y that is not (B,) or has a label outside
            0..C-1.
        TypeError: y that is not of an integer type.
    """

    def forward(self, x, y):
        """Return L, the mean over the batch, a float."""
        self._check(x, y)
        x = x - x.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(y)), y]))

    def backward(self, x, y):
        """Return dL/dx, (B, C)."""
        self._check(x, y)
        x_grad = self.softmax(x)
        x_grad[np.arange(len(y)), y] -= 1
        return x_grad / len(y)

    @staticmethod
    def softmax(x):
        """Return p = exp(x) / sum(exp(x)), the probabilities of each row's classes, (B, C)."""
        x = np.exp(x - x.max(axis=1, keepdims=True))
        return x / x.sum(axis=1, keepdims=True)

    @staticmethod
    def _check(x, y):
        """Raise an error unless y labels the rows of x."""
        if x.ndim != 2 or x.size == 0:
            raise ValueError(f"x has shape {x.shape}, expected (B, C) with B and C at least 1")
        if y.shape != x.shape[:1]:
            raise ValueError(f"y has shape {y.shape}, expected {x.shape[:1]}, a label for each "
                             "row of x")
        if y.dtype.kind not in "iu":
            raise TypeError(f"y has dtype {y.dtype}, expected integers")
        if y.min() < 0 or y.max() >= x.shape[1]:
            raise ValueError(f"y has labels from {y.min()} to {y.max()}, expected 0 to "
                             f"{x.shape[1] - 1}")


class ConvolutionNeuralNetwork:
    """The network of the series: two convolutions and a linear layer (series, part 3).

    Attributes:
        layers: The layers, in the order of the forward pass.
        loss_func: The loss, a CrossEntropyLoss.
        layer_inputs: The input of each layer in the last forward pass with keepgrad, or empty.
    """

    def __init__(self):
        """Make the layers; their parameters come from NumPy's global generator."""
        self.layers = [
            ConvolutionLayer(1, 4, 5, 5),  # (B, 4, 24, 24)
            MaxPoolingLayer(2, 2),  # (B, 4, 12, 12)
            ReLULayer(),
            ConvolutionLayer(4, 16, 3, 3),  # (B, 16, 10, 10)
            MaxPoolingLayer(2, 2),  # (B, 16, 5, 5)
            ReLULayer(),
            FlattenLayer(),  # (B, 400)
            LinearLayer(400, 10),
        ]
        self.loss_func = CrossEntropyLoss()
        self.layer_inputs = []

    def forward(self, x, keepgrad=False):
        """Return the logits of a batch of images.

        Args:
            x: Images, float (B, 1, 28, 28), pixels from 0 to 1.
            keepgrad: Whether to keep each layer's input in layer_inputs, for backward.

        Returns:
            Logits, (B, 10), of the dtype of x and the parameters.

        Raises:
            ValueError: No image, or images of another shape.
            TypeError: Images that are not floats.
        """
        self._check_images(x)
        x = x.transpose(1, 2, 3, 0).copy().transpose(3, 0, 1, 2)  # batch last in memory
        if keepgrad:
            self.layer_inputs = []  # frees the last batch's memory for this one
        layer_inputs = []
        for layer in self.layers:
            layer_inputs.append(x)
            x = layer.forward(x)
        if keepgrad:
            self.layer_inputs = layer_inputs
        return x

    def backward(self, last_x_grad):
        """Set the gradients of all parameters, after a forward pass with keepgrad.

        Args:
            last_x_grad: dL/dx of the logits, (B, 10).

        Returns:
            dL/dx of the images, (B, 1, 28, 28).

        Raises:
            RuntimeError: No forward pass with keepgrad before.
            ValueError: A last_x_grad of another shape.
        """
        if not self.layer_inputs:
            raise RuntimeError("layer_inputs is empty, expected forward(x, keepgrad=True) first")
        for layer, x in zip(self.layers[::-1], self.layer_inputs[::-1]):
            last_x_grad = layer.backward(x, last_x_grad)
        return last_x_grad

    def update(self, lr):
        """Take one step of gradient descent in every layer with parameters.

        Args:
            lr: Learning rate, a finite number above 0.

        Raises:
            ValueError: Any other learning rate.
        """
        if not (isinstance(lr, Real) and 0 < lr < math.inf):
            raise ValueError(f"lr = {lr!r}, expected a finite number above 0")
        for layer in self.layers:
            if hasattr(layer, "update"):
                layer.update(lr)

    def train(self, train_x, train_y, batch_size, epochs, lr):
        """Train for one pass over the data, in the order given.

        Args:
            train_x: Images, float (B, 1, 28, 28), pixels from 0 to 1.
            train_y: Labels, integer (B,), 0 to 9.
            batch_size: Images in a batch, at least 1; the last batch may be smaller.
            epochs: Not used; the series' signature has it.
            lr: Learning rate, a finite number above 0.

        Returns:
            The mean loss over the images, a float, each batch's before its update.

        Raises:
            ValueError: No image, images of another shape, numbers of images and labels that
                differ, a label outside 0..9, a batch size or learning rate out of range.
            TypeError: Images that are not floats, or labels that are not integers.
            FloatingPointError: The loss is not finite any more; the message names the batch.
        """
        loss_sum = 0.0
        try:
            # a diverging pass overflows first; the loss then says so in a clear error
            with np.errstate(over="ignore", invalid="ignore"):
                for batch, x, y in self._batches(train_x, train_y, batch_size):
                    logits = self.forward(x, keepgrad=True)
                    loss_sum += self._finite_loss(logits, y, batch) * len(y)
                    # backward, but each input is freed once it is used, and the gradient of the
                    # images, which nobody needs, is left out where the first layer can do so
                    x_grad = self.loss_func.backward(logits, y)
                    for layer in self.layers[:0:-1]:
                        x_grad = layer.backward(self.layer_inputs.pop(), x_grad)
                    first = self.layers[0]
                    getattr(first, "set_grads", first.backward)(self.layer_inputs.pop(), x_grad)
                    self.update(lr)
        finally:
            self.layer_inputs = []
        return loss_sum / len(train_y)

    def test(self, test_x, test_y, batch_size):
        """Return the mean loss over the images.

        Args:
            test_x: Images, float (B, 1, 28, 28), pixels from 0 to 1.
            test_y: Labels, integer (B,), 0 to 9.
            batch_size: Images to work on at a time, at least 1.

        Returns:
            The mean loss, a float.

        Raises:
            ValueError, TypeError, FloatingPointError: As in train.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            loss_sum = sum(self._finite_loss(self.forward(x), y, batch) * len(y)
                           for batch, x, y in self._batches(test_x, test_y, batch_size))
        return loss_sum / len(test_y)

    def predict(self, x):
        """Return the probabilities of the ten digits, the softmax of the logits.

        Args:
            x: Images, float (B, 1, 28, 28), pixels from 0 to 1.

        Returns:
            Probabilities from 0 to 1, (B, 10), of the dtype of x and the parameters.

        Raises:
            ValueError: No image, or images of another shape.
            TypeError: Images that are not floats.
        """
        self._check_images(x)
        pieces = (x[start:start + 100] for start in range(0, len(x), 100))
        return np.concatenate([CrossEntropyLoss.softmax(self.forward(piece)) for piece in pieces])

    def save(self, path):
        """Write the parameters to a file, each under its layer's number: k0, b0, k3, b3, w7, b7.

        It writes to a second file, path with ".part", and then renames that: an interrupted save
        leaves an older file as it was.

        Args:
            path: Path of the file, in NumPy's format npz; no suffix is added.

        Raises:
            OSError: The file cannot be written.
        """
        unfinished = Path(f"{path}.part")
        try:
            with open(unfinished, "wb") as file:
                np.savez(file, **{key: getattr(layer, name)
                                  for key, (layer, name) in self._parameters().items()})
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def load(self, path):
        """Take the parameters from a file that save has written; an error changes none of them.

        Args:
            path: Path of the file.

        Raises:
            OSError: The file is missing or cannot be read.
            ValueError: The file was not written by save, or holds parameters of other shapes.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        except OSError:
            raise
        except Exception as error:  # which one it is depends on what the file holds instead
            raise ValueError(f"{path} is not a file that save has written") from error
        parameters = self._parameters()
        shapes = {key: array.shape for key, array in arrays.items() if array.dtype.kind == "f"}
        expected = {key: getattr(layer, name).shape for key, (layer, name) in parameters.items()}
        if shapes != expected:
            raise ValueError(f"{path} holds parameters of shapes {shapes}, expected {expected}")
        for key, (layer, name) in parameters.items():
            setattr(layer, name, arrays[key])

    def _parameters(self):
        """Return, for each name in a file, the layer and its attribute: k0 is layers[0].k."""
        return {f"{name}{number}": (layer, name) for number, layer in enumerate(self.layers)
                for name in ("k", "w", "b") if hasattr(layer, name)}

    def _batches(self, images, labels, batch_size):
        """Yield the batches, each as its name, images and labels."""
        self._check_images(images)
        if len(images) != len(labels):
            raise ValueError(f"{len(labels)} labels for {len(images)} images, expected as many")
        if not (isinstance(batch_size, Integral) and batch_size >= 1):
            raise ValueError(f"batch_size = {batch_size!r}, expected an integer of at least 1")
        starts = range(0, len(images), batch_size)
        for number, start in enumerate(starts, 1):
            batch = slice(start, start + batch_size)
            yield f"batch {number} of {len(starts)}", images[batch], labels[batch]

    def _finite_loss(self, logits, y, batch):
        """Return the loss, or raise FloatingPointError if the training has diverged."""
        loss = self.loss_func.forward(logits, y)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of {batch} is {loss}: the images are not finite or "
                                     "the training has diverged, try a smaller learning rate")
        return loss

    @staticmethod
    def _check_images(x):
        """Raise an error unless x holds images that the network takes."""
        if x.ndim != 4 or x.shape[1:] != (1, 28, 28) or len(x) == 0:
            raise ValueError(f"the images have shape {x.shape}, expected (B, 1, 28, 28) with B at "
                             "least 1")
        if x.dtype.kind != "f":
            raise TypeError(f"the images have dtype {x.dtype}, expected floats from 0 to 1")


class _OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def _argument_type(convert, accepts, expected):
    """Return a function that converts an argument's text, or says what was expected."""
    def parse(text):
        try:
            value = convert(text)
            accepted = accepts(value)
        except (ValueError, OSError):  # an OSError by a path that is too long
            accepted = False
        if not accepted:
            raise argparse.ArgumentTypeError(f"{text!r}, expected {expected}")
        return value
    return parse


def _parse_arguments():
    """Return the arguments of the run."""
    count = _argument_type(int, lambda n: n >= 1, "an integer of at least 1")
    seed = _argument_type(int, lambda n: 0 <= n < 2**32, "an integer from 0 to 4294967295")
    rate = _argument_type(float, lambda r: 0 < r < math.inf, "a finite number above 0")
    file = _argument_type(Path, lambda path: path.parent.is_dir() and not path.is_dir(),
                          "a file in a folder that exists")
    parser = _OneLineParser(
        description="Train a small convolutional network on images of handwritten digits, show "
                    "its losses, save their curve as loss.png and report what it learned.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=count, default=200,
                        help="passes over the training images")
    parser.add_argument("--batch-size", type=count, default=100,
                        help="images for each step of gradient descent")
    parser.add_argument("--lr", type=rate, default=0.1, help="learning rate, the length of a step")
    parser.add_argument("--seed", type=seed, default=1234,
                        help="where the random numbers start: the same seed, the same run")
    parser.add_argument("--data", type=Path, default=Path("cv-data"),
                        help="folder that holds train and test, each with a folder per digit")
    parser.add_argument("--save", type=file, metavar="FILE",
                        help="file to write the trained network to")
    return parser.parse_args()


def _print_title(title):
    """Print a line that starts a part of the output."""
    print(f"{'=' * 15} {title} {'=' * 15}", flush=True)


def _save_curve(losses, path):
    """Draw the losses over the epochs into a PNG file."""
    # The first loss is so high that it flattens the rest; alone it is all there is to show.
    first = 1 if len(losses) > 1 else 0
    epochs = range(first + 1, len(losses) + 1)
    train_losses, test_losses = zip(*losses[first:])
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, train_losses, marker=".", label="training images")
    axes.plot(epochs, test_losses, marker=".", label="test images")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(title="Loss of the network over the epochs", xlabel="epoch",
             ylabel="mean cross-entropy loss")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def _run(args):
    """Train, draw and report; return the exit status."""
    np.random.seed(args.seed)
    train_x, train_y = load_dataset(args.data / "train", shuffle=True)
    test_x, test_y = load_dataset(args.data / "test")
    print(train_x.shape, train_y.shape, flush=True)
    print(test_x.shape, test_y.shape, flush=True)

    network = ConvolutionNeuralNetwork()
    losses = []  # of training and test images, a pair for each epoch
    status = 0
    _print_title("Begin Train")
    begin = time.perf_counter()
    try:
        for epoch in range(1, args.epochs + 1):
            train_loss = network.train(train_x, train_y, args.batch_size, args.epochs, args.lr)
            test_loss = network.test(test_x, test_y, args.batch_size)
            losses.append((train_loss, test_loss))
            print(f"Epoch: {epoch:3d} Train Loss: {train_loss:.4f} Test Loss: {test_loss:.4f}",
                  flush=True)
    except KeyboardInterrupt:
        print("interrupted: here is what was learned so far", file=sys.stderr, flush=True)
        status = 130
    except FloatingPointError as error:
        raise FloatingPointError(f"epoch {epoch}: {error} than {args.lr}") from error
    _print_title(f"End Train: {(time.perf_counter() - begin) / 60:.2f} min")

    files = {}
    if losses:
        files["loss.png"] = partial(_save_curve, losses)
    if args.save:
        files[args.save] = network.save
    for path, save in files.items():
        try:
            save(path)
        except OSError as error:
            print(f"{path} cannot be written: {error}", file=sys.stderr, flush=True)
            status = status or 1
    for name, x, y in (("Train", train_x, train_y), ("Test", test_x, test_y)):
        _print_title(f"Classification Report: {name}")
        print(classification_report(y, network.predict(x).argmax(axis=1), digits=4,
                                    zero_division=0), flush=True)
    return status


def main():
    """Run the script, and say what is wrong with its data in one line."""
    args = _parse_arguments()
    try:
        return _run(args)
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"cnn_numpy.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
