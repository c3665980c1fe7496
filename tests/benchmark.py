"""Measure what the README says of speed and memory: python tests/benchmark.py, two minutes.

All networks start from the same parameters and see the same batches; they take turns, so that a
slow moment of the machine meets them all. With --avx2 all libraries are held to AVX2, which is
what processors without AVX-512 have. PyTorch is measured in both of its memory formats, if it is
installed (python -m pip install torch==2.13.0), and the ratio is to the better of the two.
"""
import argparse
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np

try:
    import resource
except ImportError:  # Windows
    resource = None

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))
TURNS = 8
OURS = "this network"
LR = 0.1
AVX2 = {  # NumPy's OpenBLAS, PyTorch, its oneDNN and NumPy read this when they are loaded
    "OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL "
                                "AVX512_SPR X86_V4",  # each version of NumPy knows some of these
    "PYTHONWARNINGS": "ignore"}


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

    def start_from(self, layers):
        """Take the parameters of the layers of cnn_numpy."""
        for number, weight in [(0, layers[0].k), (3, layers[3].k), (7, layers[7].w.T)]:
            self.layers[number].weight.data[...] = self.torch.tensor(weight)
            self.layers[number].bias.data[...] = self.torch.tensor(layers[number].b.ravel())

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
    return ConvolutionNeuralNetwork()


def memory(name):
    """Return the peak memory in MiB and the page faults of a step, in a process of its own."""
    x = np.random.default_rng(0).random((10000, 1, 28, 28), np.float32)
    network, faults = make(name), []
    for _ in range(2):  # the first epoch warms up
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        network.train(x, np.arange(10000) % 10, 100, 1, LR)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return peak, (usage.ru_minflt - faults[1]) / 100


def seconds(networks, turn):
    """Return the median time of a turn of each network."""
    times = {name: [] for name in networks}
    for _ in range(TURNS + 1):
        for name, network in networks.items():
            time.sleep(0.15)  # until the idle threads of both libraries have stopped to spin
            begin = time.perf_counter()
            turn(network)
            times[name].append(time.perf_counter() - begin)
    return [median(each[1:]) for each in times.values()]  # the first turn warms up


def print_row(what, values):
    """Print the values of all networks, and the first beside the least of the others."""
    text = f"{what:34}" + "".join(f"{value:19.3f}" for value in values)
    print(text + (f"{values[0] / min(values[1:]):8.2f}" if values[1:] else ""), flush=True)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--avx2", action="store_true", help="hold all libraries to AVX2")
    if parser.parse_args().avx2:
        environment = {**os.environ, **AVX2}
        sys.exit(subprocess.run([sys.executable, __file__], env=environment).returncode)
    from cnn_numpy import load_dataset
    names = [OURS]
    if find_spec("torch"):
        names += ["contiguous_format", "channels_last"]
    print(f"{platform.platform()}, {os.cpu_count()} cores, NumPy {np.__version__}")
    print(" " * 34 + "".join(f"{name:>19}" for name in names) + "   ratio")
    if resource:
        columns = []
        for name in names:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                columns.append(process.submit(memory, name).result())
        peaks, faults = zip(*columns)
        print_row("peak memory in MiB", peaks)
        print(f"{'page faults of a step':34}" + "".join(f"{count:19.1f}" for count in faults))
    networks = {name: make(name) for name in names}
    for name in names[1:]:
        networks[name].start_from(networks[OURS].layers)
    np.random.seed(1234)
    train = load_dataset(PROJECT / "cv-data" / "train", shuffle=True)
    test = load_dataset(PROJECT / "cv-data" / "test")

    def epoch(network):
        network.train(*train, 100, 1, LR)
        network.test(*test, 100)

    print_row("seconds of an epoch", seconds(networks, epoch))
    print_row("its test loss", [network.test(*test, 100) for network in networks.values()])
    x, y = train[0][:1000], train[1][:1000]
    for batch_size in (10, 100, 1000):
        def turn(network, batch_size=batch_size):
            network.train(x, y, batch_size, 1, LR)

        print_row(f"seconds of 1,000, batches of {batch_size}", seconds(networks, turn))


if __name__ == "__main__":
    main()
