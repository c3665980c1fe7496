"""Functions that several test files need."""
from pathlib import Path

import numpy as np
import pytest

PROJECT = Path(__file__).parents[1]
NAME = "my digits \u6570\u5b57"  # for files and folders: with a space and Chinese letters


def assert_same(what, actual, expected, error=1e-12):
    """Fail with one line that says what is wrong, and by how much of the whole array."""
    if actual.shape != expected.shape:
        pytest.fail(f"{what} has shape {actual.shape}, expected {expected.shape}", pytrace=False)
    norm = max(np.linalg.norm(expected), 1e-99)
    off = np.linalg.norm(actual - expected) / norm
    if not off <= error:  # true for NaN, too
        message = f"{what} is off by {off:.2g} of its size"
        factor = np.vdot(expected, actual) / norm**2  # the best for actual = factor * expected
        if np.linalg.norm(actual - factor * expected) <= 1e-6 * norm:
            message += f": it is {factor:.4g} times what it should be"
        pytest.fail(message, pytrace=False)


def assert_all_same(actual, expected, error=1e-12):
    """Compare arrays by their names."""
    assert sorted(actual) == sorted(expected)
    for name, array in actual.items():
        assert_same(name, array, expected[name], error)
