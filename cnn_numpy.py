# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.9"
# dependencies = ["numpy>=1.24.3", "matplotlib>=3.7.2", "scikit-learn>=1.2.2"]
# ///
"""A convolutional network for handwritten digits, whose layers are plain NumPy.

It follows the series at ww-rm.github.io/posts/2023/10/ (13/cnn-numpy-1/, 14/cnn-numpy-2/ and
15/cnn-numpy-3/), with the symbols of its code: B batch, C channels, H and W height and width, c1
and c2 channels in and out, k1 and k2 kernel height and width, o1 and o2 output height and width, d1
and d2 features in and out, L loss. The articles' formulas write n, h_X, w_X for B, H, W. Here n, c,
h, i, j, r, s are indices: n of an image, c of a channel, h of an image line, i and j of an output
line and column, r and s of a kernel line and column. (Images have lines, and matrices have rows.)

The rest is about speed, so skip it at first. B is the first axis of each input and output, but the
innermost in memory: the B values of one pixel lie side by side, so that NumPy's loops are long. The
first convolution's forward and the linear layer's backward make this order.
"""
import argparse
import copy
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image  # Pillow, which is installed with matplotlib
from sklearn.metrics import classification_report
from threadpoolctl import threadpool_limits  # which is installed with scikit-learn


def load_dataset(folder: str, shuffle: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Read a folder of images, one subfolder "0" to "9" for each digit (series, part 1).

    Returns inputs, float32 (B, 1, H, W) from 0 (black) to 1 (white), and targets, int32 (B,).
    Without shuffle they come digit by digit: training in this order teaches only the last digit.
    """
    images, targets = [], []
    for digit in range(10):
        subfolder = Path(folder, str(digit))
        for path in sorted(subfolder.iterdir()):  # each system lists files in its own order
            if path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini"):
                continue  # macOS and Windows leave these behind
            images.append(_read_image(path))
            targets.append(digit)
            if images[-1].shape != images[0].shape:
                raise ValueError(f"{path} has {images[-1].shape} pixels, not {images[0].shape}")
        if digit not in targets:
            raise FileNotFoundError(f"{subfolder} is empty, expected at least one image")
    inputs = np.stack(images)[:, np.newaxis].astype(np.float32) / 255  # (B, 1, H, W)
    targets = np.array(targets, np.int32)
    if shuffle:
        order = np.random.permutation(len(targets))  # for both, so each image keeps its target
        inputs, targets = inputs[order], targets[order]
    return inputs, targets


def _read_image(path: Path) -> np.ndarray:
    """Return the grey pixels of an image, uint8 (H, W); transparent pixels become black."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # 16 or 32 bits: convert would clip them
                raise ValueError("more than 8 bits a channel, expected 8 or fewer")
            pixels = image.convert("RGBA")
    except Exception as error:  # Pillow raises many kinds of errors
        raise ValueError(f"{path} cannot be read: {error}") from error
    black = Image.new("RGBA", pixels.size, "black")  # because the digits are white on black
    pixels = Image.alpha_composite(black, pixels)
    return np.asarray(pixels.convert("L"))


class NetworkLayer:
    """A function y = f(x); backward is the chain rule, dL/dx = dL/dy dy/dx (series, part 1)."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return y."""
        raise NotImplementedError

    def backward(self, x: np.ndarray, last_x_grad: np.ndarray) -> np.ndarray:
        """Return dL/dx for forward's x; last_x_grad is dL/dy, from the layer after this one."""
        raise NotImplementedError


class MaxPoolingLayer(NetworkLayer):
    """The largest element of each k1 x k2 window; the windows do not overlap (series, part 1).

    The largest element gets dL/dY (of equal ones, the first in reading order); the others get 0.
    """

    def __init__(self, k1: int, k2: int) -> None:
        self.k1, self.k2 = k1, k2

    def _window_elements(self, x: np.ndarray) -> list[np.ndarray]:
        """Return k1*k2 views of x, (B, C, H/k1, W/k2), each with one element of every window."""
        return [x[:, :, r::self.k1, s::self.k2] for r, s in np.ndindex(self.k1, self.k2)]

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map x (B, C, H, W) to y (B, C, H/k1, W/k2)."""
        B, C, H, W = x.shape
        if H % self.k1 or W % self.k2:
            raise ValueError(f"x has shape {x.shape}, expected multiples of {self.k1} x {self.k2}")
        y, *others = self._window_elements(x)  # y starts as each window's first element
        for element in others:
            y = np.maximum(y, element)
        return y

    def backward(self, x: np.ndarray, last_x_grad: np.ndarray) -> np.ndarray:
        """Map x (B, C, H, W) and dL/dY (B, C, H/k1, W/k2) to dL/dX (B, C, H, W)."""
        y = self.forward(x)
        if last_x_grad.shape != y.shape:
            raise ValueError(f"last_x_grad has shape {last_x_grad.shape}, expected {y.shape}")
        x_grad = np.empty_like(x, last_x_grad.dtype)  # in x's order of memory; the loop fills it
        undecided = np.ones_like(y, bool)  # True: the window's largest element has not come yet
        for element, element_grad in zip(self._window_elements(x), self._window_elements(x_grad)):
            won = undecided & (element == y)  # True: this is the window's first largest element
            undecided &= ~won
            element_grad[...] = last_x_grad * won  # a view: this writes into x_grad
        return x_grad


class ReLULayer(NetworkLayer):
    """y = max(x, 0), for any shape; dL/dx is dL/dy where x > 0, else 0 (series, part 1)."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)

    def backward(self, x: np.ndarray, last_x_grad: np.ndarray) -> np.ndarray:
        if last_x_grad.shape != x.shape:
            raise ValueError(f"last_x_grad has shape {last_x_grad.shape}, expected {x.shape}")
        return last_x_grad * (x > 0)


class FlattenLayer(NetworkLayer):
    """Make the axes from start to end, both included, one axis (series, part 1)."""

    def __init__(self, start: int = 1, end: int = -1) -> None:
        self.start, self.end = start, end

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map x (B, C, H, W) to y (B, C*H*W), with the default start and end."""
        start, end = self.start % x.ndim, self.end % x.ndim  # -1 becomes the last axis
        return x.reshape(*x.shape[:start], -1, *x.shape[end + 1:])

    def backward(self, x: np.ndarray, last_x_grad: np.ndarray) -> np.ndarray:
        """Map x (B, C, H, W) and dL/dY (B, C*H*W) to dL/dX (B, C, H, W)."""
        return last_x_grad.reshape(x.shape)


class ParamLayer(NetworkLayer):
    """A layer with parameters p; backward also sets their gradients dL/dp (series, part 2).

    Parameters are float32, nearly twice as fast as float64, and start random, uniform between
    -1/sqrt(m) and 1/sqrt(m), where each output is a sum of m products: m is d1 in a linear layer,
    c1*k1*k2 in a convolution. The article says that U(-1, 1) makes training stable. In fact, most
    seeds then make a network that learns nothing: most channels of its first ReLU give only 0.
    """

    def update(self, lr: float) -> None:
        """Take one step of gradient descent in place, p = p - lr dL/dp."""
        raise NotImplementedError


class LinearLayer(ParamLayer):
    """Fully connected layer, Z = X W + b (series, part 2).

    dL/db sums dL/dZ over the batch, dL/dW = X^T dL/dZ, dL/dX = dL/dZ W^T.
    """

    def __init__(self, d1: int, d2: int) -> None:
        bound = d1 ** -0.5
        self.w = np.random.uniform(-bound, bound, (d1, d2)).astype(np.float32)
        self.b = np.random.uniform(-bound, bound, (1, d2)).astype(np.float32)
        self.w_grad, self.b_grad = np.zeros_like(self.w), np.zeros_like(self.b)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map x (B, d1) to z (B, d2)."""
        d1 = len(self.w)
        if x.shape[1:] != (d1,):
            raise ValueError(f"x has shape {x.shape}, expected (B, {d1})")
        return x @ self.w + self.b

    def backward(self, x: np.ndarray, last_x_grad: np.ndarray) -> np.ndarray:
        """Map x (B, d1) and dL/dZ (B, d2) to dL/dX (B, d1); set w_grad and b_grad."""
        self.b_grad = last_x_grad.sum(axis=0, keepdims=True)
        self.w_grad = x.T @ last_x_grad
        return (self.w @ last_x_grad.T).T  # dL/dZ W^T with B innermost: training is a tenth faster

    def update(self, lr: float) -> None:
        self.w -= lr * self.w_grad
        self.b -= lr * self.b_grad


class ConvolutionLayer(ParamLayer):
    """Convolution of stride 1 without padding, as a matrix product (series, part 2).

    A patch is the c1*k1*k2 pixels under the kernel at one place of one image. In the article's
    first form each row of X' is a patch, and each row of K' is one of the c2 kernels: Y' = X' K'^T.
    This is the linear layer with X' for X and K'^T for W. So dL/dX = dL/dZ W^T becomes
    dL/dX' = dL/dY' K', and dL/dW = X^T dL/dZ becomes dL/dK'^T = X'^T dL/dY', or transposed
    dL/dK' = (dL/dY')^T X' (the article forgets to transpose). A pixel is copied into several
    patches, so its gradient is the sum of the gradients of its copies.

    The code computes the transposed product, Y'^T = K' X'^T, where a patch is a column of X'^T. It
    makes the columns of one output line at a time, since they fit into the processor's cache. The
    article's code has the first form for dL/dK only, else the second; see tests/definitions.py.
    """

    need_x_grad = True  # while it is False, backward returns None instead of dL/dX

    def __init__(self, c1: int, c2: int, k1: int, k2: int) -> None:
        bound = (c1 * k1 * k2) ** -0.5  # 1/sqrt(m)
        self.k = np.random.uniform(-bound, bound, (c2, c1, k1, k2)).astype(np.float32)
        self.b = np.random.uniform(-bound, bound, (1, c2, 1, 1)).astype(np.float32)
        self.k_grad, self.b_grad = np.zeros_like(self.k), np.zeros_like(self.b)

    def _unfold_x(self, x: np.ndarray):
        """Yield the columns of X'^T for one output line after another, (c1*k1*k2, o2*B).

        For one image with the lines 0 1 2, 3 4 5, 6 7 8 and a 2 x 2 kernel, the first ones are
            0 1    from image line 0: what is under kernel column 0, then under column 1
            1 2
            3 4    from image line 1: the next output line begins with these rows, then 6 7 and 7 8
            4 5
        Each column is a patch, in the order c, r, s of K'; each place has B columns, one per image.
        """
        B, c1, H, W = x.shape
        k1, k2 = self.k.shape[2:]
        o1, o2 = H - k1 + 1, W - k2 + 1
        x = np.ascontiguousarray(x.transpose(1, 2, 3, 0))  # from here on (c1, H, W, B)
        wide = np.empty((c1, H, k2, o2, B), x.dtype)  # wide[c, h, s, j, n] is x[c, h, j + s, n]
        for s in range(k2):  # at output column j, kernel column s lies on image column j + s
            wide[:, :, s] = x[:, :, s:s + o2]  # (c1, H, o2, B)
        for i in range(o1):  # at output line i, kernel line r lies on image line i + r
            lines = wide[:, i:i + k1]  # (c1, k1, k2, o2, B)
            yield lines.reshape(c1 * k1 * k2, o2 * B)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map x (B, c1, H, W) to y (B, c2, o1, o2), where o1 = H - k1 + 1, o2 = W - k2 + 1."""
        c2, c1, k1, k2 = self.k.shape
        if x.ndim != 4 or x.shape[1] != c1 or x.shape[2] < k1 or x.shape[3] < k2:
            raise ValueError(f"x has shape {x.shape}, expected (B, {c1}, >= {k1}, >= {k2})")
        B, _, H, W = x.shape
        o1, o2 = H - k1 + 1, W - k2 + 1
        kernels = self.k.reshape(c2, -1)  # K', (c2, c1*k1*k2)
        y = np.empty((c2, o1, o2 * B), np.result_type(x, self.k))  # float64 if x or k is float64
        for i, patches in enumerate(self._unfold_x(x)):  # X'^T of output line i, (c1*k1*k2, o2*B)
            np.matmul(kernels, patches, out=y[:, i])  # Y'^T = K' X'^T, (c2, o2*B)
        y += self.b.reshape(c2, 1, 1)
        return y.reshape(c2, o1, o2, B).transpose(3, 0, 1, 2)  # (B, c2, o1, o2)

    def backward(self, x: np.ndarray, last_x_grad: np.ndarray) -> np.ndarray:
        """Map x and dL/dY (B, c2, o1, o2) to dL/dX, or None if not need_x_grad; set *_grad."""
        c2, c1, k1, k2 = self.k.shape
        B, _, H, W = x.shape
        o1, o2 = H - k1 + 1, W - k2 + 1
        if last_x_grad.shape != (B, c2, o1, o2):
            raise ValueError(f"last_x_grad has shape {last_x_grad.shape}, expected {B, c2, o1, o2}")
        self.b_grad = last_x_grad.sum(axis=(0, 2, 3), keepdims=True)  # b is added at each place
        kernels = self.k.reshape(c2, -1)  # K', (c2, c1*k1*k2)
        y_grad = last_x_grad.transpose(1, 2, 3, 0)  # (c2, o1, o2, B)
        y_grad = y_grad.reshape(c2, o1, o2 * B)  # y_grad[:, i], (c2, o2*B), is line i of (dL/dY')^T
        k_grad = np.zeros(kernels.shape, np.result_type(x, y_grad))
        for i, patches in enumerate(self._unfold_x(x)):  # X'^T of output line i, (c1*k1*k2, o2*B)
            k_grad += y_grad[:, i] @ patches.T  # dL/dK' = (dL/dY')^T X', summed over the lines
        self.k_grad = k_grad.reshape(self.k.shape)
        if not self.need_x_grad:
            return None

        # Back through the steps of _unfold_x: where it copied, gradients are added.
        wide_grad = np.zeros((c1, H, k2, o2, B), np.result_type(kernels, y_grad))
        for i in range(o1):
            patches_grad = kernels.T @ y_grad[:, i]  # (dL/dX')^T = K'^T (dL/dY')^T
            lines_grad = patches_grad.reshape(c1, k1, k2, o2, B)
            wide_grad[:, i:i + k1] += lines_grad  # +=, since output lines share image lines
        x_grad = np.zeros((c1, H, W, B), wide_grad.dtype)
        for s in range(k2):
            x_grad[:, :, s:s + o2] += wide_grad[:, :, s]  # +=, since kernel columns share pixels
        return x_grad.transpose(3, 0, 1, 2)  # (B, c1, H, W)

    def update(self, lr: float) -> None:
        self.k -= lr * self.k_grad
        self.b -= lr * self.b_grad


class CrossEntropyLoss(NetworkLayer):
    """Softmax and cross-entropy, L = -mean(log p[n, y[n]]), p = softmax(x) (series, part 2).

    A row of x holds C logits, any numbers: the larger one is, the more probable is its class.
    Labels count from 0; the article's text counts from 1. dL/dx = (p - q) / B, where q is 1 at the
    label, else 0 (the article's last formula divides p by B twice). Before exp, each row's largest
    logit is subtracted: p stays the same, and exp cannot overflow.
    """

    def forward(self, x: np.ndarray, y: np.ndarray) -> float:
        """Map logits x (B, C) and labels y (B,), integers from 0 to C-1, to L."""
        self._check_labels(x, y)
        x = x - x.max(axis=1, keepdims=True)
        log_p = x - np.log(np.exp(x).sum(axis=1, keepdims=True))  # finite even where p rounds to 0
        loss = -float(np.mean(log_p[np.arange(len(y)), y]))
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}: lr is too large or x is not finite")
        return loss

    def backward(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Map logits x (B, C) and labels y (B,) to dL/dx (B, C)."""
        self._check_labels(x, y)
        exp_x = np.exp(x - x.max(axis=1, keepdims=True))
        x_grad = exp_x / exp_x.sum(axis=1, keepdims=True)  # p
        x_grad[np.arange(len(y)), y] -= 1  # p - q
        return x_grad / len(y)

    def _check_labels(self, x: np.ndarray, y: np.ndarray) -> None:
        """Refuse wrong labels: NumPy would silently accept other shapes, booleans, negatives."""
        y = np.asarray(y)
        if x.ndim != 2 or y.shape != x.shape[:1]:
            raise ValueError(f"x and y have shapes {x.shape}, {y.shape}, expected (B, C), (B,)")
        if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= x.shape[1]:
            raise ValueError(f"y holds {np.unique(y)}, expected integers 0 to {x.shape[1] - 1}")


class ConvolutionNeuralNetwork:
    """The network of the series, for images (B, 1, 28, 28) from 0 to 1 (series, part 3)."""

    def __init__(self) -> None:
        np.empty(30 * 2**20, np.uint8)  # freed at once, only for speed: glibc then reuses memory
        self.layers = [
            ConvolutionLayer(1, 4, 5, 5),  # (B, 4, 24, 24)
            MaxPoolingLayer(2, 2),  # (B, 4, 12, 12)
            ReLULayer(),
            ConvolutionLayer(4, 16, 3, 3),  # (B, 16, 10, 10)
            MaxPoolingLayer(2, 2),  # (B, 16, 5, 5)
            ReLULayer(),
            FlattenLayer(),  # (B, 400)
            LinearLayer(400, 10),  # (B, 10)
        ]
        self.loss_func = CrossEntropyLoss()
        self.layer_inputs = []

    def forward(self, x: np.ndarray, keepgrad: bool = False) -> np.ndarray:
        """Map images (B, 1, 28, 28) to logits (B, 10); keepgrad puts each x into layer_inputs."""
        x = np.asarray(x)
        if x.dtype.kind != "f":
            raise TypeError(f"images have dtype {x.dtype}, expected floats: np.float32(x) / 255")
        if keepgrad:
            self.layer_inputs = []
        for layer in self.layers:
            if keepgrad:
                self.layer_inputs.append(x)
            x = layer.forward(x)
        return x

    def backward(self, last_x_grad: np.ndarray) -> np.ndarray:
        """Map dL/dlogits of the latest forward(x, keepgrad=True) to dL/dimages; set all *_grad."""
        if len(self.layer_inputs) != len(self.layers):
            raise RuntimeError("backward needs a forward(x, keepgrad=True) before it")
        for layer, x in zip(reversed(self.layers), reversed(self.layer_inputs)):
            last_x_grad = layer.backward(x, last_x_grad)
        return last_x_grad

    def update(self, lr: float) -> None:
        """Take one step of gradient descent in each layer that has an update."""
        for layer in self.layers:
            if hasattr(layer, "update"):  # so that layers of the articles work here, too
                layer.update(lr)

    def train(self, train_x: np.ndarray, train_y: np.ndarray,
              batch_size: int, epochs: int, lr: float) -> float:
        """Train on all images once, in their order; return the mean loss. epochs is not used."""
        loss_sum = 0.0
        for x, y in self._batches(train_x, train_y, batch_size):
            logits = self.forward(x, keepgrad=True)
            loss_sum += self.loss_func.forward(logits, y) * len(y)  # the last batch may be smaller
            last_x_grad = self.loss_func.backward(logits, y)
            self.backward(last_x_grad)
            self.update(lr)
            self.layer_inputs.clear()  # the article's last step
        return loss_sum / len(train_x)

    def test(self, test_x: np.ndarray, test_y: np.ndarray, batch_size: int) -> float:
        """Return the mean loss over the images."""
        loss_sum = 0.0
        for x, y in self._batches(test_x, test_y, batch_size):
            loss_sum += self.loss_func.forward(self.forward(x), y) * len(y)
        return loss_sum / len(test_x)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Map images (B, 1, 28, 28) to the probabilities of the ten digits, (B, 10)."""
        logits = [self.forward(x[i:i + 100]) for i in range(0, len(x), 100)]  # to save memory
        x = np.concatenate(logits)
        x = np.exp(x - x.max(axis=1, keepdims=True))
        return x / x.sum(axis=1, keepdims=True)  # softmax

    def save(self, path: str) -> None:
        """Write the parameters as .npz, by the names 0.k 0.b 3.k 3.b 7.w 7.b."""
        import os  # here, so that the class can be pasted alone
        parameters = self._parameters()
        with open(f"{path}.part", "wb") as file:  # an older file stays until this one is whole
            np.savez(file, **parameters)
        os.replace(f"{path}.part", path)

    def load(self, path: str) -> None:
        """Take the parameters of a file that save wrote for the same layers."""
        with open(path, "rb") as file:
            arrays = dict(np.load(file))
        found = {name: array.shape for name, array in arrays.items()}
        expected = {name: array.shape for name, array in self._parameters().items()}
        if found != expected:
            raise ValueError(f"{path} holds {found}, expected {expected}")
        for name, array in self._parameters().items():
            array[...] = arrays[name]

    def _parameters(self) -> dict[str, np.ndarray]:
        """Return the parameters by their names in a file: 0.k is layers[0].k."""
        parameters = {}
        for number, layer in enumerate(self.layers):
            for name, value in vars(layer).items():
                if name.endswith("_grad"):
                    continue
                if isinstance(value, np.ndarray):
                    parameters[f"{number}.{name}"] = value
                elif isinstance(value, (list, dict)) or hasattr(value, "forward"):  # or a layer
                    raise TypeError(f"layers[{number}].{name} is a {type(value).__name__}: "
                                    "save keeps only arrays")
        return parameters

    def _batches(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> list[tuple]:
        """Return the images and labels of each batch; the last one may be smaller."""
        if len(x) != len(y) or len(x) == 0 or batch_size < 1:
            raise ValueError(f"found {len(x)} images, {len(y)} labels, batch_size {batch_size}; "
                             "expected 1 or more, and a label for each image")
        return [(x[i:i + batch_size], y[i:i + batch_size]) for i in range(0, len(x), batch_size)]


def _parse_arguments() -> argparse.Namespace:
    """Return the arguments of the run; without a cv-data here, the one beside the script."""
    data = Path("cv-data") if Path("cv-data").is_dir() else Path(sys.argv[0]).parent / "cv-data"
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, default=100, help="images per step")
    parser.add_argument("--lr", type=float, default=0.1, help="a step is lr times the gradient")
    parser.add_argument("--seed", type=int, default=1234, help="seed of NumPy's generator")
    parser.add_argument("--data", default=data, help="folder that holds train and test")
    parser.add_argument("--save", type=Path, metavar="FILE.npz", help="keep the last network")
    args = parser.parse_args()
    if args.epochs < 1 or args.batch_size < 1:
        parser.error(f"--epochs {args.epochs} --batch-size {args.batch_size}: expected 1 or more")
    if not 0 < args.lr < np.inf:
        parser.error(f"--lr {args.lr}: expected a finite number above 0")
    if not 0 <= args.seed < 2**32:
        parser.error(f"--seed {args.seed}: expected 0 to 2**32 - 1")
    if args.save and not args.save.parent.is_dir():
        parser.error(f"--save {args.save}: there is no folder {args.save.parent}")
    if args.save and args.save.exists() and not args.save.is_file():
        parser.error(f"--save {args.save}: expected the name of a file")
    return args


@np.errstate(all="ignore")  # no warnings: the loss raises an error if it is not finite
def main() -> None:
    """Train, report and draw (series, part 3)."""
    args = _parse_arguments()
    np.random.seed(args.seed)
    train_x, train_y = load_dataset(f"{args.data}/train", shuffle=True)
    print(train_x.shape, train_y.shape, flush=True)
    test_x, test_y = load_dataset(f"{args.data}/test")
    print(test_x.shape, test_y.shape)
    for part, x in [("train", train_x), ("test", test_x)]:
        if x.shape[2:] != (28, 28):
            raise ValueError(f"{args.data}/{part} has images of {x.shape[2:]}, expected (28, 28)")
    cnn = ConvolutionNeuralNetwork()
    cnn.layers[0].need_x_grad = False  # nobody needs the gradient of the images: a fifth faster
    losses = []
    print("=============== Begin Train ===============", flush=True)
    start_time = time.perf_counter()
    try:
        for epoch in range(1, args.epochs + 1):
            trained = copy.deepcopy(cnn)  # train this copy: Ctrl-C within an epoch leaves cnn whole
            train_loss = trained.train(train_x, train_y, args.batch_size, args.epochs, args.lr)
            test_loss = trained.test(test_x, test_y, args.batch_size)
            if args.save:
                try:
                    trained.save(args.save)
                except OSError as error:
                    print(f"epoch {epoch} is not saved: {error}", file=sys.stderr)
            cnn = trained
            losses.append((train_loss, test_loss))
            print(f"Epoch: {epoch:3d} Train Loss: {train_loss:.4f} Test Loss: {test_loss:.4f}",
                  flush=True)
    except KeyboardInterrupt:
        print(f"interrupted: the reports are of epoch {len(losses)}", file=sys.stderr)
    minutes = (time.perf_counter() - start_time) / 60
    print(f"=============== End Train: {minutes:.2f} min ===============", flush=True)
    for part, x, y in [("Train", train_x, train_y), ("Test", test_x, test_y)]:
        answers = cnn.predict(x).argmax(axis=1)
        print(f"=============== Classification Report: {part} ===============")
        print(classification_report(y, answers, digits=4, zero_division=0), flush=True)
    if losses:
        first = 1 if len(losses) > 1 else 0  # the first epoch's losses would flatten the rest
        axes = Figure(figsize=(6, 4), layout="constrained").subplots()  # pyplot might open a window
        axes.plot(range(first + 1, len(losses) + 1), losses[first:], marker=".",
                  label=["training images", "test images"])  # one for each column of losses
        axes.set(title="Loss over the epochs", xlabel="epoch", ylabel="mean cross-entropy loss")
        axes.legend()
        axes.figure.savefig("loss.png", dpi=200)
    if args.save and losses:
        cnn.save(args.save)  # again: Ctrl-C or an error may have left another epoch's file
    if len(losses) < args.epochs:
        sys.exit(130)  # as the shell reports Ctrl-C


if __name__ == "__main__":
    try:
        with threadpool_limits(limits=1):  # more threads are no faster, on a busy CPU far slower
            main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ValueError, RuntimeError, FloatingPointError) as error:
        if isinstance(error, BrokenPipeError):  # the reader has gone, as in "| head"
            sys.stdout = None  # else Python's last flush would fail, too
        raise SystemExit(f"cnn_numpy.py: error: {error}") from None
