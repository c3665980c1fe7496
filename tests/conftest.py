"""Fixtures that several test files need."""
import shutil
import sys

import pytest
from helpers import NAME, PROJECT

sys.path[:0] = [str(PROJECT), str(PROJECT / "tests" / "examples")]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Return a folder with 98 digits for training and 50 for the test."""
    folder = tmp_path_factory.mktemp("data [0-9]") / NAME  # to glob, brackets would be a pattern
    for path in (PROJECT / "cv-data").glob("*/*/*77.png"):  # one in a hundred
        copy = folder / path.relative_to(PROJECT / "cv-data")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    for name in (".DS_Store", "7/.DS_Store", "7/._77.png", "7/Thumbs.db", "7/desktop.ini"):
        (folder / "train" / name).write_bytes(b"no image")  # systems leave these behind
    first = min((folder / "train" / "1").iterdir())
    first.rename(first.with_name("9.png"))  # in the order of names it is the last, not the first
    return folder
