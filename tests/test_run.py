"""The data and the run, as a person starts it."""
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from helpers import NAME, PROJECT
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image, ImageColor
from sklearn.metrics import classification_report

import cnn_numpy
from cnn_numpy import load_dataset

SCRIPT = str(PROJECT / "cnn_numpy.py")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Make a small copy of the digits for all tests: 6 of each for training, 3 for the test."""
    folder = tmp_path_factory.mktemp(NAME)
    for part, count in (("train", 6), ("test", 3)):
        for digit in "0123456789":
            (folder / part / digit).mkdir(parents=True)
            paths = sorted((PROJECT / "cv-data" / part / digit).iterdir())[100 * count:0:-100]
            for name, path in zip((9, 14, 13, 12, 11, 10), paths):  # 10.png comes before 9.png
                shutil.copyfile(path, folder / part / digit / f"{name}.png")
    return f"{folder}/../{folder.name}"  # since a part that begins with "." hides no image


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that does in this process what the script does in its own."""
    classes, block = Path(SCRIPT).read_text(encoding="utf-8").rsplit("\nif __name__ ==", 1)

    def run(*arguments, ctrl_c=0):
        """Run with the arguments; press Ctrl-C when the loss is computed for the n-th time."""
        exec(compile(classes, SCRIPT, "exec"), names := {"__name__": "__main__"})
        forward, run.count, stdout = names["CrossEntropyLoss"].forward, 0, sys.stdout

        def count_and_forward(self, x, y):
            run.count += 1
            if run.count == ctrl_c:
                signal.raise_signal(signal.SIGINT)
            return forward(self, x, y)

        names["CrossEntropyLoss"].forward = count_and_forward
        monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
        status = 0
        try:
            exec(compile(f"if __name__ =={block}", SCRIPT, "exec"), names)
        except SystemExit as stop:
            status = stop.code or 0
        sys.stdout, (out, err) = stdout, capsys.readouterr()
        if isinstance(status, str):  # which Python prints, and leaves with 1
            status, err = 1, f"{err}{status}\n"
        assert (out + err).isascii() or NAME in out + err  # for any console
        return subprocess.CompletedProcess(arguments, status, out, err)

    monkeypatch.chdir(tmp_path)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    return run


def assert_one_line(result, *words):
    """Check that a run ended with status 1 and one line on standard error."""
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    for word in words:
        assert re.search(rf"\b{re.escape(word)}\b", result.stderr)


def test_load_dataset(data):
    np.random.seed(1)
    inputs, targets = load_dataset(Path(data, "train"))  # which draws no number
    assert inputs.shape == (60, 1, 28, 28) and inputs.dtype == np.float32
    assert targets.dtype == np.int32 and targets.tolist() == sorted(6 * list(range(10)))
    paths = sorted(Path(data, "train").glob("*/*.png"), key=lambda path: (path.parent, path.name))
    for image, path in zip(inputs[:, 0], paths):
        with Image.open(path) as original:
            np.testing.assert_allclose(image, np.asarray(original) / 255, 1e-6)
    mixed, mixed_targets = load_dataset(f"{data}/train", shuffle=True)
    np.random.seed(1)
    order = np.random.permutation(60)
    np.testing.assert_array_equal(mixed, inputs[order])
    np.testing.assert_array_equal(mixed_targets, targets[order])


def saved(image, kind="PNG", **options):
    """Return what Pillow writes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


GREY = Image.fromarray(np.tile(np.uint8([0, 51, 102, 255] * 7), (20, 1)))
RED_AND_CLEAR = np.tile(np.uint8([[255, 0, 0, 255], [255, 255, 255, 102]] * 14), (20, 1, 1))
IMAGES = {  # what a file holds, and the grey of each of its rows
    "grey": (saved(GREY, transparency=255), [0, 0.2, 0.4, 0] * 7),
    "1 bit": (saved(GREY.point(lambda grey: grey > 51, "1")), [0, 0, 1, 1] * 7),
    "palette": (saved(GREY.convert("P"), transparency=255), [0, 0.2, 0.4, 0] * 7),
    "palette of its own": (saved(GREY.convert("RGB").quantize(4)), [0, 0.2, 0.4, 1] * 7),
    "a clear colour": (saved(GREY.convert("RGB"), transparency=(255, 255, 255)),
                       [0, 0.2, 0.4, 0] * 7),
    "four inks": (saved(GREY.convert("RGB").convert("CMYK"), "TIFF"), [0, 0.2, 0.4, 1] * 7),
    "colour": (saved(Image.fromarray(RED_AND_CLEAR)), [0.299, 0.4] * 14),
    "grey and opacity": (saved(Image.fromarray(RED_AND_CLEAR[..., 2:])), [0, 0.4] * 14),
}
REFUSED = {  # what a file holds
    "16 bits": saved(Image.fromarray(np.zeros((28, 28), np.uint16))), "folder": None, "none": b"",
    "16 bits, big-endian": saved(Image.fromarray(np.zeros((28, 28), ">u2")), "TIFF"),
    "32 bits": saved(GREY.convert("I"), "TIFF"), "floats": saved(GREY.convert("F"), "TIFF"),
    "text": b"no image", "half": saved(GREY, "BMP")[:600], "half a PNG": saved(GREY)[:50],
}


def write_digits(folder, content):
    """Make a folder of images with one image of each digit."""
    for digit in "0123456789":
        (folder / digit).mkdir(parents=True, exist_ok=True)
        (folder / digit / "image").write_bytes(content)


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_any_kind_become_grey(tmp_path, kind):
    content, row = IMAGES[kind]
    write_digits(tmp_path, content)
    (tmp_path / "1 more").mkdir()  # which is no digit
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "7" / name).write_bytes(b"no image")
    if sys.platform != "win32":
        (tmp_path / "3" / "image").rename(tmp_path / "elsewhere")
        (tmp_path / "3" / "image").symlink_to(tmp_path / "elsewhere")
    inputs, targets = load_dataset(tmp_path)
    assert inputs.shape == (10, 1, 20, 28) and inputs.dtype == np.float32
    np.testing.assert_allclose(inputs, np.tile(row, (10, 1, 20, 1)), atol=0.0021)


@pytest.mark.filterwarnings("error")  # a file that stays open warns
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_right_is_refused_by_name(tmp_path, kind):
    content, path = REFUSED[kind], tmp_path / "0" / "9.png"
    path.parent.mkdir()
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises((ValueError, OSError), match="9.png"):
        load_dataset(tmp_path)


def test_a_folder_that_cannot_be_used_is_named(tmp_path, run, monkeypatch):
    assert_one_line(run("--seed", "4294967295"), "cv-data")
    folder = tmp_path / "cv-data" / "train"
    write_digits(folder, saved(GREY))
    assert_one_line(run(), "test")
    for image, name in (GREY.resize((20, 28)), "other"), (GREY.resize((28, 28)), "image"):
        image.save(folder / "9" / name, "PNG")
        assert_one_line(run(), name, str(image.height), str(image.width), "20")
    (folder / "7" / "image").rename(folder / "7" / ".hidden")
    assert_one_line(run(), str(Path("train", "7")))
    shutil.rmtree(folder / "7")
    assert_one_line(run(), str(Path("train", "7")))
    shutil.rmtree(folder)
    for part, size in ("train", (28, 20)), ("train", (56, 14)), ("test", (20, 28)):
        for each in ("train", "test"):
            write_digits(folder.with_name(each),
                         saved(GREY.resize(size if each == part else (28, 28))))
        result = run()
        assert_one_line(result, part, *map(str, size), "28")
        assert "Begin Train" not in result.stdout
    monkeypatch.setattr(Image, "open", lambda *arguments, **options: signal.raise_signal(
        signal.SIGINT))
    assert run().returncode == 130


@pytest.mark.parametrize("name, value", [
    ("--epochs", "-1"), ("--epochs", "0"), ("--epochs", "1.5"), ("--batch-size", "-1"),
    ("--batch-size", "0"), ("--lr", "-0.1"), ("--lr", "0"), ("--lr", "inf"), ("--lr", "nan"),
    ("--seed", "-1"), ("--seed", "4294967296"), ("--save", "digits")])
def test_a_wrong_argument_is_refused_before_anything_is_read(run, name, value):
    result = run(name, value)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.startswith("usage: ")
    assert value in result.stderr.split("error:")[1]


def test_the_options_and_their_defaults(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # or "cv-data" may be broken in two
    text = " ".join(run("--help").stdout.split())
    for name, default in (("epochs", "200"), ("batch-size", "100"), ("lr", "0.1"), ("seed", "1234"),
                          ("data", "cv-data"), ("save", "None")):
        assert re.search(rf"--{name} [^-]*\(default: {default}\)", text)


def expected_run(data, epochs):
    """Return the network after some epochs, its losses and what a run prints of them.

    The seed fixes the order of the training images first and the parameters then.
    """
    np.random.seed(0)
    train_x, train_y = load_dataset(Path(data, "train"), shuffle=True)
    test_x, test_y = load_dataset(Path(data, "test"))
    network, line, losses = cnn_numpy.ConvolutionNeuralNetwork(), "=" * 15, []
    text = f"(60, 1, 28, 28) (60,)\n(30, 1, 28, 28) (30,)\n{line} Begin Train {line}\n"
    for epoch in range(1, epochs + 1):
        losses.append((network.train(train_x, train_y, 16, 3, 0.4),
                       network.test(test_x, test_y, 16)))
        text += "Epoch: {:3d} Train Loss: {:.4f} Test Loss: {:.4f}\n".format(epoch, *losses[-1])
    text += f"{line} End Train: {1.5 * epochs:.2f} min {line}\n"
    for part, x, y in (("Train", train_x, train_y), ("Test", test_x, test_y)):
        answers = network.predict(x).argmax(axis=1)
        report = classification_report(y, answers, digits=4, zero_division=0)
        assert part == "Train" or len(set(answers)) < 10  # or zero_division would not be seen
        text += f"{line} Classification Report: {part} {line}\n{report}\n"
    return network, losses, text


ARGUMENTS = "--batch-size 16 --seed 0 --lr 0.4 --save digits.npz --data".split()


@pytest.mark.filterwarnings("error")  # a person would see them
@pytest.mark.parametrize("epochs, end", [(4, ""), (2, "Ctrl-C"), (1, ""), (4, "no picture")])
def test_a_run_prints_saves_and_draws_what_was_learned(
        data, tmp_path, run, monkeypatch, epochs, end):
    network, losses, expected = expected_run(data, epochs)
    figures, savefig, ctrl_c = [], Figure.savefig, (4 + 2) * 2 + 1  # batches of two epochs and one
    monkeypatch.setattr(Figure, "savefig", lambda figure, *arguments, **options: (
        figures.append(figure), savefig(figure, *arguments, **options)))
    monkeypatch.setitem(matplotlib.rcParams, "savefig.format", "pdf")  # as a user may have it
    run.count = 0
    for clock in ("perf_counter", "monotonic", "time"):
        monkeypatch.setattr(f"time.{clock}", lambda: run.count // 6 * 90)  # 90 s an epoch
    if end == "no picture":
        (tmp_path / "loss.png").mkdir()
    result = (run("--epochs", "9", *ARGUMENTS, data, ctrl_c=ctrl_c) if end == "Ctrl-C"
              else run("--epochs", str(epochs), *ARGUMENTS, data))
    assert result.stdout == expected
    assert sorted(os.listdir(tmp_path)) == ["digits.npz", "loss.png"]
    with np.load("digits.npz") as file:
        np.testing.assert_array_equal(file["k0"], network.layers[0].k)
        np.testing.assert_array_equal(file["b7"], network.layers[7].b)
    if end == "no picture":
        return assert_one_line(result, "loss.png")
    assert result.returncode == (130 if end == "Ctrl-C" else 0)
    assert len(result.stderr.splitlines()) <= (1 if end == "Ctrl-C" else 0)
    with Image.open("loss.png") as curve:
        assert curve.format == "PNG" and min(curve.size) >= 400
        pixels = {pixel for _, pixel in curve.convert("RGB").getcolors(10**6)}
    [axes] = figures[0].axes
    assert "loss" in axes.get_ylabel().lower() and axes.get_xlabel().lower() == "epoch"
    for part, name in enumerate(("train", "test")):  # without the first of several epochs
        points = [(epoch, losses[epoch - 1][part]) for epoch in range(min(2, epochs), epochs + 1)]
        [line] = [line for line in axes.lines if name in line.get_label().lower()]
        np.testing.assert_allclose(line.get_xydata(), points)
        assert all(axes.viewLim.contains(*point) for point in points)
        assert ImageColor.getrgb(to_hex(line.get_color())) in pixels
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [line.get_label() for line in axes.lines]
    assert all(tick == round(tick) for tick in axes.get_xticks())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ctrl_c, status, options", [
    (1, 130, []), (5, 130, []),  # in training, in the test, which comes before saving
    (0, 1, ["--lr", "1e38", "--batch-size", "1"]),
    (0, 1, ["--save", str(Path("nowhere", "digits.npz"))])])
def test_what_ends_a_run_in_its_first_epoch_leaves_an_older_file(
        data, tmp_path, run, ctrl_c, status, options):
    (tmp_path / "digits.npz").write_bytes(b"older")
    result = run("--epochs", "1", *ARGUMENTS, data, *options, ctrl_c=ctrl_c)
    assert result.returncode == status and len(result.stderr.splitlines()) <= 1
    assert status == 130 or result.stderr
    assert ("Classification Report: Test" in result.stdout) == (status == 130)
    assert os.listdir(tmp_path) == ["digits.npz"]
    assert (tmp_path / "digits.npz").read_bytes() == b"older"


def test_the_script_names_what_it_needs_as_requirements_txt_does():
    block = Path(SCRIPT).read_text(encoding="utf-8").split("# /// script\n")[1].split("# ///")[0]
    needs = (PROJECT / "requirements.txt").read_text(encoding="utf-8").split()
    assert re.findall(r'"(.*?)"', block.split("dependencies")[1]) == needs
    assert re.search(r'requires-python = ">=3\.9"', block)


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
