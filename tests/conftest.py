"""Let the tests import the module beside this folder, and share the real digits."""
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))


@pytest.fixture(scope="session")
def digits():
    """Return the test digits, shuffled, and their labels."""
    from cnn_numpy import load_dataset
    np.random.seed(1234)
    return load_dataset(Path(__file__).parents[1] / "cv-data" / "test", shuffle=True)
