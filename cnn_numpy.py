# SPDX-License-Identifier: 0BSD
"""A convolutional network for handwritten digits in plain NumPy.

It follows the three-part series at ww-rm.github.io (/posts/2023/10/13/cnn-numpy-1/, then
/10/14/cnn-numpy-2/ and /10/15/cnn-numpy-3/): B batch, C channels, H and W height and width;
c1 and c2 channels in and out, k1 and k2 kernel height and width, o1 and o2 output height and
width; d1 and d2 features in and out; L the loss.
"""
import argparse
import io
import math
import os
import re
import sys
import time
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.figure import Figure
from PIL import Image  # Pillow, which matplotlib requires and brings
from sklearn.metrics import classification_report


def load_dataset(folder, shuffle=False):
    """Read a folder of images, one subfolder "0" to "9" for each digit (series, part 1).

    Returns inputs, float32 (B, 1, H, W), pixels from 0 (black) to 1 (white), and targets,
    integers (B,), by digit and file name, or shuffled with NumPy's global generator. Colours
    become grey and transparent pixels black; hidden files, Thumbs.db and desktop.ini are skipped.
    Refused: a subfolder that is missing or empty (OSError), a file that is not an image, has more
    than 8 bits a channel or one transparent grey, and images of two sizes (ValueError).
    """
    images, targets = [], []
    for digit in range(10):
        subfolder = Path(folder, str(digit)).absolute()  # for errors that name all of it
        for file in sorted(os.scandir(subfolder), key=lambda file: file.name):
            if file.name.startswith(".") or file.name.lower() in ("thumbs.db", "desktop.ini"):
                continue
            images.append(_read_image(file))
            targets.append(digit)
            if images[-1].shape != images[0].shape:
                raise ValueError(f"{file.path} has (height, width) {images[-1].shape}, "
                                 f"expected {images[0].shape} like the first image")
        if digit not in targets:
            raise FileNotFoundError(f"{subfolder} is empty, expected at least one image")
    order = np.random.permutation(len(targets)) if shuffle else slice(None)
    return np.stack(images)[order, np.newaxis] / np.float32(255), np.array(targets)[order]


def _read_image(file):
    """Return the grey pixels of an image, uint8 (H, W)."""
    try:
        if not file.is_file():
            raise ValueError("it is not a regular file")
        with Image.open(file.path) as image:
            # Pillow would clip integers and floats to 8 bits and cut 16-bit colours to 8
            if image.mode[0] in "IF" or re.search(";16[BLN]", str(image.tile)):
                raise ValueError("it has more than 8 bits a channel")
            if image.mode in "1L" and "transparency" in image.info:  # wrong below 8 bits
                raise ValueError("one of its greys is transparent")
            if image.mode != "L":
                black = Image.new("RGBA", image.size, "black")
                image = Image.alpha_composite(black, image.convert("RGBA"))
            return np.asarray(image.convert("L"))
    except MemoryError:
        raise
    except Exception as error:  # which one it is depends on where in the file Pillow fails
        raise ValueError(f"{file.path} is not a readable image: {error}") from error


class NetworkLayer:
    """What every layer offers: y = f(x) and, given dL/dy, dL/dx (series, part 1).

    A layer keeps nothing: backward is given the x of the forward pass again, and last_x_grad,
    which is dL/dy. Refused with a ValueError: an x of a shape that the layer cannot take, and a
    last_x_grad whose shape is not that of y.
    """

    def forward(self, x):
        """Return y."""
        raise NotImplementedError

    def backward(self, x, last_x_grad):
        """Return dL/dx; a layer with parameters also sets their gradients."""
        raise NotImplementedError

    def _shapes(self, x):
        """Return the shape that x should have, its own where it fits, and the shape of y."""
        return x.shape, x.shape

    def _check(self, x, last_x_grad=None):
        """Return the shape of y; refuse an x or last_x_grad that NumPy might broadcast."""
        x_shape, y_shape = self._shapes(x)
        for name, array, shape in ("x", x, x_shape), ("last_x_grad", last_x_grad, y_shape):
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
        return y_shape


class MaxPoolingLayer(NetworkLayer):
    """The largest element of each k1 x k2 window; the windows do not overlap (series, part 1).

    dL/dX is dL/dY at each window's winner, the first in row order if several are equal, and 0
    elsewhere. x (B, C, H, W) becomes y (B, C, H/k1, W/k2), without remainders.
    """

    def __init__(self, k1, k2):
        self.k1, self.k2 = k1, k2

    def forward(self, x):
        self._check(x)
        return reduce(np.maximum, self._window_elements(x))

    def backward(self, x, last_x_grad):
        self._check(x, last_x_grad)
        y = self.forward(x)
        x_grad = np.empty_like(x, dtype=last_x_grad.dtype)
        undecided = np.ones_like(y, dtype=bool)
        for element, element_grad in zip(self._window_elements(x), self._window_elements(x_grad)):
            won = undecided & (element == y)
            undecided &= ~won
            element_grad[...] = last_x_grad * won
        return x_grad

    def _window_elements(self, x):
        """Return k1*k2 views of x, number i*k2 + j being element (i, j) of every window."""
        return [x[:, :, i::self.k1, j::self.k2]  # (B, C, H/k1, W/k2)
                for i in range(self.k1) for j in range(self.k2)]

    def _shapes(self, x):
        B, C, H, W = x.shape
        o1, o2 = max(1, H // self.k1), max(1, W // self.k2)
        return (B, C, o1 * self.k1, o2 * self.k2), (B, C, o1, o2)


class ReLULayer(NetworkLayer):
    """y = max(x, 0), of any shape (series, part 1). dL/dx is dL/dy where x > 0, else 0."""

    def forward(self, x):
        return np.maximum(x, 0)

    def backward(self, x, last_x_grad):
        self._check(x, last_x_grad)
        return last_x_grad * (x > 0)


class FlattenLayer(NetworkLayer):
    """Make the axes from start to end, both included, one (series, part 1).

    Negative axes count from the end: by default x (B, C, H, W) becomes y (B, C*H*W).
    """

    def __init__(self, start=1, end=-1):
        self.start, self.end = start, end

    def forward(self, x):
        return x.reshape(self._check(x))

    def backward(self, x, last_x_grad):
        self._check(x, last_x_grad)
        return last_x_grad.reshape(x.shape)

    def _shapes(self, x):
        start, end = (axis if axis >= 0 else x.ndim + axis for axis in (self.start, self.end))
        if not 0 <= start <= end < x.ndim:
            raise ValueError(f"x has shape {x.shape}, expected axes {self.start} to {self.end}")
        length = math.prod(x.shape[start:end + 1])
        return x.shape, (*x.shape[:start], length, *x.shape[end + 1:])


class ParamLayer(NetworkLayer):
    """A layer with parameters; backward also sets their gradients (series, part 2).

    Parameters start as float32 from U(-1/sqrt(n), 1/sqrt(n)) for sums of n terms: wider draws give
    outputs so large that ReLUs die in the first steps. Parameters in float64 work as well.
    """

    def update(self, lr):
        """Take one step of gradient descent in place: p = p - lr dL/dp."""
        raise NotImplementedError

    @staticmethod
    def _draw(n, shape):
        """Return a parameter, drawn from NumPy's global generator, and a gradient of zeros."""
        bound = 1 / math.sqrt(n)
        parameter = np.random.uniform(-bound, bound, shape).astype(np.float32)
        return parameter, np.zeros_like(parameter)


class LinearLayer(ParamLayer):
    """Fully connected layer, Z = X W + b (series, part 2).

    dL/db sums dL/dZ over the batch, dL/dW = X^T dL/dZ, dL/dX = dL/dZ W^T. x is (B, d1), z (B, d2),
    w (d1, d2) and b (1, d2).
    """

    def __init__(self, d1, d2):
        self.w, self.w_grad = self._draw(d1, (d1, d2))
        self.b, self.b_grad = self._draw(d1, (1, d2))

    def forward(self, x):
        self._check(x)
        return x @ self.w + self.b

    def backward(self, x, last_x_grad):
        self._check(x, last_x_grad)
        self.b_grad = last_x_grad.sum(axis=0, keepdims=True)
        self.w_grad = x.T @ last_x_grad
        return (self.w @ last_x_grad.T).T  # batch last in memory, unlike last_x_grad @ w.T

    def update(self, lr):
        self.w -= lr * self.w_grad
        self.b -= lr * self.b_grad

    def _shapes(self, x):
        d1, d2 = self.w.shape
        return (len(x), d1), (len(x), d2)


class ConvolutionLayer(ParamLayer):
    """Convolution with stride 1 and without padding, Y = X * K + b (series, part 2).

    x (B, c1, H, W) becomes y (B, c2, o1, o2), o1 = H - k1 + 1, o2 = W - k2 + 1; k is
    (c2, c1, k1, k2), b (1, c2, 1, 1). As a product of matrices, Y' = K' X': a row of K' is a
    kernel, a column of X' a patch of the image. dL/db sums dL/dY over the batch and the pixels,
    dL/dK' = dL/dY' X'^T, and dL/dX sums, for each pixel, its copies in dL/dX' = K'^T dL/dY'.

    X' is never built whole. x is unfolded along its width alone, into rows of which a block is the
    X' of one output row. For two images a and b of 4 x 4 and a kernel of 3 x 3, the left bar marks
    X' of output row 0, the right bar that of output row 1, and a01 is a's pixel in row 0, column 1:

        a00 b00 a01 b01  |      row 0 of the images, from column 0,
        a01 b01 a02 b02  |                           from column 1
        a02 b02 a03 b03  |                           and from column 2
        a10 b10 a11 b11  |  |   row 1
        a11 b11 a12 b12  |  |
        a12 b12 a13 b13  |  |
        a20 b20 a21 b21  |  |   row 2
        a21 b21 a22 b22  |  |
        a22 b22 a23 b23  |  |
        a30 b30 a31 b31     |   row 3
        a31 b31 a32 b32     |
        a32 b32 a33 b33     |

    The article has the transpose, Y' = X' K'^T. Its _unfold_x makes all of X', and its K' is K
    reshaped; here both are in the order k1, c1, k2, so that X' is a block of rows. Its _unfold_k
    makes K'', K spread out over the image and mostly zero, for forward and dL/dX'' = dL/dY'' K''.
    """

    def __init__(self, c1, c2, k1, k2):
        self.k, self.k_grad = self._draw(c1 * k1 * k2, (c2, c1, k1, k2))
        self.b, self.b_grad = self._draw(c1 * k1 * k2, (1, c2, 1, 1))

    def forward(self, x):
        B, c2, o1, o2 = self._check(x)
        kernel, strips, k1 = self._reshape_k(), self._unfold_x(x), self.k.shape[2]
        y = np.empty((c2, o1, o2 * B), np.result_type(x, self.k))
        for i in range(o1):
            np.matmul(kernel, strips[i:i + k1].reshape(-1, o2 * B), out=y[:, i])
        return y.reshape(c2, o1, o2, B).transpose(3, 0, 1, 2) + self.b  # (B, c2, o1, o2)

    def backward(self, x, last_x_grad):
        self.set_grads(x, last_x_grad)
        B, c2, o1, o2 = last_x_grad.shape
        _, c1, k1, k2 = self.k.shape
        kernel, dtype = self._reshape_k(), np.result_type(self.k, last_x_grad)
        y_grad = last_x_grad.transpose(1, 2, 3, 0).reshape(c2, o1, o2 * B)
        strips_grad = np.zeros((x.shape[2], c1, k2, o2, B), dtype)
        x_grad = np.zeros_like(x, dtype)
        for i in range(o1):
            strips_grad[i:i + k1] += (kernel.T @ y_grad[:, i]).reshape(k1, c1, k2, o2, B)
        for j in range(k2):
            x_grad[..., j:j + o2] += strips_grad[:, :, j].transpose(3, 1, 0, 2)  # (B, c1, H, o2)
        return x_grad

    def set_grads(self, x, last_x_grad):
        """Set k_grad and b_grad: all of backward that training needs of the first layer."""
        B, c2, o1, o2 = self._check(x, last_x_grad)
        _, c1, k1, k2 = self.k.shape
        strips = self._unfold_x(x)
        y_grad = last_x_grad.transpose(1, 2, 3, 0).reshape(c2, o1, o2 * B)
        k_grad = sum(y_grad[:, i] @ strips[i:i + k1].reshape(-1, o2 * B).T for i in range(o1))
        self.k_grad = k_grad.reshape(c2, k1, c1, k2).transpose(0, 2, 1, 3)  # (c2, c1, k1, k2)
        self.b_grad = np.einsum("bchw->c", last_x_grad).reshape(self.b.shape)  # sum is slower

    def update(self, lr):
        self.k -= lr * self.k_grad
        self.b -= lr * self.b_grad

    def _reshape_k(self):
        """Return K', (c2, k1*c1*k2)."""
        return self.k.transpose(0, 2, 1, 3).reshape(len(self.k), -1)

    def _unfold_x(self, x):
        """Return k2 copies of x, copy j shifted by j columns, (H, c1, k2, o2, B)."""
        B, c1, H, W = x.shape
        k2 = self.k.shape[3]
        o2 = W - k2 + 1
        strips = np.empty((H, c1, k2, o2, B), x.dtype)
        for j in range(k2):
            strips[:, :, j] = x[..., j:j + o2].transpose(2, 1, 3, 0)  # (H, c1, o2, B)
        return strips

    def _shapes(self, x):
        B, _, H, W = x.shape
        c2, c1, k1, k2 = self.k.shape
        H, W = max(H, k1), max(W, k2)
        return (B, c1, H, W), (B, c2, H - k1 + 1, W - k2 + 1)


class CrossEntropyLoss:
    """Softmax and cross-entropy, L = -mean(log p[y]), p = softmax(x) (series, part 2).

    dL/dx = (p - q) / B, where q is 1 at the label and 0 elsewhere. The row's largest logit is
    subtracted first, which does not change p and keeps exp from overflowing. x is (B, C), logits
    of C classes, y (B,), integer labels 0..C-1, L a float. Refused: other shapes and labels
    (ValueError), other types of labels (TypeError), a loss that is not finite (FloatingPointError).
    """

    def forward(self, x, y):
        self._check(x, y)
        x = x - x.max(axis=1, keepdims=True)
        loss = float(np.mean(np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(y)), y]))
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}: the images are not finite or the "
                                     "training has diverged, try a smaller learning rate")
        return loss

    def backward(self, x, y):
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
        """Refuse labels that NumPy would broadcast or count from the end."""
        if x.ndim != 2 or y.shape != x.shape[:1]:
            raise ValueError(f"x and y have shapes {x.shape}, {y.shape}, expected (B, C), (B,)")
        if y.dtype.kind not in "iu":
            raise TypeError(f"y has dtype {y.dtype}, expected integers")
        if y.min() < 0 or y.max() >= x.shape[1]:
            raise ValueError(f"y holds {y.min()} to {y.max()}, expected 0 to {x.shape[1] - 1}")


def _write(path, content):
    """Write the content of a BytesIO beside path and rename it: path is whole at any time."""
    target = Path(os.path.realpath(path))  # a link stays
    try:
        if target.exists() and not target.is_file():  # a device, say
            raise OSError("it is not a regular file")
        with TemporaryDirectory(prefix="unfinished-", dir=target.parent) as folder:
            unfinished = Path(folder, "file")
            unfinished.write_bytes(content.getvalue())
            unfinished.replace(target)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


class ConvolutionNeuralNetwork:
    """The network of the series: two convolutions and a linear layer (series, part 3).

    Images are floats (B, 1, 28, 28) from 0 to 1, labels integers (B,) from 0 to 9, both arrays or
    what np.asarray accepts. Refused: other types (TypeError), other shapes and labels, no images,
    a batch size below 1, a learning rate that is not finite or not above 0 (ValueError), and a loss
    or parameters to save that are not finite (FloatingPointError).

    layer_inputs holds the input of each layer from forward(x, keepgrad=True) to backward.
    """

    def __init__(self):
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
        """Return the logits, (B, 10)."""
        # Batch last in memory: pooling takes every second pixel and convolution shifts by one.
        # With the images of a batch innermost, each of these slices is made of long runs, and all
        # layers keep it so. Any other order gives the same results, up to rounding.
        x = self._images(x).transpose(1, 2, 3, 0).copy().transpose(3, 0, 1, 2)
        if keepgrad:
            self.layer_inputs = []
        for layer in self.layers:
            if keepgrad:
                self.layer_inputs.append(x)
            x = layer.forward(x)
        return x

    def backward(self, last_x_grad, images_grad=True):
        """Set all gradients, using up layer_inputs; return dL/dx of the images if images_grad."""
        layer_inputs, self.layer_inputs = self.layer_inputs, []
        if not layer_inputs:
            raise RuntimeError("layer_inputs is empty, expected forward(x, keepgrad=True) first")
        for layer in reversed(self.layers[1:]):
            last_x_grad = layer.backward(layer_inputs.pop(), last_x_grad)
        first, x = self.layers[0], layer_inputs.pop()
        # a subclass may do more in backward, another layer may have no set_grads
        if not images_grad and "set_grads" in vars(type(first)):
            return first.set_grads(x, last_x_grad)
        return first.backward(x, last_x_grad)

    def update(self, lr):
        """Take one step of gradient descent in every layer with parameters."""
        if not 0 < lr < math.inf:
            raise ValueError(f"lr = {lr}, expected a finite number above 0")
        for layer in self.layers:
            if hasattr(layer, "update"):
                layer.update(lr)

    @np.errstate(over="ignore", invalid="ignore")  # where training diverges, the loss says so
    def train(self, train_x, train_y, batch_size, epochs, lr):
        """Train for one pass, in the order given, and return its mean loss; epochs is not used."""
        loss_sum = 0.0
        for x, y in self._batches(train_x, train_y, batch_size):
            logits = self.forward(x, keepgrad=True)
            loss_sum += self.loss_func.forward(logits, y) * len(y)
            self.backward(self.loss_func.backward(logits, y), images_grad=False)  # and clear
            self.update(lr)
        return loss_sum / len(train_y)

    @np.errstate(over="ignore", invalid="ignore")
    def test(self, test_x, test_y, batch_size):
        """Return the mean loss over the images."""
        return sum(self.loss_func.forward(self.forward(x), y) * len(y)
                   for x, y in self._batches(test_x, test_y, batch_size)) / len(test_y)

    def predict(self, x):
        """Return the probabilities of the ten digits, (B, 10), 100 images at a time."""
        x = self._images(x)
        logits = [self.forward(x[start:start + 100]) for start in range(0, len(x), 100)]
        return CrossEntropyLoss.softmax(np.concatenate(logits))

    def save(self, path):
        """Write the parameters to a file .npz, each under its layer's number: k0, b0, k3, ..."""
        if not str(path).endswith(".npz"):
            raise ValueError(f"path = {path}, expected a name that ends in .npz")
        arrays = {key: getattr(layer, name) for key, (layer, name) in self._parameters().items()}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise FloatingPointError("the parameters are not finite, training has diverged")
        content = io.BytesIO()
        np.savez(content, **arrays)
        _write(path, content)

    def load(self, path):
        """Take the parameters of a saved file; any other is a ValueError and changes nothing."""
        parameters = self._parameters()
        expected = {key: getattr(layer, name).shape for key, (layer, name) in parameters.items()}
        content = io.BytesIO(Path(path).read_bytes())
        try:
            arrays = dict(np.load(content, allow_pickle=False))
            shapes = {key: np.shape(array) for key, array in arrays.items()}
            if shapes != expected or not all(
                    array.dtype in (np.float32, np.float64) and np.isfinite(array).all()
                    for array in arrays.values()):
                raise ValueError(f"it holds {shapes}, expected finite floats {expected}")
        except Exception as error:  # which one it is depends on what the file holds instead
            raise ValueError(f"{path} is not a network that save wrote: {error}") from error
        for key, (layer, name) in parameters.items():
            setattr(layer, name, arrays[key])

    def _parameters(self):
        """Map each name in a file to its layer and attribute: k0 is layers[0].k."""
        return {f"{name}{number}": (layer, name) for number, layer in enumerate(self.layers)
                for name, value in vars(layer).items()
                if isinstance(value, np.ndarray) and not name.endswith("_grad")}

    def _batches(self, x, y, batch_size):
        """Yield the images and labels of each batch; the last one may be smaller."""
        x, y = self._images(x), self._array(y, "labels", "integers (B,)")
        if y.shape != x.shape[:1]:
            raise ValueError(f"the labels have shape {y.shape}, expected {x.shape[:1]}")
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}, expected an integer of at least 1")
        for start in range(0, len(x), batch_size):
            yield x[start:start + batch_size], y[start:start + batch_size]

    def _images(self, x):
        """Return x as an array, or refuse it."""
        x = self._array(x, "images", "floats (B, 1, 28, 28)")
        if x.shape[1:] != (1, 28, 28) or len(x) == 0:
            raise ValueError(f"the images have shape {x.shape}, expected (B, 1, 28, 28), B > 0")
        if x.dtype.kind != "f":
            raise TypeError(f"the images have dtype {x.dtype}, expected floats from 0 to 1")
        return x

    @staticmethod
    def _array(values, name, expected):
        """Return values as an array."""
        try:
            return np.asarray(values)
        except Exception as error:  # another library's array may raise anything
            raise TypeError(f"the {name} cannot become an array of {expected}: {error}") from error


def _parse_arguments():
    """Return the arguments of the run."""
    parser = argparse.ArgumentParser(
        description="Train on images of digits, draw loss.png and report what was learned.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, default=100, help="images for each step")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate, the length of a step")
    parser.add_argument("--seed", type=int, default=1234, help="of NumPy's global generator")
    parser.add_argument("--data", type=Path, default="cv-data", help="folder of train and test")
    parser.add_argument("--save", metavar="FILE.npz", help="keep the network of the last epoch")
    args = parser.parse_args()
    for option, value, accepted, expected in (
            ("--epochs", args.epochs, args.epochs >= 1, "at least 1"),
            ("--batch-size", args.batch_size, args.batch_size >= 1, "at least 1"),
            ("--lr", args.lr, 0 < args.lr < math.inf, "a finite number above 0"),
            ("--seed", args.seed, 0 <= args.seed < 2**32, "0 to 4294967295"),
            ("--save", args.save, args.save is None or args.save.endswith(".npz"), "FILE.npz")):
        if not accepted:
            parser.error(f"argument {option}: {value}, expected {expected}")
    return args


def _save_curve(losses):
    """Draw the losses of the epochs, pairs of training and test, as loss.png."""
    shown = losses[1:] or losses  # the first epoch's are so high that they flatten the rest
    epochs = range(len(losses) - len(shown) + 1, len(losses) + 1)
    axes = Figure(figsize=(8, 5), layout="constrained").subplots()
    axes.plot(epochs, shown, marker=".", label=["training images", "test images"])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(title="Loss over the epochs", xlabel="epoch", ylabel="mean cross-entropy loss")
    axes.legend()
    axes.grid(alpha=0.3)
    content = io.BytesIO()
    axes.figure.savefig(content, dpi=150)
    _write("loss.png", content)


def main():
    """Train, draw and report; return the exit status (series, part 3)."""
    args = _parse_arguments()
    np.random.seed(args.seed)
    train_x, train_y = load_dataset(args.data / "train", shuffle=True)
    test_x, test_y = load_dataset(args.data / "test")
    print(train_x.shape, train_y.shape)
    print(test_x.shape, test_y.shape)

    network = ConvolutionNeuralNetwork()
    for images in (train_x, test_x):
        network.predict(images[:1])  # refuses images of another size now, not after an epoch
    losses, status = [], 0
    print("=============== Begin Train ===============", flush=True)
    begin = time.perf_counter()
    try:
        for epoch in range(1, args.epochs + 1):
            train_loss = network.train(train_x, train_y, args.batch_size, args.epochs, args.lr)
            test_loss = network.test(test_x, test_y, args.batch_size)
            if args.save:
                network.save(args.save)
            losses.append((train_loss, test_loss))
            print(f"Epoch: {epoch:3d} Train Loss: {train_loss:.4f} Test Loss: {test_loss:.4f}",
                  flush=True)
    except KeyboardInterrupt:
        print("interrupted: here is what was learned so far", file=sys.stderr)
        status = 130
    except FloatingPointError as error:
        raise FloatingPointError(f"epoch {epoch}: {error}") from error
    minutes = (time.perf_counter() - begin) / 60
    try:
        if losses:
            _save_curve(losses)
    finally:  # the reports are worth more than the curve
        print(f"=============== End Train: {minutes:.2f} min ===============")
        for name, x, y in (("Train", train_x, train_y), ("Test", test_x, test_y)):
            answers = network.predict(x).argmax(axis=1)
            print(f"=============== Classification Report: {name} ===============")
            print(classification_report(y, answers, digits=4, zero_division=0), flush=True)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ValueError, FloatingPointError, MemoryError) as error:
        sys.stdout = None  # a closed pipe would complain once more at the end
        sys.exit(f"cnn_numpy.py: error: {' '.join(str(error).split()) or 'not enough memory'}")
