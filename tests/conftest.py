"""Where the tests find what they test, and what several of them need."""
import shutil
import sys

import numpy as np
import pytest
from helpers import NAME, PROJECT, run_readme

sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "examples")]


@pytest.fixture(scope="session")
def digits():
    """Return the test digits, shuffled, and their labels."""
    from cnn_numpy import load_dataset
    np.random.seed(1234)
    return load_dataset(PROJECT / "cv-data" / "test", shuffle=True)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Return a folder with one in a hundred of the digits, those whose names end in 77.png."""
    folder = tmp_path_factory.mktemp("data") / NAME
    others = shutil.ignore_patterns("*[!7].png", "*[!7]7.png")
    shutil.copytree(PROJECT / "cv-data", folder, ignore=others)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):  # macOS and Windows leave these behind
        (folder / "train" / "7" / name).write_bytes(b"no image")
    first = min((folder / "train" / "1").iterdir())
    first.rename(first.with_name("9.png"))  # last as text, first as a number
    return folder


@pytest.fixture(scope="session")
def check_gradients():
    """Return the README's function, which compares a layer's gradients with slopes."""
    return run_readme("def check_gradients")["check_gradients"]
