"""Where the tests find what they test, and what several of them need."""
import sys

import numpy as np
import pytest
from helpers import PROJECT, run_readme

sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "examples")]


@pytest.fixture(scope="session")
def digits():
    """Return the test digits, shuffled, and their labels."""
    from cnn_numpy import load_dataset
    np.random.seed(1234)
    return load_dataset(PROJECT / "cv-data" / "test", shuffle=True)


@pytest.fixture(scope="session")
def check_gradients():
    """Return the README's function, which compares a layer's gradients with slopes."""
    return run_readme("def check_gradients")["check_gradients"]
