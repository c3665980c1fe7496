"""What several test files need."""
import sys
from functools import partial

import definitions
import numpy as np
import pytest

from cnn_numpy import ConvolutionLayer, FlattenLayer, LinearLayer, MaxPoolingLayer, ReLULayer

NAME = "my digits \u6570\u5b57"  # of a file or folder, with what trips up careless code
if sys.getfilesystemencoding() != "utf-8":  # a locale that knows ASCII only
    NAME = "my digits"


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
    if isinstance(layer, FlattenLayer):
        start, end = layer.start % x.ndim, layer.end % x.ndim
        flat = [x[(slice(None),) * start + index] for index in np.ndindex(x.shape[start:end + 1])]
        return np.stack(flat, axis=start), lambda y_grad: {"x": y_grad.reshape(x.shape)}
    name = {MaxPoolingLayer: "max_pooling", ReLULayer: "relu", LinearLayer: "linear",
            ConvolutionLayer: "convolution"}[type(layer)]
    arguments = [getattr(layer, argument) for argument in ("k1", "k2", "k", "w", "b")
                 if hasattr(layer, argument)]
    backward = partial(getattr(definitions, f"{name}_backward"), x, *arguments)
    return getattr(definitions, name)(x, *arguments), backward


def assert_same(what, actual, expected, error=1e-12):
    """Fail with one line that says what is wrong, and how far, relative to the whole array."""
    if actual.shape != expected.shape:
        pytest.fail(f"{what} has shape {actual.shape}, expected {expected.shape}", pytrace=False)
    size = np.linalg.norm(expected)
    off = np.linalg.norm(actual - expected)
    if not off <= error * size:
        factor = np.vdot(expected, actual) / max(size, 1e-300) ** 2
        is_multiple = np.linalg.norm(actual - factor * expected) <= 1e-6 * size
        hint = f": it is {factor:.4g} times what it should be" if is_multiple else ""
        pytest.fail(f"{what} is off by {off / max(size, 1e-300):.2g} of its size{hint}",
                    pytrace=False)
