"""What several test files need."""
import os

import numpy as np
import pytest

NAME = "my digits \u6570\u5b57"  # of a file or folder, with what trips up careless code
try:
    os.fsencode(NAME)
except UnicodeEncodeError:  # a locale that knows ASCII only
    NAME = "my digits"


def parameters(layer):
    """Return the names of the parameters that a layer has."""
    return [name for name in ("k", "w", "b") if hasattr(layer, name)]


def as_dtype(layer, dtype):
    """Return the layer with its parameters in a dtype."""
    for name in parameters(layer):
        setattr(layer, name, getattr(layer, name).astype(dtype))
    return layer


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
