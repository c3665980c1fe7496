"""Functions that several test files need."""
import functools
import gc
import inspect
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sklearn
from PIL import Image, ImageFile
from threadpoolctl import threadpool_info

PROJECT = Path(__file__).parents[1]
ENVIRONMENT = dict(os.environ)  # as it was before the import of cnn_numpy
NAME = "my digits \u6570\u5b57"  # for files and folders: with a space and Chinese letters

MEMORY = {  # the same float64 numbers at other places in memory
    "in Fortran order": np.asfortranarray,
    "with gaps": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "with columns before lines": lambda x: np.swapaxes(np.swapaxes(x, -1, -2).copy(), -1, -2),
    "reversed": lambda x: np.flip(np.flip(x).copy()),
    "with channels last": lambda x: np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1),
    "with images innermost": lambda x: np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0),
    "big-endian": lambda x: x.astype(">f8"),
}


def network_of(seed):
    """Return the network that a seed gives."""
    import cnn_numpy
    np.random.seed(seed)
    return cnn_numpy.ConvolutionNeuralNetwork()


def arrays_of(network, ending=""):
    """Return the parameters by their names in a file, or with "_grad" their gradients."""
    arrays = {}
    for number, layer in enumerate(network.layers):
        for name in ("k", "w", "b"):
            if hasattr(layer, name):
                arrays[f"{number}.{name}"] = getattr(layer, name + ending)
    return arrays


source_of = functools.cache(inspect.getsource)  # which reads the file again each time


def alone(name, others=()):
    """Run the source of a class in a file that has only NumPy, the base classes and others."""
    import cnn_numpy  # here, because conftest.py makes its folder known after it imports this file

    bases = "import numpy as np\nclass NetworkLayer: pass\nclass ParamLayer(NetworkLayer): pass\n"
    names = dict(others)
    exec(bases + source_of(getattr(cnn_numpy, name)), names)
    return names[name]


def assert_same(what, actual, expected, error=1e-12):
    """Fail with one line that says what is wrong, and by how much of the whole array."""
    if actual.shape != expected.shape:
        pytest.fail(f"{what} has shape {actual.shape}, expected {expected.shape}", pytrace=False)
    off = np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-99)
    if not off <= error:  # true for NaN, too
        pytest.fail(f"{what} is off by {off:.2g} of its size", pytrace=False)


def assert_all_same(actual, expected, error=1e-12):
    """Compare arrays by their names."""
    assert sorted(actual) == sorted(expected)
    for name, array in actual.items():
        assert_same(name, array, expected[name], error)


def states():
    """Return by name what belongs to the whole process, so that a call must leave it alone."""
    umask = os.umask(0o022)  # it can only be read by setting it
    os.umask(umask)
    return {
        "NumPy's errors": [np.geterr(), np.geterrcall(), np.getbufsize()],
        "NumPy's print options": np.get_printoptions(),
        "NumPy's random numbers": str(np.random.get_state()),
        "Python's random numbers": random.getstate(),
        "warnings": [*warnings.filters, warnings.showwarning],
        "logging": [logging.root.level, logging.root.manager.disable, *logging.root.handlers],
        "rcParams": str(dict.items(matplotlib.rcParams)),  # str(rcParams) would choose a backend
        "pyplot": "matplotlib.pyplot" in sys.modules,
        "scikit-learn": sklearn.get_config(),
        "Pillow": [Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES],
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "garbage collection": [gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()],
        "how errors are shown": [sys.excepthook, getattr(sys, "tracebacklimit", None)],
        "limits": [sys.getrecursionlimit(), sys.getswitchinterval()],
        "standard files": [sys.stdin, sys.stdout, sys.stderr, sys.displayhook],
        "line buffering": getattr(sys.stdout, "line_buffering", None),
        "sys.path": list(sys.path),
        "sys.argv": list(sys.argv),
        "environment": dict(os.environ),
        "working folder": os.getcwd(),
        "umask": umask,
        "locale": locale.setlocale(locale.LC_ALL),
        "threads": threading.active_count(),
        "processors": os.sched_getaffinity(0) if sys.platform == "linux" else None,
        "BLAS threads": [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()],
    }
