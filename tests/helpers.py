"""What several test files need."""
import sys
from functools import partial
from pathlib import Path

import definitions
import numpy as np
import pytest

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
NAME = "my digits \u6570\u5b57"  # of a file or folder, with what trips up careless code
if sys.getfilesystemencoding() != "utf-8":  # a locale that knows ASCII only
    NAME = "my digits"
CASES = [  # a layer, the shape of its x, the shape of its y
    ("MaxPoolingLayer", (3, 2), (2, 3, 6, 4), (2, 3, 2, 2)),
    ("ReLULayer", (), (2, 3, 4, 5), (2, 3, 4, 5)),
    ("ReLULayer", (), (7,), (7,)),
    ("FlattenLayer", (), (2, 3, 4, 5), (2, 60)),
    ("FlattenLayer", (-3, 2), (2, 3, 4, 5), (2, 12, 5)),
    ("FlattenLayer", (0, -1), (2, 3, 4), (24,)),
    ("FlattenLayer", (), (2, 3), (2, 3)),
    ("LinearLayer", (4, 3), (5, 4), (5, 3)),
    ("LinearLayer", (2, 6), (1, 2), (1, 6)),
    ("ConvolutionLayer", (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
    ("ConvolutionLayer", (1, 2, 3, 2), (3, 1, 5, 6), (3, 2, 3, 5)),
    ("ConvolutionLayer", (2, 3, 2, 3), (2, 2, 5, 4), (2, 3, 4, 2)),
    ("ConvolutionLayer", (2, 2, 4, 5), (1, 2, 4, 5), (1, 2, 1, 1)),  # as large as the kernel
]


def parameters(layer):
    """Return the names of the parameters that a layer has."""
    return [name for name in ("k", "w", "b") if hasattr(layer, name)]


def as_dtype(layer, dtype):
    """Return the layer with its parameters in a dtype."""
    for name in parameters(layer):
        setattr(layer, name, getattr(layer, name).astype(dtype))
    return layer


def definition(layer, x):
    """Return y and the function of dL/dy that gives all gradients, as the layer is defined."""
    name = type(layer).__name__[:-len("Layer")]
    if name == "Flatten":
        start, end = layer.start % x.ndim, layer.end % x.ndim
        flat = [x[(slice(None),) * start + index] for index in np.ndindex(x.shape[start:end + 1])]
        return np.stack(flat, axis=start), lambda y_grad: {"x": y_grad.reshape(x.shape)}
    arguments = [getattr(layer, name) for name in ("k1", "k2", "k", "w", "b")
                 if hasattr(layer, name)]
    name = {"MaxPooling": "max_pooling"}.get(name, name.lower())
    backward = partial(getattr(definitions, f"{name}_backward"), x, *arguments)
    return getattr(definitions, name)(x, *arguments), backward


def assert_same(what, actual, expected, error=1e-12):
    """Fail with one line that says what is wrong, and how far, relative to the whole array."""
    if actual.shape != expected.shape:
        pytest.fail(f"{what} has shape {actual.shape}, expected {expected.shape}", pytrace=False)
    size = max(np.linalg.norm(expected), 1e-99)
    off = np.linalg.norm(actual - expected) / size
    if not off <= error:
        factor = np.vdot(expected, actual) / size**2
        is_multiple = np.linalg.norm(actual - factor * expected) <= 1e-6 * size
        hint = f": it is {factor:.4g} times what it should be" if is_multiple else ""
        pytest.fail(f"{what} is off by {off:.2g} of its size{hint}", pytrace=False)


def results(layer, x, y_grad):
    """Return y and all gradients that the layer gives, by their names."""
    y, _ = layer.forward(x), layer.forward(x - 1)  # which backward must not go by
    tripled = layer.backward(x, 3 * y_grad)  # whose gradients of parameters are overwritten
    x_grad = layer.backward(x, y_grad)
    assert_same("dL/dX of three times dL/dY", tripled, 3 * x_grad, 1e-6)
    return {"y": y, "x": x_grad, **{name: getattr(layer, f"{name}_grad").copy()
                                    for name in parameters(layer)}}


def assert_as_defined(layer, x, y_grad, error=1e-13):
    """Check y and all gradients, each under the name that the code and the articles give it."""
    y, backward = definition(layer, x)
    expected = {"y": y, **backward(y_grad)}
    for name, actual in results(layer, x, y_grad).items():
        symbol = {"y": "y of forward", "x": "what backward returns, dL/dX,"}.get(
            name, f"{name}_grad, dL/d{name},")
        assert_same(symbol, actual, expected[name], error)
