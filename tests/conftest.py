"""Let the tests import the module beside this folder, and share the digits and the README."""
import re
import sys

import numpy as np
import pytest
from helpers import PROJECT, README

sys.path.insert(0, str(PROJECT))


@pytest.fixture(scope="session")
def digits():
    """Return the test digits, shuffled, and their labels."""
    from cnn_numpy import load_dataset
    np.random.seed(1234)
    return load_dataset(PROJECT / "cv-data" / "test", shuffle=True)


@pytest.fixture(scope="session")
def readme():
    """Return a function that runs the README's block of code with some words in it."""
    def run(words):
        blocks = re.findall(r"```python\n([^`]*)```", README)
        [block] = [block for block in blocks if words in block]
        names = {}
        exec(compile(block, "README.md", "exec"), names)
        return names
    return run


@pytest.fixture(scope="session")
def check_gradients(readme):
    """Return the README's function, which compares a layer's gradients with slopes."""
    return readme("def check_gradients")["check_gradients"]
