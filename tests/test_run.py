"""Loading the images, and the run, as a person starts it."""
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import NAME, PROJECT, assert_same
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import classification_report

from cnn_numpy import ConvolutionNeuralNetwork, load_dataset

SCRIPT = PROJECT / "cnn_numpy.py"


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


# Loading the images


def test_images_are_read_in_the_order_of_their_names(data):
    inputs, targets = load_dataset(f"{data}/train")
    images, digits = [], []
    for digit in range(10):
        for path in sorted((data / "train" / str(digit)).glob("*.png")):
            with Image.open(path) as image:
                images.append([np.asarray(image) / 255])  # one channel
            digits.append(digit)
    assert_same("inputs", inputs, np.array(images), 1e-6)
    assert inputs.dtype == np.float32 and targets.dtype == np.int32
    assert targets.tolist() == digits


def test_shuffle_mixes_images_and_targets_alike_as_the_seed_says(data):
    inputs, targets = load_dataset(data / "train")
    np.random.seed(1)
    load_dataset(data / "train")  # which draws no number
    mixed, mixed_targets = load_dataset(data / "train", shuffle=True)
    np.random.seed(1)
    order = np.random.permutation(len(targets))
    assert_same("inputs", mixed, inputs[order])
    assert_same("targets", mixed_targets, targets[order])


GREY = Image.fromarray(np.tile(np.uint8([0, 51, 102, 255]), (28, 7)))


def write_digits(folder, image):
    """Save one image as that of each digit."""
    for digit in "0123456789":
        (folder / digit).mkdir(parents=True, exist_ok=True)
        image.save(folder / digit / "image", "PNG")


def test_a_transparent_pixel_is_black(tmp_path):
    write_digits(tmp_path, Image.merge("LA", [GREY, GREY]))  # as opaque as it is bright
    inputs, _ = load_dataset(tmp_path)
    row = 7 * [0, 0.2**2, 0.4**2, 1]
    np.testing.assert_allclose(inputs, np.tile(row, (10, 1, 28, 1)), atol=0.002)  # half a grey


@pytest.mark.parametrize("image", [
    GREY.resize((28, 20)), Image.fromarray(np.zeros((28, 28), np.uint16)), None,
], ids=["another size", "16 bits", "no image"])
def test_an_image_that_cannot_be_used_is_refused_by_name(tmp_path, image):
    write_digits(tmp_path, GREY)
    path = tmp_path / "3" / "wrong.png"
    path.write_bytes(b"no image")
    if image:
        image.save(path)
    with pytest.raises(ValueError, match="wrong.png"):
        load_dataset(tmp_path)


def test_a_digit_without_images_is_refused_by_name(tmp_path):
    write_digits(tmp_path, GREY)
    (tmp_path / "7" / "image").rename(tmp_path / "7" / ".hidden")
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "7"))):
        load_dataset(tmp_path)


# The run


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs the script in this process and in an empty folder."""
    def run(*arguments, script=SCRIPT):
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        clock = iter([0] + 1000 * [90])  # first 0, then always 90 s: 1.50 min
        monkeypatch.setattr("time.perf_counter", clock.__next__)
        status, stdout = 0, sys.stdout
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        assert sys.stdout is stdout  # whoever has started the run can go on
        out, err = capsys.readouterr()
        if isinstance(status, str):  # which Python prints, and leaves with 1
            status, err = 1, f"{err}{status}\n"
        return subprocess.CompletedProcess(arguments, status, out, err)

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return run


def assert_one_line(result, *words):
    """Check that a run ended with status 1 and one line on standard error that has some words."""
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    for word in words:
        assert str(word) in line


OPTIONS = ["--batch-size", 30, "--seed", 3, "--lr", 0.3, "--save", "digits.npz"]
BATCHES = 4 + 2  # of an epoch, since there are 98 images for training and 50 for the test


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
        losses.append((network.train(*train, 30, epochs, 0.3), network.test(*test, 30)))
        text += "Epoch: {:3d} Train Loss: {:.4f} Test Loss: {:.4f}\n".format(epoch, *losses[-1])
    text += f"{line} End Train: 1.50 min {line}\n"
    for part, (x, y) in [("Train", train), ("Test", test)]:
        answers = network.predict(x).argmax(axis=1)
        report = classification_report(y, answers, digits=4, zero_division=0)
        text += f"{line} Classification Report: {part} {line}\n{report}\n"
    return network, np.array(losses), text


def assert_saved(network):
    """Check that digits.npz holds the network, by the last of its parameters."""
    with np.load("digits.npz") as file:
        assert_same("b7", file["b7"], network.layers[7].b, 0)


@pytest.mark.parametrize("epochs, first", [(60, 2), (1, 1)], ids=["60 epochs", "one epoch"])
def test_a_run_prints_saves_and_draws_every_epoch(data, run, monkeypatch, epochs, first):
    network, losses, text = plain_run(data, epochs)
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **options: figures.append(figure))
    result = run("--epochs", epochs, *OPTIONS, "--data", data)
    assert (result.stdout, result.stderr, result.returncode) == (text, "", 0)
    assert_saved(network)
    [axes] = figures[0].axes
    for part, name in enumerate(["training images", "test images"]):
        [line] = [line for line in axes.lines if line.get_label() == name]
        assert line.get_xdata().tolist() == list(range(first, epochs + 1))
        assert_same(name, line.get_ydata(), losses[first - 1:, part])


def test_a_picture_that_cannot_be_drawn_loses_nothing(data, run):
    network, _, text = plain_run(data, 2)
    Path("loss.png").mkdir()
    result = run("--epochs", 2, *OPTIONS, "--data", data)
    assert_one_line(result, "loss.png")
    assert result.stdout == text
    assert_saved(network)


def press_ctrl_c(monkeypatch, n):
    """Let Ctrl-C come when the n-th loss is computed, which alone takes a logarithm."""
    log, calls = np.log, []

    def count_and_log(x):
        calls.append(x)
        if len(calls) == n:
            raise KeyboardInterrupt
        return log(x)

    monkeypatch.setattr(np, "log", count_and_log)


@pytest.mark.parametrize("whole", [2, 13])
def test_after_ctrl_c_what_is_reported_is_what_is_saved(data, run, monkeypatch, whole):
    network, _, text = plain_run(data, whole)
    press_ctrl_c(monkeypatch, BATCHES * whole + 2)  # in the second step of the next epoch
    result = run("--epochs", 90, *OPTIONS, "--data", data)
    assert (result.stdout, result.returncode) == (text, 130)
    assert f" {whole} whole epochs" in result.stderr
    assert_saved(network)
    with Image.open("loss.png") as picture:
        assert picture.format == "PNG"


def test_after_ctrl_c_in_the_first_epoch_nothing_is_saved_and_the_run_says_so(
        data, run, monkeypatch):
    Path("digits.npz").write_bytes(b"older")
    press_ctrl_c(monkeypatch, 2)
    result = run(*OPTIONS, "--data", data)
    assert result.returncode == 130 and "saved: nothing" in result.stderr
    assert "Classification Report: Test" in result.stdout
    assert Path("digits.npz").read_bytes() == b"older"


@pytest.mark.filterwarnings("error::RuntimeWarning")  # a person would see it
def test_a_loss_without_bound_ends_the_run_and_leaves_an_older_file(data, run):
    Path("digits.npz").write_bytes(b"older")
    assert_one_line(run(*OPTIONS, "--data", data, "--lr", 1e38), "loss", "lr")
    assert Path("digits.npz").read_bytes() == b"older"


# Arguments and folders


def test_the_options_have_the_defaults_of_the_series(run):
    Path("cv-data").mkdir()
    text = " ".join(run("--help").stdout.split())  # a terminal may be narrow
    for option, default in [("--epochs", "200"), ("--batch-size", "100"), ("--lr", "0.1"),
                            ("--seed", "1234"), ("--data", "cv-data")]:
        assert re.search(rf"{option} [^-]*\(default: {default}\)", text), option


@pytest.mark.parametrize("name, value", [
    ("--epochs", "0"), ("--epochs", "1.5"), ("--batch-size", "0"), ("--lr", "0"), ("--lr", "inf"),
    ("--lr", "nan"), ("--seed", "-1"), ("--seed", "4294967296")])
def test_a_wrong_argument_is_refused_by_name_and_value(run, name, value):
    result = run("--data", "nowhere", name, value)
    assert result.returncode == 2 and result.stdout == ""
    assert f"{name} {value}" in result.stderr or f"{name}: invalid" in result.stderr


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_folder_is_refused_by_name_before_anything_is_read(data, run, part):
    shutil.copytree(data, "digits")
    shutil.rmtree(f"digits/{part}")
    result = run("--data", "digits")
    assert_one_line(result, part)
    assert result.stdout == ""


def test_a_missing_folder_for_the_network_is_refused_by_name_before_anything_is_read(data, run):
    result = run("--data", data, "--save", "nowhere/digits.npz")
    assert_one_line(result, "nowhere")
    assert result.stdout == ""


@pytest.mark.parametrize("part, size", [("train", (14, 56)), ("test", (28, 20))])
def test_images_of_another_size_are_refused_before_the_first_epoch(run, part, size):
    for each in ("train", "test"):
        write_digits(Path("digits", each), GREY)
    write_digits(Path("digits", part), GREY.resize(size))
    result = run("--data", "digits")
    assert_one_line(result, part, size[::-1], "expected (28, 28)")
    assert "Begin" not in result.stdout


def test_the_data_is_in_the_working_folder_or_else_beside_the_script(data, run):
    other = Path("..", "other")
    shutil.copytree(data, other / "cv-data")
    shutil.copyfile(SCRIPT, other / SCRIPT.name)
    result = run("--epochs", 1, script=other / SCRIPT.name)
    assert result.returncode == 0 and result.stdout.startswith("(98, ")
    for part in ("train", "test"):
        write_digits(Path("cv-data", part), GREY)
    assert run("--epochs", 1, script=other / SCRIPT.name).stdout.startswith("(10, ")


# What is around the run goes on


@pytest.mark.parametrize("arguments, first", [
    (["-i", SCRIPT, "--data", "nowhere"], ""),
    (["-m", "IPython", "--simple-prompt"], f'%run "{SCRIPT.as_posix()}" --data nowhere\n'),
], ids=["python -i", "%run"])
def test_a_refused_run_leaves_an_interactive_python_alive(tmp_path, arguments, first):
    if first:
        pytest.importorskip("IPython")
    result = subprocess.run(
        [sys.executable, *arguments], input=f"{first}print('goes ' + 'on')\n", cwd=tmp_path,
        env={**os.environ, "IPYTHONDIR": str(tmp_path)}, encoding="utf-8", capture_output=True)
    assert "goes on" in result.stdout
    assert "nowhere" in result.stdout + result.stderr


def test_the_import_changes_nothing():
    program = """if True:
        import sys, warnings
        import matplotlib.figure, numpy, PIL.Image, sklearn.metrics

        def state():
            return {
                "NumPy's generator": str(numpy.random.get_state()),
                "numpy.geterr": numpy.geterr(),
                "NumPy's print options": str(numpy.get_printoptions()),
                "warnings.filters": list(warnings.filters),
                "matplotlib.rcParams": str(matplotlib.rcParams),
                "pyplot": "matplotlib.pyplot" in sys.modules,
            }

        before = state()
        import cnn_numpy
        for name, value in state().items():
            if value != before[name]:
                print(name, "is not as before")
    """
    environment = {**os.environ, "MPLBACKEND": "pdf"}  # else str(rcParams) chooses one
    output = subprocess.check_output([sys.executable, "-c", program], cwd=PROJECT, env=environment)
    assert output == b""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports a closed pipe otherwise")
def test_a_pipe_gets_each_epoch_at_once_and_may_be_closed(data, tmp_path):
    command = [sys.executable, SCRIPT, "--epochs", "300", "--data", data]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        text = b""
        while b"Epoch:   1" not in text and process.poll() is None:
            text += os.read(process.stdout.fileno(), 10**6)
        process.stdout.close()
        errors = process.stderr.read().splitlines()
    assert b"Epoch:   1" in text and b"Epoch: 100" not in text  # a full buffer holds 170 epochs
    assert process.returncode == 1 and len(errors) == 1


def test_the_script_names_what_it_needs_as_requirements_txt_does():
    block = SCRIPT.read_text(encoding="utf-8").split("# ///")[1]
    needs = (PROJECT / "requirements.txt").read_text(encoding="utf-8").split()
    assert re.findall(r'"(.*?)"', block.split("dependencies")[1]) == needs
