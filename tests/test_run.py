"""The data and the run, as a person starts it."""
import io
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image  # which comes with matplotlib

import cnn_numpy
from cnn_numpy import load_dataset

# A run is fixed by np.random.seed:
# ruff: noqa: NPY002

PROJECT = Path(__file__).parents[1]
SCRIPT = str(PROJECT / "cnn_numpy.py")


@pytest.fixture
def data(tmp_path):
    """Make a small copy of the digits: 6 images of each for training, 3 for the test."""
    for part, count in (("train", 6), ("test", 3)):
        for digit in range(10):
            folder = tmp_path / "cv-data" / part / str(digit)
            folder.mkdir(parents=True)
            for path in sorted((PROJECT / "cv-data" / part / str(digit)).iterdir())[:count]:
                shutil.copy(path, folder)
    return tmp_path / "cv-data"


def run(folder, *arguments):
    """Run the script in a folder, and return what became of it."""
    return subprocess.run([sys.executable, SCRIPT, *arguments], cwd=folder,
                          capture_output=True, encoding="utf-8", timeout=120)


def become_the_script(folder, arguments):
    """Do what a new process of the script does after its imports."""
    os.chdir(folder)
    sys.argv = [SCRIPT, *arguments]
    with open("out", "w", encoding="utf-8") as sys.stdout, \
            open("err", "w", encoding="utf-8") as sys.stderr:
        runpy.run_path(SCRIPT, run_name="__main__")


def fork(folder, *arguments):
    """Do what run does; where processes can be forked, this saves their imports."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    process = context.Process(target=become_the_script, args=(folder, arguments), daemon=True)
    process.start()
    process.join(120)
    out, err = ((folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
    return subprocess.CompletedProcess(arguments, process.exitcode, out, err)


def assert_one_line(result, status, *words):
    """Check that a run ended with a status and one line on standard error."""
    assert result.returncode == status
    assert len(result.stderr.splitlines()) == 1 and "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    if status == 2:
        assert result.stdout == ""


def test_load_dataset(data):
    inputs, targets = load_dataset(data / "train")
    assert inputs.shape == (60, 1, 28, 28) and inputs.dtype == np.float32
    assert inputs.min() == 0 and 0.9 < inputs.max() <= 1
    np.testing.assert_array_equal(targets, np.repeat(np.arange(10), 6))
    assert targets.dtype.kind == "i"
    first = sorted((data / "train" / "0").iterdir())[0]
    np.testing.assert_array_equal(inputs[0, 0], plt.imread(first))
    np.random.seed(1)
    mixed, mixed_targets = load_dataset(str(data / "train"), shuffle=True)
    np.random.seed(1)
    order = np.random.permutation(60)
    np.testing.assert_array_equal(mixed, inputs[order])
    np.testing.assert_array_equal(mixed_targets, targets[order])


def test_other_formats_and_litter(data):
    folder = data / "train" / "0"
    paths = sorted(folder.iterdir())
    grey = plt.imread(paths[0])
    for path in paths:
        path.unlink()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"no image")
    colour = np.dstack([grey, grey, grey])
    plt.imsave(folder / "1.png", colour)  # red, green, blue and opacity
    plt.imsave(folder / "2.png", np.dstack([np.ones_like(colour), grey]))
    Image.fromarray((colour * 255).round().astype(np.uint8)).save(folder / "3.tiff")
    plt.imsave(folder / "4.png", np.dstack([grey, 0 * grey, 0 * grey]))
    inputs, targets = load_dataset(data / "train")
    assert np.sum(targets == 0) == 4 and inputs.dtype == np.float32
    for image in inputs[:3, 0]:
        np.testing.assert_allclose(image, grey, atol=1e-6)
        assert image.dtype == np.float32
    np.testing.assert_allclose(inputs[3, 0], 0.299 * grey, atol=1e-6)


def test_a_file_in_place_of_a_folder(tmp_path):
    (tmp_path / "cv-data").write_text("no folder", encoding="utf-8")
    assert_one_line(fork(tmp_path), 1, "cv-data is missing or not a folder")


@pytest.mark.parametrize("missing", ["", "train", "test", "train/7"])
def test_missing_folder(data, missing):
    shutil.rmtree(data / missing)
    result = fork(data.parent)
    assert_one_line(result, 1, str(Path("cv-data") / missing), "is missing")


def break_empty(folder):
    for path in folder.iterdir():
        path.unlink()
    (folder / ".DS_Store").write_bytes(b"")
    return "3", "at least one image"


def break_text(folder):
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    return "notes.txt", "not a readable image"


def break_truncated(folder):
    path = sorted(folder.iterdir())[1]
    path.write_bytes(path.read_bytes()[:150])
    return path.name, "not a readable image"


def break_size(folder):
    paths = sorted(folder.iterdir())
    plt.imsave(paths[1], np.zeros((20, 28)))
    return paths[1].name, "(20, 28)", "(28, 28)", sorted((folder.parent / "0").iterdir())[0].name


@pytest.mark.parametrize("spoil", [break_empty, break_text, break_truncated, break_size])
def test_unusable_folder(data, spoil):
    words = spoil(data / "test" / "3")
    assert_one_line(fork(data.parent), 1, *words)


@pytest.mark.parametrize("name, value, expected", [
    ("--epochs", "0", "an integer of at least 1"), ("--epochs", "1.5", "an integer of at least 1"),
    ("--batch-size", "0", "an integer of at least 1"), ("--lr", "0", "a finite number above 0"),
    ("--lr", "nan", "a finite number above 0"), ("--lr", "inf", "a finite number above 0"),
    ("--lr", "x", "a finite number above 0"), ("--seed", "-1", "an integer from 0 to 4294967295"),
    ("--seed", "4294967296", "an integer from 0 to 4294967295"),
    ("--save", "nowhere/digits.npz", "a file in a folder that exists"),
    ("--save", ".", "a file in a folder that exists"),
    ("--save", "x" * 5000, "a file in a folder that exists")])
def test_wrong_argument(tmp_path, name, value, expected):
    assert_one_line(fork(tmp_path, name, value), 2, name, f"'{value}', expected {expected}")


def test_unknown_argument(tmp_path):
    assert_one_line(fork(tmp_path, "--what"), 2, "--what")


def test_arguments_at_their_limits(data):
    for seed in ("0", "4294967295"):
        result = fork(data.parent, "--epochs", "1", "--batch-size", "1000", "--lr", "1e-9",
                      "--seed", seed)
        assert result.returncode == 0 and result.stderr == ""
        # digits that an untrained network never answers have no precision, and say so as 0
        assert re.search(r" 0\.0000 +0\.0000 +0\.0000 ", result.stdout)
        assert not re.search(r" 1\.0000 +0\.0000 +0\.0000 ", result.stdout)


def test_an_error_in_a_process_of_its_own(tmp_path):
    assert_one_line(run(tmp_path, "--data", "no digits"), 1, "error: no digits is missing")
    assert list(tmp_path.iterdir()) == []


def test_images_of_another_size(data):
    for path in data.glob("*/*/*"):
        plt.imsave(path, np.zeros((20, 28)))
    assert_one_line(fork(data.parent), 1, "(60, 1, 20, 28)", "(B, 1, 28, 28)")


def test_help_names_every_argument(tmp_path):
    result = fork(tmp_path, "--help")
    assert result.returncode == 0 and result.stdout.isascii()
    for name, default in (("--epochs", "200"), ("--batch-size", "100"), ("--lr", "0.1"),
                          ("--seed", "1234"), ("--data", "cv-data")):
        assert name in result.stdout and f"(default: {default})" in " ".join(result.stdout.split())


def test_run(data):
    folder = data.parent
    named = folder / "my digits \u6570\u5b57"
    shutil.copytree(data, named)
    first = run(folder, "--epochs", "3", "--batch-size", "16")
    again = fork(folder, "--epochs", "3", "--batch-size", "16", "--data", str(named))
    assert first.returncode == 0 and first.stderr == "" and first.stdout.isascii()
    line = "=" * 15
    expected = re.escape(
        "(60, 1, 28, 28) (60,)\n(30, 1, 28, 28) (30,)\n" f"{line} Begin Train {line}\n")
    for epoch in range(1, 4):
        expected += rf"Epoch:   {epoch} Train Loss: \d\.\d{{4}} Test Loss: \d\.\d{{4}}\n"
    expected += rf"{line} End Train: \d\.\d\d min {line}\n"
    for part, count in (("Train", 60), ("Test", 30)):
        expected += (rf"{line} Classification Report: {part} {line}\n\s+precision[\s\S]+"
                     rf"accuracy +\d\.\d{{4}} +{count}\n[^=]+")
    assert re.fullmatch(expected, first.stdout)
    losses = [text for text in first.stdout.splitlines() if text.startswith("Epoch")]
    assert losses == [text for text in again.stdout.splitlines() if text.startswith("Epoch")]
    other = fork(folder, "--epochs", "3", "--batch-size", "16", "--seed", "5")
    assert losses != [text for text in other.stdout.splitlines() if text.startswith("Epoch")]
    image = plt.imread(folder / "loss.png")
    assert image.shape[:2] == (750, 1200)
    for colour in ((31, 119, 180), (255, 127, 14)):  # the two curves
        assert np.sum(np.all(np.round(image[..., :3] * 255) == colour, axis=2)) > 300


def test_the_curve_leaves_out_the_first_epoch(monkeypatch):
    figures = []
    monkeypatch.setattr(cnn_numpy.Figure, "savefig", lambda self, *_, **__: figures.append(self))
    cnn_numpy._save_curve([(9.0, 8.0), (3.0, 4.0), (1.0, 2.0)], "loss.png")
    cnn_numpy._save_curve([(9.0, 8.0)], "loss.png")
    axes, single = (figure.axes[0] for figure in figures)
    assert axes.get_title() and axes.get_xlabel() == "epoch" and "loss" in axes.get_ylabel()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "training images", "test images"]
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[2, 3], [3, 1]], [[2, 4], [3, 2]]]
    assert [line.get_xydata().tolist() for line in single.lines] == [[[1, 9]], [[1, 8]]]
    assert all(tick == round(tick) for tick in axes.get_xticks())


def test_curve_that_cannot_be_written(data):
    (data.parent / "loss.png").mkdir()
    result = fork(data.parent, "--epochs", "1")
    assert_one_line(result, 1, "loss.png cannot be written")
    assert "Classification Report: Test" in result.stdout


def test_every_line_is_flushed_at_once(data, monkeypatch):
    class Watched(io.StringIO):
        def write(self, text):
            assert not self.waiting, f"{text!r} comes before the last line is flushed"
            self.waiting = text == "\n"  # with which print ends
            return super().write(text)

        def flush(self):
            self.waiting = False

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Watched())
        getattr(sys, name).waiting = False
    monkeypatch.chdir(data.parent)
    (data.parent / "loss.png").mkdir()
    monkeypatch.setattr(sys, "argv", [SCRIPT, "--epochs", "2"])
    assert cnn_numpy.main() == 1
    assert len(sys.stdout.getvalue().splitlines()) > 20 and not sys.stdout.waiting
    assert "loss.png" in sys.stderr.getvalue() and not sys.stderr.waiting


def test_the_losses_are_those_of_the_seed(data):
    """The seed fixes the order of the training images first and the parameters then."""
    result = fork(data.parent, "--epochs", "3", "--batch-size", "16", "--seed", "7", "--lr", "0.2")
    np.random.seed(7)
    train_x, train_y = load_dataset(data / "train", shuffle=True)
    test_x, test_y = load_dataset(data / "test")
    network, losses = cnn_numpy.ConvolutionNeuralNetwork(), []
    for epoch in range(1, 4):
        train_loss = network.train(train_x, train_y, 16, 3, 0.2)
        losses.append(f"Epoch:   {epoch} Train Loss: {train_loss:.4f} "
                      f"Test Loss: {network.test(test_x, test_y, 16):.4f}")
    assert result.stdout.splitlines()[3:6] == losses
    accuracy = np.mean(network.predict(test_x).argmax(axis=1) == test_y)
    assert re.findall(r"accuracy +(\S+) ", result.stdout)[1] == f"{accuracy:.4f}"


def test_save(data):
    folder = data.parent
    result = fork(folder, "--epochs", "2", "--save", "digits.npz")
    assert result.returncode == 0 and result.stderr == ""
    network = cnn_numpy.ConvolutionNeuralNetwork()
    network.load(folder / "digits.npz")
    last = re.findall(r"Test Loss: (.*)", result.stdout)[-1]
    assert f"{network.test(*load_dataset(data / 'test'), 100):.4f}" == last
    assert sorted(path.name for path in folder.iterdir()) == [
        "cv-data", "digits.npz", "err", "loss.png", "out"]


def test_a_network_that_cannot_be_written(data):
    (data.parent / "digits.npz.part").mkdir()
    result = fork(data.parent, "--epochs", "1", "--save", "digits.npz")
    assert_one_line(result, 1, "digits.npz cannot be written")
    assert "Classification Report: Test" in result.stdout


def test_divergence(data):
    result = fork(data.parent, "--lr", "1e30", "--batch-size", "20")
    assert_one_line(result, 1, "epoch 1: the loss of batch 2 of 3", "smaller learning rate")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to a child alone")
def test_interrupt(data):
    process = subprocess.Popen(
        [sys.executable, PROJECT / "cnn_numpy.py", "--epochs", "1000000"], cwd=data.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    for line in process.stdout:
        if line.startswith("Epoch:   3"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "interrupted" in err
    assert "End Train" in out and "Classification Report: Test" in out
    assert (data.parent / "loss.png").is_file()


def interrupted(*_):
    """Behave like a call during which Ctrl-C is pressed."""
    raise KeyboardInterrupt


def test_interrupt_in_the_first_epoch(data, monkeypatch, capsys):
    monkeypatch.chdir(data.parent)
    monkeypatch.setattr(sys, "argv", [SCRIPT])
    monkeypatch.setattr(cnn_numpy.ConvolutionNeuralNetwork, "train", interrupted)
    assert cnn_numpy.main() == 130
    assert "Classification Report: Test" in capsys.readouterr().out
    assert not (data.parent / "loss.png").exists()  # nothing to draw, and none is overwritten


def test_interrupt_before_training(monkeypatch):
    monkeypatch.setattr(sys, "argv", [SCRIPT])
    monkeypatch.setattr(cnn_numpy, "_run", interrupted)
    assert cnn_numpy.main() == 130
