"""Time this network beside PyTorch's: python tests/benchmark.py, a minute or two.

An epoch trains on 10,000 images and tests on 5,000. All networks start from the same parameters
and see the same batches; they take turns, so that a slow moment of the machine meets them all.
With --avx2 all libraries are held to AVX2, which is what processors without AVX-512 have.
"""
import argparse
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
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
BATCH_SIZE = 100
LR = 0.1
AVX2 = {  # read by NumPy's OpenBLAS, PyTorch, its oneDNN and NumPy when they are loaded
    "OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL "
                                "AVX512_SPR X86_V4",  # each version of NumPy knows some of these
    "PYTHONWARNINGS": "ignore"}


class NumPyNetwork:
    """This network."""

    def __init__(self, data):
        from cnn_numpy import ConvolutionNeuralNetwork
        self.network = ConvolutionNeuralNetwork()
        self.train_x, self.train_y, self.test_x, self.test_y = data

    def train(self, count, batch_size):
        """Train on the first images."""
        self.network.train(self.train_x[:count], self.train_y[:count], batch_size, 1, LR)

    def epoch(self):
        """Train for an epoch and return the test loss."""
        self.train(len(self.train_y), BATCH_SIZE)
        return self.network.test(self.test_x, self.test_y, BATCH_SIZE)


class PyTorchNetwork:
    """The same network in PyTorch, as its users write it."""

    def __init__(self, data, memory_format):
        import torch
        from torch import nn
        self.no_grad = torch.no_grad
        memory_format = getattr(torch, memory_format)
        train_x, self.train_y, test_x, self.test_y = map(torch.from_numpy, data)
        self.train_y, self.test_y = self.train_y.long(), self.test_y.long()  # as PyTorch wants
        self.train_x = train_x.contiguous(memory_format=memory_format)
        self.test_x = test_x.contiguous(memory_format=memory_format)
        self.network = nn.Sequential(
            nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(4, 16, 3), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(400, 10)).to(memory_format=memory_format)
        self.loss_func = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=LR)

    def start_from(self, layers):
        """Take the parameters of the layers of cnn_numpy."""
        with self.no_grad():
            for number, weight in ((0, layers[0].k), (3, layers[3].k), (7, layers[7].w.T)):
                self.network[number].weight[...] = self.train_x.new_tensor(weight)
                self.network[number].bias[...] = self.train_x.new_tensor(layers[number].b.ravel())

    def train(self, count, batch_size):
        """Train on the first images."""
        loss_sum = 0.0
        for x, y in zip(self.train_x[:count].split(batch_size),
                        self.train_y[:count].split(batch_size)):
            loss = self.loss_func(self.network(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.item() * len(y)  # which this network's train computes as well

    def epoch(self):
        """Train for an epoch and return the test loss."""
        self.train(len(self.train_y), BATCH_SIZE)
        loss_sum = 0.0
        with self.no_grad():
            for x, y in zip(self.test_x.split(BATCH_SIZE), self.test_y.split(BATCH_SIZE)):
                loss_sum += self.loss_func(self.network(x), y).item() * len(y)
        return loss_sum / len(self.test_y)


NETWORKS = {"this network": (NumPyNetwork,)}
try:
    PYTORCH = f", PyTorch {version('torch')}"
    for memory_format in ("contiguous_format", "channels_last"):
        NETWORKS[f"PyTorch, {memory_format}"] = PyTorchNetwork, memory_format
except PackageNotFoundError:
    PYTORCH = ""


def peak_memory(name):
    """Return the peak memory in MiB of this process after an epoch on noise."""
    rng = np.random.default_rng(0)
    data = [array for count in (10000, 5000)
            for array in (rng.random((count, 1, 28, 28), dtype=np.float32),
                          rng.integers(0, 10, count))]
    make, *arguments = NETWORKS[name]
    make(data, *arguments).epoch()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def seconds(turn):
    """Return the seconds that a turn takes, and what it returns."""
    # The idle threads of both libraries spin for a moment: a turn begins when they have stopped.
    time.sleep(0.15)
    begin = time.perf_counter()
    result = turn()
    return time.perf_counter() - begin, result


def compare(networks, memory):
    """Print the epochs of all networks side by side."""
    epochs = {name: [] for name in networks}
    for _ in range(TURNS + 1):
        for name, network in networks.items():
            epochs[name].append(seconds(network.epoch))
    print(f"\nan epoch, median of {TURNS}          seconds  peak memory  test loss")
    times = {}
    for name, results in epochs.items():
        times[name] = [result[0] for result in results[1:]]  # the first warms up
        peak = f"{memory[name]:7.0f} MiB" if memory else "    unknown"
        print(f"{name:28}  {median(times[name]):7.3f}  {peak}  {results[-1][1]:9.4f}")
    ours, *others = times.values()
    if others:
        ratios = [time / other for time, other in zip(ours, min(others, key=median))]
        print(f"this network / PyTorch's better format: {median(ratios):.2f} "
              f"({min(ratios):.2f} to {max(ratios):.2f})")
        if max(ratios) > 1.5 * min(ratios):
            print("Do not believe it: single epochs differ too much, this machine has other work.")
    else:
        print("For PyTorch's rows: python -m pip install torch==2.13.0")


def growth(networks):
    """Print what training costs with other batch sizes and numbers of images."""
    notes = {10: "  Python's calls", 100: "", 1000: "  a row's patches leave the cache"}
    cases = [(3000, 10), (3000, 100), (3000, 1000), (1000, 100), (10000, 100)]
    times = {(case, name): [] for case in cases for name in networks}
    faults = dict.fromkeys(cases, 0)
    for _ in range(TURNS):
        for (case, name), results in times.items():
            before = page_faults()
            results.append(seconds(partial(networks[name].train, *case))[0] / case[0] * 1000)
            if name == "this network":
                faults[case] = (page_faults() - before) * case[1] / case[0]
    best = min(median(times[case, "this network"]) for case in cases)
    print(f"\ntraining, median of {TURNS}         s per 1,000 images  / best  / PyTorch  "
          "page faults a batch")
    for case in cases:
        ours, *others = [median(times[case, name]) for name in networks]
        beside = f"{ours / min(others):9.2f}" if others else "  unknown"
        print(f"{case[0]:6,} images, batches of {case[1]:5,}  {ours:13.4f}  {ours / best:11.2f}  "
              f"{beside}  {faults[case]:13.2f}{notes[case[1]] if ours > 1.2 * best else ''}")


def page_faults():
    """Return how often this process has got a page of memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else 0


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--avx2", action="store_true", help="hold all libraries to AVX2")
    if parser.parse_args().avx2:
        environment = {**os.environ, **AVX2}
        sys.exit(subprocess.run([sys.executable, __file__], env=environment).returncode)
    print("This takes one to two minutes.", flush=True)
    memory = {}
    if resource:  # before this process grows: the peak of a new process begins with its parent's
        for name in NETWORKS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                memory[name] = process.submit(peak_memory, name).result()
    from threadpoolctl import threadpool_info  # asked before other packages bring their own BLAS
    blas = [f" ({library['internal_api']} {library['version']}, {library['architecture']})"
            for library in threadpool_info() if library["user_api"] == "blas"]
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
          f"NumPy {np.__version__}{''.join(blas)}{PYTORCH}")
    from cnn_numpy import load_dataset
    np.random.seed(1234)
    data = [*load_dataset(PROJECT / "cv-data" / "train", shuffle=True),
            *load_dataset(PROJECT / "cv-data" / "test")]
    networks = {name: make(data, *arguments) for name, (make, *arguments) in NETWORKS.items()}
    ours, *others = networks.values()
    for network in others:
        network.start_from(ours.network.layers)
    compare(networks, memory)
    growth(networks)


if __name__ == "__main__":
    main()
