"""The data and the run, as a person starts it."""
import io
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import NAME
from PIL import Image
from sklearn.metrics import classification_report

import cnn_numpy
from cnn_numpy import load_dataset

PROJECT = Path(__file__).parents[1]
SCRIPT = str(PROJECT / "cnn_numpy.py")
STOPPED = "interrupted: here is what was learned so far"


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Make a small copy of the digits for all tests: 6 of each for training, 3 for the test."""
    folder = tmp_path_factory.mktemp(NAME)
    for part, count in (("train", 6), ("test", 3)):
        for digit in "0123456789":
            (folder / part / digit).mkdir(parents=True)
            for path in sorted((PROJECT / "cv-data" / part / digit).iterdir())[:count]:
                shutil.copyfile(path, folder / part / digit / path.name)
    return str(folder)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that does in this process what the script does in its own."""
    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
        stdout = sys.stdout
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(SCRIPT, run_name="__main__")
        sys.stdout = stdout
        status, (out, err) = stop.value.code or 0, capsys.readouterr()
        if isinstance(status, str):  # which Python prints, and leaves with 1
            status, err = 1, f"{err}{status}\n"
        return subprocess.CompletedProcess(arguments, status, out, err)
    return run


def assert_one_line(result, words):
    """Check that a run ended with status 1 and one line on standard error."""
    assert result.returncode == 1 and "Classification" not in result.stdout
    assert result.stderr.startswith("cnn_numpy.py: error: ") and words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_load_dataset(data):
    inputs, targets = load_dataset(Path(data, "train"))
    assert inputs.shape == (60, 1, 28, 28) and inputs.dtype == np.float32
    assert targets.dtype.kind == "i" and targets.tolist() == sorted(6 * list(range(10)))
    with Image.open(sorted(Path(data, "train", "0").iterdir())[0]) as first:
        np.testing.assert_array_equal(inputs[0, 0], np.asarray(first) / np.float32(255))
    np.random.seed(1)
    mixed, mixed_targets = load_dataset(f"{data}/train", shuffle=True)
    np.random.seed(1)
    order = np.random.permutation(60)
    np.testing.assert_array_equal(mixed, inputs[order])
    np.testing.assert_array_equal(mixed_targets, targets[order])


def png(depth, colour_type, row):
    """Return a PNG file of 28 equal rows, of depths and colour types that Pillow cannot write."""
    size, rows = (28).to_bytes(4, "big"), 28 * (b"\0" + bytes(row))
    content = b"\x89PNG\r\n\x1a\n"
    for kind, chunk in ((b"IHDR", size + size + bytes([depth, colour_type, 0, 0, 0])),
                        (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += len(chunk).to_bytes(4, "big") + kind + chunk
        content += zlib.crc32(kind + chunk).to_bytes(4, "big")
    return content


def saved(image, kind, **options):
    """Return what Pillow writes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


GREY = Image.fromarray(np.tile(np.uint8([0, 51, 102, 255] * 7), (28, 1)))
SMALL = saved(GREY.resize((28, 20)), "PNG")
IMAGES = {  # what a file holds, and the grey of each of its rows
    "grey, 1 bit": (png(1, 0, [0b01010101] * 4), [0, 1] * 14),
    "grey, 2 bits": (png(2, 0, [0b00011011] * 7), [0, 1 / 3, 2 / 3, 1] * 7),
    "grey, 4 bits": (png(4, 0, [0x05, 0xAF] * 7), [0, 1 / 3, 2 / 3, 1] * 7),
    "palette": (saved(GREY.convert("P"), "PNG", transparency=255), [0, 0.2, 0.4, 0] * 7),
    "four inks": (saved(GREY.convert("RGB").convert("CMYK"), "TIFF"), [0, 0.2, 0.4, 1] * 7),
    "colour": (png(8, 6, [0, 0, 255, 255, 255, 255, 255, 102] * 14), [0.114, 0.4] * 14),
}
REFUSED = {  # what a file holds, and what is said of it
    "grey, 16 bits": (png(16, 0, bytes(56)), "8 bits"),
    "colour, 16 bits": (png(16, 2, bytes(168)), "8 bits"),
    "floats": (saved(GREY.convert("F"), "TIFF"), "8 bits"),
    "one transparent grey": (saved(GREY, "PNG", transparency=255), "greys is transparent"),
    "text": (b"no image", "cannot identify"), "half": (saved(GREY, "BMP")[:600], "truncated"),
    "folder": (None, "regular file"),
}


def write_digits(folder, content):
    """Make a folder of images with one image of each digit."""
    for digit in "0123456789":
        (folder / digit).mkdir(parents=True)
        (folder / digit / "image").write_bytes(content)


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_any_kind_become_grey(tmp_path, kind):
    content, row = IMAGES[kind]
    write_digits(tmp_path, content)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "7" / name).write_bytes(b"no image")
    inputs, _ = load_dataset(tmp_path)
    assert inputs.shape == (10, 1, 28, 28) and inputs.dtype == np.float32
    np.testing.assert_allclose(inputs, np.tile(row, (10, 1, 28, 1)), atol=0.0021)


@pytest.mark.filterwarnings("error")  # a file that stays open warns
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_right_is_refused_by_name(tmp_path, kind):
    (content, words), path = REFUSED[kind], tmp_path / "0" / "9.png"
    path.parent.mkdir()
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=f"9.png is not a readable image: .*{words}"):
        load_dataset(tmp_path)


def test_a_folder_that_cannot_be_used_is_named_with_its_whole_path(tmp_path, run):
    folder = tmp_path / "cv-data" / "train"
    assert_one_line(run(), str(folder / "0"))
    write_digits(folder, SMALL)
    GREY.save(folder / "3" / "other.png")
    assert_one_line(run(), f"{folder / '3' / 'other.png'} has (height, width) (28, 28), "
                           "expected (20, 28) like the first image")
    (folder / "3" / "other.png").unlink()
    (folder / "7" / "image").rename(folder / "7" / ".hidden")
    assert_one_line(run(), f"{folder / '7'} is empty, expected at least one image")


@pytest.mark.parametrize("part", ["train", "test"])
def test_images_that_the_network_cannot_take_are_refused_before_training(tmp_path, run, part):
    for folder in ("train", "test"):
        write_digits(tmp_path / "cv-data" / folder,
                     SMALL if folder == part else saved(GREY, "PNG"))
    result = run()
    assert_one_line(result, "(1, 1, 20, 28), expected (B, 1, 28, 28)")
    assert "Begin Train" not in result.stdout


@pytest.mark.parametrize("name, value, expected", [
    ("--epochs", "0", "0, expected at least 1"), ("--batch-size", "0", "0, expected at least 1"),
    ("--lr", "0", "0.0, expected a finite number above 0"), ("--lr", "inf", "inf, expected"),
    ("--seed", "-1", "-1, expected 0 to 4294967295"), ("--seed", "4294967296", "4294967296, ex"),
    ("--save", "digits", "digits, expected FILE.npz")])
def test_a_wrong_argument_is_refused_before_anything_is_read(run, name, value, expected):
    result = run(name, value)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.startswith("usage: ")
    assert f"argument {name}: {expected}" in result.stderr


@pytest.mark.filterwarnings("error")  # a person would see them
@pytest.mark.parametrize("epochs, status, err", [
    (3, 0, ""), (9, 130, STOPPED),
    (3, 1, "cnn_numpy.py: error: loss.png cannot be written: it is not a regular file")])
def test_a_run_prints_draws_and_saves_what_was_learned(
        data, tmp_path, run, monkeypatch, epochs, status, err):
    """The seed fixes the order of the training images first and the parameters then."""
    np.random.seed(0)
    train_x, train_y = load_dataset(Path(data, "train"), shuffle=True)
    test_x, test_y = load_dataset(Path(data, "test"))
    network, line = cnn_numpy.ConvolutionNeuralNetwork(), "=" * 15
    expected = f"(60, 1, 28, 28) (60,)\n(30, 1, 28, 28) (30,)\n{line} Begin Train {line}\n"
    for epoch in range(1, 4):
        train_loss = network.train(train_x, train_y, 16, 3, 0.2)
        test_loss = network.test(test_x, test_y, 16)
        expected += f"Epoch:   {epoch} Train Loss: {train_loss:.4f} Test Loss: {test_loss:.4f}\n"
    expected = re.escape(expected) + rf"{line} End Train: 0\.\d\d min {line}\n"
    for part, x, y in (("Train", train_x, train_y), ("Test", test_x, test_y)):
        answers = network.predict(x).argmax(axis=1)
        report = classification_report(y, answers, digits=4, zero_division=0)
        assert part == "Train" or len(set(answers)) < 10  # or zero_division would not be seen
        expected += f"{line} Classification Report: {part} {line}\n{re.escape(report)}\n"

    einsum, calls = np.einsum, []

    def press_ctrl_c_in_the_fourth_epoch(*arguments):
        calls.append(arguments)
        if len(calls) > 3 * 4 * 2:  # epochs, steps and convolutions
            signal.raise_signal(signal.SIGINT)
        return einsum(*arguments)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    monkeypatch.setattr(np, "einsum", press_ctrl_c_in_the_fourth_epoch)
    if status == 1:
        (tmp_path / "loss.png").mkdir()
    result = run("--epochs", str(epochs), "--batch-size", "16", "--seed", "0", "--lr", "0.2",
                 "--data", data, "--save", "digits.npz")
    assert result.returncode == status and result.stderr.strip() == err
    assert re.fullmatch(expected, result.stdout) and result.stdout.isascii()
    assert sorted(os.listdir(tmp_path)) == ["digits.npz", "loss.png"]
    if status != 1:
        with Image.open(tmp_path / "loss.png") as curve:
            assert curve.size == (1200, 750)
    network.load(tmp_path / "digits.npz")
    assert network.test(test_x, test_y, 16) == test_loss


def test_the_curve_leaves_out_the_first_epoch(tmp_path, monkeypatch):
    figures = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cnn_numpy.Figure, "savefig", lambda *call, **_: figures.append(call[0]))
    cnn_numpy._save_curve([(9.0, 8.0), (3.0, 4.0), (1.0, 2.0)])
    cnn_numpy._save_curve([(9.0, 8.0)])
    axes, single = (figure.axes[0] for figure in figures)
    assert "Loss" in axes.get_title() and "loss" in axes.get_ylabel()
    assert axes.get_xlabel() == "epoch"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "training images", "test images"]
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[2, 3], [3, 1]], [[2, 4], [3, 2]]]
    assert [line.get_xydata().tolist() for line in single.lines] == [[[1, 9]], [[1, 8]]]
    assert all(tick == round(tick) for tick in axes.get_xticks())


@pytest.mark.parametrize("call, error, status, err", [
    ("PIL.Image.open", MemoryError, 1, "cnn_numpy.py: error: not enough memory"),
    ("numpy.random.permutation", KeyboardInterrupt, 130, ""),
    ("numpy.einsum", KeyboardInterrupt, 130, STOPPED),
    ("numpy.einsum", FloatingPointError("nan"), 1, "cnn_numpy.py: error: epoch 1: nan"),
    ("pathlib.Path.replace", KeyboardInterrupt, 130, STOPPED),
    ("pathlib.Path.replace", OSError("full"), 1,
     "cnn_numpy.py: error: digits.npz cannot be written: full")])
def test_what_ends_a_run_in_its_first_epoch_leaves_an_older_file(
        data, tmp_path, run, monkeypatch, call, error, status, err):
    def fail(*_):
        raise error

    (tmp_path / "digits.npz").write_bytes(b"older")
    monkeypatch.setattr(call, fail)
    result = run("--epochs", "1", "--batch-size", "1", "--seed", "4294967295", "--data", data,
                 "--save", "digits.npz")
    assert (result.returncode, result.stderr.strip()) == (status, err)
    assert ("Classification Report: Test" in result.stdout) == (err == STOPPED)
    assert os.listdir(tmp_path) == ["digits.npz"]
    assert (tmp_path / "digits.npz").read_bytes() == b"older"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports both ends otherwise")
@pytest.mark.parametrize("end", ["kill", "closed pipe"])
def test_however_a_process_ends_the_last_whole_epoch_is_saved(data, tmp_path, end):
    with subprocess.Popen(
            [sys.executable, SCRIPT, "--epochs", "1000000", "--data", data, "--save", "digits.npz"],
            cwd=tmp_path, env={**os.environ, "PYTHONUNBUFFERED": ""}, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        lines = [process.stdout.readline() for _ in range(6)]  # up to the third epoch's
        if end == "kill":
            process.kill()
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == (-signal.SIGKILL if end == "kill" else 1)
    assert len(err.splitlines()) == (0 if end == "kill" else 1)
    network = cnn_numpy.ConvolutionNeuralNetwork()
    network.load(tmp_path / "digits.npz")
    assert network.test(*load_dataset(f"{data}/test"), 100) < float(lines[3].split()[-1])
