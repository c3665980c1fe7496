# SPDX-License-Identifier: 0BSD
# /// script
# requires-python = ">=3.9"
# dependencies = ["numpy>=1.24.3", "matplotlib>=3.7.2", "scikit-learn>=1.2.2"]
# ///
"""A convolutional network for handwritten digits in plain NumPy.

It follows the series at ww-rm.github.io/posts/2023/10/ (13/cnn-numpy-1/, 14/cnn-numpy-2/ and
15/cnn-numpy-3/) with its symbols, but B, H and W for its n, h_X and w_X: B batch, C channels, H and
W height and width, c1 and c2 channels in and out, k1 and k2 kernel height and width, o1 and o2
output height and width, d1 and d2 features in and out, L loss. As an index, n is one image.
"""
import argparse
import math
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.figure import Figure
from PIL import Image  # Pillow, which is installed with matplotlib
from sklearn.metrics import classification_report


def load_dataset(folder: str, shuffle: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Read a folder of images, one subfolder "0" to "9" for each digit (series, part 1).

    Returns inputs, float32 (B, 1, H, W) from 0 (black) to 1 (white), and targets, int32 (B,), in
    the order of digits and file names, or shuffled with NumPy's global generator.
    """
    images, targets = [], []
    for digit in range(10):
        subfolder = Path(folder, str(digit))
        for path in sorted(subfolder.iterdir()):
            if path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini"):
                continue  # macOS and Windows leave these behind
            images.append(_read_image(path))
            targets.append(digit)
            if images[-1].shape != images[0].shape:
                raise ValueError(f"{path} has {images[-1].shape} pixels, not {images[0].shape}")
        if digit not in targets:
            raise FileNotFoundError(f"{subfolder} is empty, expected at least one image")
    inputs = np.stack(images)[:, np.newaxis]  # (B, 1, H, W)
    inputs = inputs.astype(np.float32) / 255
    targets = np.array(targets, np.int32)
    if shuffle:
        order = np.random.permutation(len(targets))
        inputs, targets = inputs[order], targets[order]
    return inputs, targets


def _read_image(path: Path) -> np.ndarray:
    """Return the grey pixels of an image, uint8 (H, W); transparent pixels are black."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # 16 or 32 bits: Pillow would clip, not scale
                raise ValueError("it has more than 8 bits a channel")
            black = Image.new("RGBA", image.size, "black")  # behind what is transparent
            return np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("L"))
    except Exception as error:  # Pillow raises many kinds of errors
        raise ValueError(f"{path} is not a readable image: {error}") from error


class NetworkLayer:
    """A function y = f(x); backward is the chain rule, dL/dx = dL/dy dy/dx (series, part 1)."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Return y."""
        raise NotImplementedError

    def backward(self, x: np.ndarray, last_x_grad: np.ndarray) -> np.ndarray:
        """Map x, which forward does not keep, and last_x_grad, which is dL/dy, to dL/dx."""
        raise NotImplementedError

    def _check_shape(self, name: str, array: np.ndarray, shape: tuple) -> None:
        """Refuse an array of another shape, which NumPy might broadcast silently."""
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {shape}")


class MaxPoolingLayer(NetworkLayer):
    """The largest element of each k1 x k2 window; the windows do not overlap (series, part 1).

    dL/dY goes to the largest element, the first in row order if several are equal; others get 0.
    """

    def __init__(self, k1: int, k2: int) -> None:
        self.k1, self.k2 = k1, k2

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map x (B, C, H, W) to y (B, C, H/k1, W/k2)."""
        B, C, H, W = x.shape
        if H % self.k1 or W % self.k2:
            raise ValueError(f"x has shape {x.shape}, which {self.k1} x {self.k2} does not divide")
        y, *others = self._window_elements(x)
        for element in others:
            y = np.maximum(y, element)
        return y

    def backward(self, x: np.ndarray, last_x_grad: np.ndarray) -> np.ndarray:
        """Map x (B, C, H, W) and dL/dY (B, C, H/k1, W/k2) to dL/dX (B, C, H, W)."""
        y = self.forward(x)
        self._check_shape("last_x_grad", last_x_grad, y.shape)
        x_grad = np.empty_like(x, last_x_grad.dtype)
        undecided = np.ones_like(y, bool)  # windows whose largest element has not come yet
        for element, element_grad in zip(self._window_elements(x), self._window_elements(x_grad)):
            won = undecided & (element == y)
            undecided ^= won  # XOR: where won is True, the window is decided
            np.multiply(last_x_grad, won, out=element_grad)  # element_grad is a view into x_grad
        return x_grad

    def _window_elements(self, x: np.ndarray) -> list[np.ndarray]:
        """Return views of x, (B, C, H/k1, W/k2): element (0, 0) of each window, then (0, 1) ..."""
        return [x[:, :, r::self.k1, s::self.k2] for r in range(self.k1) for s in range(self.k2)]


class ReLULayer(NetworkLayer):
    """y = max(x, 0), for any shape; dL/dx is dL/dy where x > 0, else 0 (series, part 1)."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)

    def backward(self, x: np.ndarray, last_x_grad: np.ndarray) -> np.ndarray:
        self._check_shape("last_x_grad", last_x_grad, x.shape)
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
        self._check_shape("last_x_grad", last_x_grad, self.forward(x).shape)
        return last_x_grad.reshape(x.shape)


class ParamLayer(NetworkLayer):
    """A layer with parameters p; backward also sets their gradients dL/dp (series, part 2).

    Where an output is a sum of m terms, parameters start uniform between -1/sqrt(m) and 1/sqrt(m).
    With the article's U(-1, 1), outputs and steps are so large that most ReLUs soon give only 0.
    """

    def update(self, lr: float) -> None:
        """Take one step of gradient descent in place, p = p - lr dL/dp."""
        raise NotImplementedError


class LinearLayer(ParamLayer):
    """Fully connected layer, Z = X W + b (series, part 2).

    dL/db sums dL/dZ over the batch, dL/dW = X^T dL/dZ, dL/dX = dL/dZ W^T.
    """

    def __init__(self, d1: int, d2: int) -> None:
        bound = 1 / math.sqrt(d1)
        self.w = np.random.uniform(-bound, bound, (d1, d2)).astype(np.float32)
        self.b = np.random.uniform(-bound, bound, (1, d2)).astype(np.float32)
        self.w_grad, self.b_grad = np.zeros_like(self.w), np.zeros_like(self.b)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map x (B, d1) to z (B, d2)."""
        return x @ self.w + self.b

    def backward(self, x: np.ndarray, last_x_grad: np.ndarray) -> np.ndarray:
        """Map x (B, d1) and dL/dZ (B, d2) to dL/dX (B, d1); set w_grad and b_grad."""
        self._check_shape("last_x_grad", last_x_grad, (len(x), self.w.shape[1]))
        self.b_grad = last_x_grad.sum(axis=0, keepdims=True)
        self.w_grad = x.T @ last_x_grad
        return (self.w @ last_x_grad.T).T  # = dL/dZ W^T, B last in memory: trains a quarter faster

    def update(self, lr: float) -> None:
        self.w -= lr * self.w_grad
        self.b -= lr * self.b_grad


class ConvolutionLayer(ParamLayer):
    """Convolution of stride 1 without padding, in the article's first form (series, part 2).

    tests/definitions.py has it in plain loops: read these first. Here Y' = X' K'^T is transposed
    and taken one output row at a time: Y' = K' X'. A row of K' (c2, k1*c1*k2) is a kernel, a column
    of X' (k1*c1*k2, o2*B) is the patch under it, both in the order k1, c1, k2 (in the article c1
    is first). A row of X' is a strip: the o2 pixels of one image row under one kernel column as the
    kernel moves right. As k1 comes first, X' is a slice of the array of all strips: those of k1
    image rows. In a 4 x 4 image, where 12 is the pixel in row 1 and column 2, under a 3 x 3 kernel:

        image row      strip of kernel column      in X' of output row
                         0       1       2             0     1
        00 01 02 03    00 01   01 02   02 03           *
        10 11 12 13    10 11   11 12   12 13           *     *
        20 21 22 23    20 21   21 22   22 23           *     *
        30 31 32 33    30 31   31 32   32 33                 *

    X' of output row 0 has nine rows: 00 01, then 01 02, and so on to 22 23. Its first column is the
    patch 00 01 02 10 11 12 20 21 22, its second is 01 02 03 11 12 13 21 22 23. With B images each
    number becomes B numbers side by side; with c1 channels an image row has c1*k2 strips.

    The linear layer's Z = X W is here Y' = K' X', which gives dL/dK' = dL/dY' X'^T, summed over the
    output rows (the article prints dL/dK'^T), and dL/dX' = K'^T dL/dY'. A strip's gradient is the
    sum over all X' that contain it (a * each), a pixel's the sum over its strips. The article's
    code uses the second form for Y and dL/dX; tests/definitions.py has that, too.
    """

    def __init__(self, c1: int, c2: int, k1: int, k2: int) -> None:
        bound = 1 / math.sqrt(c1 * k1 * k2)
        self.k = np.random.uniform(-bound, bound, (c2, c1, k1, k2)).astype(np.float32)
        self.b = np.random.uniform(-bound, bound, (1, c2, 1, 1)).astype(np.float32)
        self.k_grad, self.b_grad = np.zeros_like(self.k), np.zeros_like(self.b)

    def _unfold_x(self, x: np.ndarray) -> list[np.ndarray]:
        """Return X' of each output row: slices of strips[h, c, s, j, n] = x[n, c, h, j + s]."""
        (B, c1, H, W), (_, _, k1, k2) = x.shape, self.k.shape  # image row h, kernel column s
        if H < k1 or W < k2:
            raise ValueError(f"x has shape {x.shape}, smaller than the kernel, {k1} x {k2}")
        o1, o2 = H - k1 + 1, W - k2 + 1
        strips = np.empty((H, c1, k2, o2, B), x.dtype)
        for s in range(k2):
            strips[:, :, s] = x[..., s:s + o2].transpose(2, 1, 3, 0)  # (H, c1, o2, B)
        return [strips[i:i + k1].reshape(-1, o2 * B) for i in range(o1)]  # views (k1*c1*k2, o2*B)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map x (B, c1, H, W) to y (B, c2, o1, o2), where o1 = H - k1 + 1, o2 = W - k2 + 1."""
        patches = self._unfold_x(x)  # X' of each output row
        kernel = self.k.transpose(0, 2, 1, 3).reshape(len(self.k), -1)  # K', (c2, k1*c1*k2)
        (B, _, H, W), (c2, _, k1, k2) = x.shape, self.k.shape
        o1, o2 = H - k1 + 1, W - k2 + 1
        y = np.empty((c2, o1, o2 * B), np.result_type(x, self.k))  # float64 if one is
        for i in range(o1):
            np.matmul(kernel, patches[i], out=y[:, i])  # Y' = K' X', without a copy: 4% faster
        y += self.b.reshape(c2, 1, 1)
        return y.reshape(c2, o1, o2, B).transpose(3, 0, 1, 2)  # (B, c2, o1, o2)

    def backward(self, x: np.ndarray, last_x_grad: np.ndarray,
                 need_x_grad: bool = True) -> np.ndarray:
        """Map x (B, c1, H, W), dL/dY (B, c2, o1, o2) to dL/dX, if needed; set k_grad, b_grad."""
        (B, c1, H, W), (c2, _, k1, k2) = x.shape, self.k.shape
        o1, o2 = H - k1 + 1, W - k2 + 1
        self._check_shape("last_x_grad", last_x_grad, (B, c2, o1, o2))
        patches = self._unfold_x(x)  # X' of each output row
        y_grad = last_x_grad.transpose(2, 1, 3, 0).reshape(o1, c2, o2 * B)  # y_grad[i]: dL/dY'
        k_grad = 0
        for i in range(o1):  # all output rows share K'
            k_grad += y_grad[i] @ patches[i].T  # dL/dK' = dL/dY' X'^T
        self.k_grad = k_grad.reshape(c2, k1, c1, k2).transpose(0, 2, 1, 3)  # (c2, c1, k1, k2)
        self.b_grad = last_x_grad.sum(axis=(0, 2, 3), keepdims=True)  # dL/db sums dL/dY
        if not need_x_grad:
            return None
        kernel = self.k.transpose(0, 2, 1, 3).reshape(c2, -1)  # K', (c2, k1*c1*k2)
        strips_grad = np.zeros((H, c1, k2, o2, B), np.result_type(kernel, y_grad))
        for i in range(o1):  # output rows share strips
            patches_grad = kernel.T @ y_grad[i]  # dL/dX' = K'^T dL/dY'
            strips_grad[i:i + k1] += patches_grad.reshape(k1, c1, k2, o2, B)
        x_grad = np.zeros_like(x, strips_grad.dtype)
        for s in range(k2):  # strips share pixels
            x_grad[..., s:s + o2] += strips_grad[:, :, s].transpose(3, 1, 0, 2)  # (B, c1, H, o2)
        return x_grad

    def update(self, lr: float) -> None:
        self.k -= lr * self.k_grad
        self.b -= lr * self.b_grad


class CrossEntropyLoss(NetworkLayer):
    """Softmax and cross-entropy, L = -mean(log p[n, y[n]]), p = softmax(x) (series, part 2).

    dL/dx = (p - q) / B, where q is 1 at the label and 0 elsewhere (the article's last formula has
    1/n twice). The row's largest logit is subtracted first: p stays the same, exp cannot overflow.
    """

    def forward(self, x: np.ndarray, y: np.ndarray) -> float:
        """Map logits x (B, C) of C classes and labels y (B,), integers from 0 to C-1, to L."""
        self._check_labels(x, y)
        x = x - x.max(axis=1, keepdims=True)
        log_p = x - np.log(np.exp(x).sum(axis=1, keepdims=True))  # log softmax(x)
        loss = -float(np.mean(log_p[np.arange(len(y)), y]))
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}: lr is too large or x is not finite")
        return loss

    def backward(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Map logits x (B, C) and labels y (B,) to dL/dx (B, C)."""
        self._check_labels(x, y)
        x_grad = self.softmax(x)
        x_grad[np.arange(len(y)), y] -= 1
        return x_grad / len(y)

    @staticmethod
    def softmax(x: np.ndarray) -> np.ndarray:
        """Map logits x (B, C) to the probabilities p = exp(x) / sum(exp(x)) of each row, (B, C)."""
        x = np.exp(x - x.max(axis=1, keepdims=True))
        return x / x.sum(axis=1, keepdims=True)

    def _check_labels(self, x: np.ndarray, y: np.ndarray) -> None:
        """Refuse labels that NumPy would broadcast, take for a mask, or count from the end."""
        y = np.asarray(y)
        if x.ndim != 2 or y.shape != x.shape[:1]:
            raise ValueError(f"x and y have shapes {x.shape}, {y.shape}, expected (B, C), (B,)")
        if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= x.shape[1]:
            raise ValueError(f"y holds {np.unique(y)}, expected integers 0 to {x.shape[1] - 1}")


class ConvolutionNeuralNetwork:
    """The network of the series: two convolutions and a linear layer (series, part 3).

    Images are floats (B, 1, 28, 28) from 0 to 1, labels integers (B,) from 0 to 9; with other
    layers, other sizes. With keepgrad=True, forward keeps every layer's x in layer_inputs.
    """

    def __init__(self) -> None:
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
        """Map images (B, 1, 28, 28) to logits (B, 10); keepgrad keeps what backward needs."""
        # The shape stays, but in memory the B values of one pixel become neighbours, as they remain
        # up to the logits: pooling and convolution then read long runs, which is 7% faster.
        x = np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0)
        if x.dtype.kind != "f":
            raise TypeError(f"the images have dtype {x.dtype}, expected floats from 0 to 1")
        if keepgrad:
            self.layer_inputs = []
        for layer in self.layers:
            if keepgrad:
                self.layer_inputs.append(x)
            x = layer.forward(x)
        return x

    def backward(self, last_x_grad: np.ndarray, need_x_grad: bool = True) -> np.ndarray:
        """After forward(x, keepgrad=True), map dL/dlogits to dL/dimages or None; set all *_grad."""
        for layer, x in zip(reversed(self.layers[1:]), reversed(self.layer_inputs[1:])):
            last_x_grad = layer.backward(x, last_x_grad)
        first, x = self.layers[0], self.layer_inputs[0]
        if type(first) is ConvolutionLayer:  # your own may not know need_x_grad
            return first.backward(x, last_x_grad, need_x_grad)
        return first.backward(x, last_x_grad)

    def update(self, lr: float) -> None:
        """Take one step of gradient descent in each layer that has an update."""
        for layer in self.layers:
            if hasattr(layer, "update"):
                layer.update(lr)

    def train(self, train_x: np.ndarray, train_y: np.ndarray,
              batch_size: int, epochs: int, lr: float) -> float:
        """Make one pass in the given order; return its mean loss. It does not use its epochs."""
        loss_sum = 0.0
        for x, y in self._batches(train_x, train_y, batch_size):
            logits = self.forward(x, keepgrad=True)
            loss_sum += self.loss_func.forward(logits, y) * len(y)
            last_x_grad = self.loss_func.backward(logits, y)
            self.backward(last_x_grad, need_x_grad=False)  # True takes a third longer
            self.update(lr)
            self.layer_inputs.clear()
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
        return CrossEntropyLoss.softmax(np.concatenate(logits))

    def save(self, path: str) -> None:
        """Write the parameters, k0 b0 k3 b3 w7 b7, as .npz; it sees no layers inside a layer."""
        path = Path(path)
        with TemporaryDirectory(prefix=path.name, dir=path.parent) as folder:
            np.savez(f"{folder}/network.npz", **self._parameters())
            Path(folder, "network.npz").replace(path)  # an older file stays until now

    def load(self, path: str) -> None:
        """Take the parameters of a file that save wrote; another file or NaN is a ValueError."""
        with open(path, "rb") as file:
            try:
                arrays = dict(np.load(file))
                finite = all(np.isfinite(array).all() for array in arrays.values())
            except Exception as error:  # np.load raises many kinds of errors
                raise ValueError(f"{path} is not a network that save wrote: {error}") from error
        found = {name: np.shape(array) for name, array in arrays.items()}
        expected = {name: array.shape for name, array in self._parameters().items()}
        if found != expected or not finite:
            raise ValueError(f"{path} holds {found}, finite: {finite}, expected {expected}")
        for name, array in self._parameters().items():
            array[...] = arrays[name]

    def _parameters(self) -> dict[str, np.ndarray]:
        """Return the parameters by their names in a file: k0 is layers[0].k."""
        parameters = {}
        for number, layer in enumerate(self.layers):
            for name, array in vars(layer).items():
                if isinstance(array, np.ndarray) and not name.endswith("_grad"):
                    parameters[f"{name}{number}"] = array
        return parameters

    def _batches(self, x: np.ndarray, y: np.ndarray, batch_size: int) -> list[tuple]:
        """Return the images and labels of each batch; the last one may be smaller."""
        if not 0 < len(x) == len(y) or batch_size < 1:
            raise ValueError(f"{len(x)} images, {len(y)} labels, {batch_size=}: unequal or below 1")
        starts = range(0, len(x), batch_size)
        return [(x[start:start + batch_size], y[start:start + batch_size]) for start in starts]


def _parse_arguments() -> argparse.Namespace:
    """Return the arguments of the run."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, default=100, help="images for each step")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate, the length of a step")
    parser.add_argument("--seed", type=int, default=1234, help="seed of NumPy's generator")
    parser.add_argument("--data", default="cv-data", help="folder that holds train and test")
    parser.add_argument("--save", metavar="FILE.npz", help="keep the network of the last epoch")
    args = parser.parse_args()
    if (args.epochs < 1 or args.batch_size < 1 or not 0 < args.lr < math.inf
            or not 0 <= args.seed < 2**32):
        parser.error(f"expected epochs, batch_size >= 1, lr > 0, 0 <= seed < 2**32, not {args}")
    if args.save and not args.save.endswith(".npz"):
        parser.error(f"expected --save FILE.npz, not {args.save}")
    return args


@np.errstate(over="ignore", invalid="ignore")  # no warnings: a loss that is not finite raises
def main() -> int:
    """Train, report and draw; return the exit status (series, part 3)."""
    args = _parse_arguments()
    np.random.seed(args.seed)
    if not Path(args.data, "train").is_dir():
        raise FileNotFoundError(f"no {args.data}/train: --data names the folder of train and test")
    train_x, train_y = load_dataset(f"{args.data}/train", shuffle=True)
    test_x, test_y = load_dataset(f"{args.data}/test")
    print(train_x.shape, train_y.shape)
    print(test_x.shape, test_y.shape)
    for folder, x in ("train", train_x), ("test", test_x):
        if x.shape[2:] != (28, 28):
            raise ValueError(f"{args.data}/{folder} has images of {x.shape[2:]}, expected (28, 28)")
    cnn = ConvolutionNeuralNetwork()
    losses, status = [], 0
    print("=============== Begin Train ===============", flush=True)
    start_time = time.perf_counter()
    try:
        for epoch in range(1, args.epochs + 1):
            train_loss = cnn.train(train_x, train_y, args.batch_size, args.epochs, args.lr)
            test_loss = cnn.test(test_x, test_y, args.batch_size)
            if args.save:
                cnn.save(args.save)
            losses.append((train_loss, test_loss))
            print(f"Epoch: {epoch:3d} Train Loss: {train_loss:.4f} Test Loss: {test_loss:.4f}",
                  flush=True)
    except KeyboardInterrupt:
        print("interrupted: here is what was learned so far", file=sys.stderr)
        status = 130
    minutes = (time.perf_counter() - start_time) / 60
    print(f"=============== End Train: {minutes:.2f} min ===============")
    for name, x, y in ("Train", train_x, train_y), ("Test", test_x, test_y):
        answers = cnn.predict(x).argmax(axis=1)
        print(f"=============== Classification Report: {name} ===============")
        print(classification_report(y, answers, digits=4, zero_division=0), flush=True)
    if losses:
        first = 1 if len(losses) > 1 else 0  # the first epoch's losses would flatten the rest
        axes = Figure(figsize=(8, 5), layout="constrained").subplots()
        axes.plot(range(first + 1, len(losses) + 1), losses[first:], marker=".",
                  label=["training images", "test images"])
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)  # no half epochs
        axes.set(title="Loss over the epochs", xlabel="epoch", ylabel="mean cross-entropy loss")
        axes.legend()
        axes.grid(alpha=0.3)
        axes.figure.savefig("loss.png", dpi=150)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ValueError, RuntimeError, FloatingPointError) as error:
        sys.stdout = None  # after | head has closed it, Python's last flush would fail
        sys.exit(f"cnn_numpy.py: error: {error}")
