"""Measure the table of the README's section on speed: python tests/benchmark.py, two minutes.

PyTorch is measured in both of its memory formats, if it is installed (pip install torch==2.13.0),
and the ratio is to the better of the two. Our network is as in the run of cnn_numpy.py: without
the gradient of the images, and with one BLAS thread. PyTorch uses all cores, as its users have it.
The networks take turns, so that a slow moment of the machine meets them all. Memory is measured in
a new process for each network.
"""
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits  # which is installed with scikit-learn

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))
TURNS = 8
LR = 0.1
OURS = "this network"
FORMATS = ["contiguous_format", "channels_last"] if find_spec("torch") else []


class PyTorchNetwork:
    """The same network in PyTorch, as its users write it."""

    def __init__(self, memory_format):
        import torch
        from torch import nn
        self.torch, self.memory_format = torch, getattr(torch, memory_format)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(4, 16, 3), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(400, 10)).to(memory_format=self.memory_format)
        self.loss_func = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.layers.parameters(), lr=LR)

    def batches(self, x, y, batch_size):
        """Return pairs of the images and the labels of each batch."""
        x = self.torch.from_numpy(x).contiguous(memory_format=self.memory_format)
        y = self.torch.from_numpy(y).long()  # as PyTorch wants them
        return zip(x.split(batch_size), y.split(batch_size))

    def train(self, train_x, train_y, batch_size, epochs, lr):
        """Do what our train does."""
        loss_sum = 0.0
        for x, y in self.batches(train_x, train_y, batch_size):
            loss = self.loss_func(self.layers(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.item() * len(y)
        return loss_sum / len(train_y)

    def test(self, test_x, test_y, batch_size):
        """Do what our test does."""
        loss_sum = 0.0
        with self.torch.no_grad():
            for x, y in self.batches(test_x, test_y, batch_size):
                loss_sum += self.loss_func(self.layers(x), y).item() * len(y)
        return loss_sum / len(test_y)


def make(name):
    """Return a network."""
    if name != OURS:
        return PyTorchNetwork(name)
    from cnn_numpy import ConvolutionNeuralNetwork
    network = ConvolutionNeuralNetwork()
    network.layers[0].need_x_grad = False
    return network


def threads_of(name):
    """Return a block in which a network has the threads that its users give it."""
    return threadpool_limits(1 if name == OURS else None, user_api="blas")  # None: all cores


def memory(name):
    """Train for an epoch; return the peak memory of this process in MiB."""
    import resource
    x = np.random.default_rng(0).random((10000, 1, 28, 28), np.float32)
    with threads_of(name):
        make(name).train(x, np.arange(10000) % 10, 100, 1, LR)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def seconds(networks, images, batch_size, test=None):
    """Return the median time in which each network trains, and tests if there are test images."""
    times = {name: [] for name in networks}
    for _ in range(TURNS + 1):
        for name, network in networks.items():
            time.sleep(0.15)  # until the idle threads of both libraries have stopped to spin
            with threads_of(name):
                begin = time.perf_counter()
                network.train(*images, batch_size, 1, LR)
                if test:
                    network.test(*test, batch_size)
                times[name].append(time.perf_counter() - begin)
    return [median(each[1:]) for each in times.values()]  # the first turn warms up


def print_row(what, values):
    """Print the values of all networks, and the first beside the least of the others."""
    ratio = f"{values[0] / min(values[1:]):8.2f}" if values[1:] else ""
    print(f"{what:36}" + "".join(f"{value:19.3f}" for value in values) + ratio, flush=True)


def main():
    """Print the table."""
    from cnn_numpy import load_dataset
    names = [OURS, *FORMATS]
    print(f"{platform.platform()}, {os.cpu_count()} cores, NumPy {np.__version__}; "
          "one BLAS thread for this network, all cores for PyTorch")
    print(" " * 36 + "".join(f"{name:>19}" for name in names) + "   ratio")
    if sys.platform != "win32":  # which counts memory in another way
        peaks = []  # measured first: a new process begins with the peak of this one
        for name in names:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                peaks.append(process.submit(memory, name).result())
        print_row("peak memory in MiB", peaks)
    np.random.seed(1234)
    x, y = load_dataset(PROJECT / "cv-data" / "train", shuffle=True)
    test = load_dataset(PROJECT / "cv-data" / "test")
    networks = {name: make(name) for name in names}
    print_row("seconds of an epoch", seconds(networks, (x, y), 100, test))
    for count, batch_size in [(1000, 10), (1000, 100), (10000, 1000), (10000, 5000)]:
        row = f"seconds of {count:,} in batches of {batch_size:,}"
        print_row(row, seconds(networks, (x[:count], y[:count]), batch_size))


if __name__ == "__main__":
    main()
