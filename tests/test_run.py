"""Loading the images, and the run, as a person starts it."""
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
from itertools import chain, repeat
from pathlib import Path
from textwrap import dedent
from unittest.mock import DEFAULT, Mock

import numpy as np
import pytest
from helpers import PROJECT, assert_same
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image
from sklearn.metrics import classification_report

from cnn_numpy import ConvolutionNeuralNetwork, load_dataset

SCRIPT = PROJECT / "cnn_numpy.py"


# Loading the images


def test_images_are_read_in_the_order_of_their_names(data):
    inputs, targets = load_dataset(folder=f"{data}/train")
    images, digits = [], []
    for digit in range(10):
        for path in sorted((data / "train" / str(digit)).glob("*.png")):
            images.append([imread(path)])  # one channel
            digits.append(digit)
    assert_same("inputs", inputs, np.array(images), 1e-6)
    assert inputs.dtype == np.float32 and targets.dtype == np.int32
    assert targets.tolist() == digits


def test_shuffle_mixes_images_and_targets_alike_as_the_seed_says(data):
    inputs, targets = load_dataset(data / "train")
    np.random.seed(1)
    load_dataset(data / "train")  # without shuffle it must not draw a number
    mixed, mixed_targets = load_dataset(data / "train", shuffle=True)
    np.random.seed(1)
    order = np.random.permutation(len(targets))
    assert_same("inputs", mixed, inputs[order])
    assert_same("targets", mixed_targets, targets[order])


GREY = Image.fromarray(np.tile(np.uint8([0, 51, 102, 255]), (28, 7)))
BLACK = Image.new("L", (28, 28))
RED = Image.merge("RGB", [GREY, BLACK, BLACK])


def write_digits(folder, image):
    """Save the same image for each digit."""
    for digit in "0123456789":
        (folder / digit).mkdir(parents=True, exist_ok=True)
        image.save(folder / digit / "image", "PNG")


@pytest.mark.parametrize("image, row", [
    (RED, [0, 0.06, 0.12, 0.3]),  # 0.3 is the grey of red
    (RED.quantize(), [0, 0.06, 0.12, 0.3]),
    (GREY.convert("1", dither=0), [0, 0, 0, 1]),
    (Image.merge("LA", [GREY, GREY]), [0, 0.2**2, 0.4**2, 1]),  # grey times opacity
], ids=["colours", "a palette", "one bit", "transparent pixels become black"])
def test_every_image_of_8_bits_becomes_grey(tmp_path, image, row):
    write_digits(tmp_path, image)
    inputs, _ = load_dataset(tmp_path)
    np.testing.assert_allclose(inputs, np.tile(row, (10, 1, 28, 7)), atol=1 / 255)


@pytest.mark.parametrize("image, error", [
    (GREY.resize((28, 20)), "pixels, not"),
    (Image.fromarray(np.zeros((28, 28), np.uint16)), "more than 8 bits"),
    (None, "not a readable image")], ids=["another size", "16 bits", "half an image"])
def test_an_image_that_cannot_be_used_is_refused_by_name(tmp_path, image, error):
    write_digits(tmp_path, GREY)
    path = tmp_path / "3" / "wrong.png"
    if image:
        image.save(path)
    else:
        path.write_bytes((tmp_path / "3" / "image").read_bytes()[:60])
    with pytest.raises(ValueError, match=f"wrong.png.*{error}"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("exists", [True, False])
def test_a_digit_without_images_is_refused_by_name(tmp_path, exists):
    write_digits(tmp_path, GREY)
    shutil.rmtree(tmp_path / "7")
    if exists:
        (tmp_path / "7").mkdir()
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "7"))):
        load_dataset(tmp_path)


# The run


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs the script; it returns the status and the printed text."""
    def run_script(*arguments, script=SCRIPT):
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        clock = chain([0], repeat(90))  # the first call returns 0, and all others 90 s
        monkeypatch.setattr("time.perf_counter", clock.__next__)
        status, stdout = 0, sys.stdout
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as stop:
            status = stop.code  # after an error it is a message, which Python prints
        assert sys.stdout is stdout  # it becomes None only if a pipe is closed
        return status, *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    return run_script


OPTIONS = ["--batch-size", 30, "--seed", 3, "--lr", 0.3, "--save", "digits.npz"]


def plain_run(data, epochs):
    """Return the network that a run with OPTIONS trains, its losses, and the text it prints."""
    np.random.seed(3)
    train = load_dataset(data / "train", shuffle=True)
    test = load_dataset(data / "test")
    network = ConvolutionNeuralNetwork()
    line = 15 * "="
    text = f"{train[0].shape} {train[1].shape}\n{test[0].shape} {test[1].shape}\n"
    text += f"{line} Begin Train {line}\n"
    losses = []
    for epoch in range(1, epochs + 1):
        train_loss = network.train(*train, 30, epochs, 0.3)
        test_loss = network.test(*test, 30)
        losses.append((train_loss, test_loss))
        text += f"Epoch: {epoch:3d} Train Loss: {train_loss:.4f} Test Loss: {test_loss:.4f}\n"
    text += f"{line} End Train: 1.50 min {line}\n"
    for part, (x, y) in [("Train", train), ("Test", test)]:
        answers = network.predict(x).argmax(axis=1)
        report = classification_report(y, answers, digits=4, zero_division=0)
        text += f"{line} Classification Report: {part} {line}\n{report}\n"
    return network, np.array(losses), text


@pytest.mark.parametrize("epochs, first", [(107, 2), (1, 1)])  # no n-th epoch is the last
def test_a_run_prints_saves_and_draws_its_epochs(data, run, monkeypatch, epochs, first):
    network, losses, text = plain_run(data, epochs)
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **options: figures.append(figure))
    assert run("--epochs", epochs, *OPTIONS, "--data", data) == (0, text, "")
    assert_same("the saved b7", np.load("digits.npz")["b7"], network.layers[7].b, 0)
    [axes] = figures[0].axes
    for part, name in enumerate(["training images", "test images"]):
        [line] = [line for line in axes.lines if line.get_label() == name]
        assert line.get_xdata().tolist() == list(range(first, epochs + 1))
        assert_same(name, line.get_ydata(), losses[first - 1:, part])


def test_a_picture_that_cannot_be_drawn_loses_nothing(data, run):
    network, _, text = plain_run(data, 2)
    Path("loss.png").mkdir()
    error, out, _ = run("--epochs", 2, *OPTIONS, "--data", data)
    assert "loss.png" in error
    assert out == text
    assert_same("the saved b7", np.load("digits.npz")["b7"], network.layers[7].b, 0)


@pytest.mark.parametrize("whole, saved", [(0, "nothing"), (7, "digits.npz")])
def test_after_ctrl_c_the_whole_epochs_are_reported_saved_and_drawn(
        data, run, monkeypatch, whole, saved):
    older = ConvolutionNeuralNetwork()
    older.save("digits.npz")
    network, _, text = plain_run(data, whole)
    batches = whole * (4 + 2) + (4 + 1)  # of 98 and 50 images; the last of the next epoch is left
    log = Mock(wraps=np.log, side_effect=batches * [DEFAULT] + [KeyboardInterrupt])
    monkeypatch.setattr(np, "log", log)  # the loss of each batch calls it once
    status, out, err = run("--data", data, *OPTIONS)
    assert (status, out) == (130, text)
    assert f"after {whole} whole epochs; saved: {saved}" in err
    expected = network if whole else older
    assert_same("the saved b7", np.load("digits.npz")["b7"], expected.layers[7].b, 0)
    assert Path("loss.png").exists() == (whole > 0)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_an_infinite_loss_ends_the_run_without_warnings_and_leaves_an_older_file(data, run):
    Path("digits.npz").write_bytes(b"older")
    error, _, _ = run(*OPTIONS, "--data", data, "--lr", 1e38)  # the last --lr counts
    assert "the loss is" in error
    assert Path("digits.npz").read_bytes() == b"older"


# Around the run: arguments, folders, the import, a pipe


def test_the_options_have_the_defaults_of_the_series(run):
    Path("cv-data").mkdir()  # else the default is beside the script
    _, out, _ = run("--help")
    text = " ".join(out.split())  # a terminal may be narrow
    for option, default in [("--epochs", "200"), ("--batch-size", "100"), ("--lr", "0.1"),
                            ("--seed", "1234"), ("--data", "cv-data")]:
        assert re.search(rf"{option} [^-]*\(default: {default}\)", text), option  # [^-]*: its help


@pytest.mark.parametrize("argument", [
    "--epochs 0", "--batch-size 0", "--lr 0", "--lr inf", "--lr nan", "--seed -1",
    "--seed 4294967296"])
def test_a_wrong_argument_is_refused_by_name_and_value(run, argument):
    status, out, err = run("--data", "nowhere", *argument.split())
    assert (status, out) == (2, "")
    assert argument in err


@pytest.mark.parametrize("missing", ["train", "test", "networks"])
def test_a_missing_folder_is_refused_by_name_before_anything_is_read(data, run, missing):
    shutil.copytree(data, "digits")
    Path("digits/networks").mkdir()
    shutil.rmtree(f"digits/{missing}")
    error, out, _ = run("--data", "digits", "--save", "digits/networks/digits.npz")
    assert missing in error
    assert out == ""


@pytest.mark.parametrize("part, width, height", [("train", 14, 56), ("test", 20, 28)])
def test_images_of_another_size_are_refused_before_the_first_epoch(run, part, width, height):
    for each in ("train", "test"):
        write_digits(Path("digits", each), GREY)
    write_digits(Path("digits", part), GREY.resize((width, height)))  # 14 * 56 = 28 * 28
    error, out, _ = run("--data", "digits")
    assert f"{part} has images of ({height}, {width}), expected (28, 28)" in error
    assert "Begin" not in out


def test_the_data_is_in_the_working_folder_or_else_beside_the_script(data, run):
    other = Path("other")
    shutil.copytree(data, other / "cv-data")
    shutil.copyfile(SCRIPT, other / SCRIPT.name)
    _, out, _ = run("--epochs", 1, script=other / SCRIPT.name)
    assert out.startswith("(98, ")  # the images beside the script
    for part in ("train", "test"):
        write_digits(Path("cv-data", part), GREY)
    _, out, _ = run("--epochs", 1, script=other / SCRIPT.name)
    assert out.startswith("(10, ")  # those that have just been written


def test_the_import_and_a_refused_run_change_nothing():
    program = dedent("""
        import contextlib, sys, warnings
        import matplotlib.figure, numpy, PIL.Image, sklearn.metrics

        def state():
            return [str(numpy.random.get_state()), numpy.geterr(), numpy.get_printoptions(),
                    str(warnings.filters), str(matplotlib.rcParams),
                    "pyplot" if "matplotlib.pyplot" in sys.modules else "no pyplot"]

        before = state()
        import cnn_numpy
        with contextlib.suppress(FileNotFoundError):
            cnn_numpy.main()
        print([now for now, then in zip(state(), before) if now != then])  # what has changed
    """)
    environment = {**os.environ, "MPLBACKEND": "pdf"}  # if unset, str(rcParams) imports pyplot
    command = [sys.executable, "-c", program, "--data", "nowhere"]
    output = subprocess.check_output(command, cwd=PROJECT, env=environment)
    assert output.split() == [b"[]"]


def test_each_epoch_is_seen_at_once_in_a_pipe_or_file(data, run, monkeypatch):
    out, flushed = io.StringIO(), []
    pipe = Mock(write=out.write, isatty=lambda: False)
    pipe.flush = lambda: flushed.append(out.getvalue())
    monkeypatch.setattr(sys, "stdout", pipe)
    assert run("--epochs", 13, *OPTIONS, "--data", data) == (0, "", "")  # the pipe has the text
    for line in out.getvalue().splitlines():
        if "Begin" in line or "Epoch" in line:
            assert any(text.endswith(f"{line}\n") for text in flushed), line


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports it differently")
def test_a_closed_pipe_ends_the_run_with_one_line(data, tmp_path):
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # a buffer, to be flushed at the end, too
    with subprocess.Popen([sys.executable, SCRIPT, "--data", data], cwd=tmp_path, env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.readlines()
    assert (process.returncode, len(errors)) == (1, 1)
