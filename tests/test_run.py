"""The run, as a person starts it."""
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from textwrap import dedent
from unittest.mock import Mock

import numpy as np
import pytest
from helpers import ENVIRONMENT, NAME, PROJECT, assert_all_same, assert_same
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image
from sklearn.metrics import classification_report
from threadpoolctl import threadpool_info, threadpool_limits

import cnn_numpy
from cnn_numpy import ConvolutionLayer, ConvolutionNeuralNetwork, CrossEntropyLoss, load_dataset

SCRIPT = PROJECT / "cnn_numpy.py"


class Output:
    """A standard output that has only write and flush, as in some notebooks."""

    def __init__(self, events):
        self.text = self.seen = ""
        self.events = events  # functions, to be called when their words are written

    def write(self, text):
        self.text += text
        for words, event in self.events.items():
            if words in text:
                event()

    def flush(self):
        self.seen = self.text


def run_script(script=SCRIPT):
    """Run the script as `python cnn_numpy.py` does."""
    runpy.run_path(str(script), run_name="__main__")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs; it returns the status and what both standard files show."""
    def run_in_folder(*arguments, start=run_script, events=None):
        out, err, status = Output(events or {}), Output({}), 0
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", [str(SCRIPT), *map(str, arguments)])
            patch.setattr("sys.stdout", out)
            patch.setattr("sys.stderr", err)
            for clock in ("perf_counter", "monotonic", "time"):
                patch.setattr(f"time.{clock}", lambda: 90 if "Epoch" in out.text else 0)
            try:
                start()
            except SystemExit as stop:
                status = stop.code
            except KeyboardInterrupt:  # it would end pytest
                status = -signal.SIGINT
            assert sys.stdout is out  # it becomes None only if a pipe is closed
        if isinstance(status, str):  # Python prints it
            status, err.text = 1, f"{err.text}{status}\n"
        return status, out.text, err.text

    monkeypatch.chdir(tmp_path)
    return run_in_folder


@pytest.fixture(scope="session")
def few(data, tmp_path_factory):
    """Return a folder with one image of each digit for training, and one for the test."""
    folder = tmp_path_factory.mktemp("few") / NAME
    for subfolder in data.glob("*/[0-9]"):
        copy = folder / subfolder.relative_to(data)
        copy.mkdir(parents=True)
        shutil.copy(min(subfolder.glob("[0-9]*.png")), copy)
    shutil.copy(min((data / "test" / "5").iterdir()), folder / "train" / "5")  # so there are 11
    return folder


OPTIONS = ["--batch-size", 6, "--seed", 3, "--lr", 0.2, "--save", NAME]
BATCHES = 2  # for training, and as many for the test


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
        train_loss = network.train(*train, 6, epochs, 0.2)
        test_loss = network.test(*test, 6)
        losses.append((train_loss, test_loss))
        text += f"Epoch: {epoch:3d} Train Loss: {train_loss:.4f} Test Loss: {test_loss:.4f}\n"
    text += f"{line} End Train: {1.5 if epochs else 0:.2f} min {line}\n"
    for part, (x, y) in [("Train", train), ("Test", test)]:
        answers = network.predict(x).argmax(axis=1)
        report = classification_report(y, answers, digits=4, zero_division=0)
        text += f"{line} Classification Report: {part} {line}\n{report}\n"
    return network, np.array(losses), text


def assert_saved(network, path=NAME):
    """Fail if the file holds other parameters than the network."""
    network.save("expected.npz")
    assert_all_same(dict(np.load(path)), dict(np.load("expected.npz")), 0)


@pytest.fixture
def watch(monkeypatch):
    """Return a function that keeps what each call of a method begins with, and ends with."""
    def watch_method(owner, name):
        calls, method = [], getattr(owner, name)

        def watched(self, *arguments, **options):
            unseen = sys.stdout.text[len(sys.stdout.seen):]
            result = method(self, *arguments, **options)
            calls.append((self, unseen, result))
            return result

        monkeypatch.setattr(owner, name, watched)
        return calls
    return watch_method


def assert_drawn(figure, losses):
    """Fail if the curves, as the legend names them, are others than the losses from epoch 2 on."""
    [axes] = figure.axes
    legend = axes.get_legend()
    first = min(2, len(losses))
    epochs = np.arange(first, len(losses) + 1)
    for part, word in enumerate(["train", "test"]):
        [number] = [i for i, text in enumerate(legend.get_texts()) if word in text.get_text()]
        colour = legend.get_lines()[number].get_color()
        [line] = [line for line in axes.lines if line.get_color() == colour]
        assert_same(word, line.get_xydata(), np.column_stack([epochs, losses[first - 1:, part]]))


# What it prints, saves and draws


@pytest.mark.parametrize("epochs", [200, 2, 1])
def test_a_run_prints_saves_and_draws_its_epochs(few, run, watch, epochs):
    network, losses, text = plain_run(few, epochs)
    pictures = watch(Figure, "savefig")
    assert run("--epochs", epochs, *OPTIONS, "--data", few) == (0, text, "")
    assert sorted(os.listdir()) == sorted(["loss.png", NAME])
    assert_saved(network)
    assert_drawn(pictures[0][0], losses)


def test_without_arguments_it_trains_as_the_series_does(few, run, monkeypatch):
    shutil.copytree(few, "cv-data")
    np.random.seed(1234)
    images, _ = load_dataset("cv-data/train", shuffle=True)
    w = ConvolutionNeuralNetwork().layers[7].w
    calls = []

    def train(self, train_x, train_y, batch_size, epochs, lr):
        assert_same("the images", train_x, images)
        assert_same("the first parameters", self.layers[7].w, w)
        calls.append((batch_size, lr))
        return 1.0

    monkeypatch.setattr(ConvolutionNeuralNetwork, "train", train)
    run(start=cnn_numpy.main)
    assert calls == 200 * [(100, 0.1)]


@pytest.mark.parametrize("start, seed", [(run_script, 0), (cnn_numpy.main, 2**32 - 1)])
def test_the_same_run_again_gives_the_same(few, run, start, seed):
    results = []
    for _ in range(2):
        _, out, _ = run("--epochs", 3, *OPTIONS, "--data", few, "--seed", seed, start=start)
        results.append([out, Path("loss.png").read_bytes(), Path(NAME).read_bytes()])
    assert results[0] == results[1]


def test_the_picture_shows_each_point_and_names_what_it_shows(few, run, watch):
    _, losses, _ = plain_run(few, 12)
    pictures = watch(Figure, "savefig")
    run("--epochs", 12, *OPTIONS, "--data", few)
    [axes] = pictures[0][0].axes
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[::-1, :, :3] / 255  # its first line is the lowest
    colours = [np.array(to_rgb(line.get_color())) for line in axes.lines]
    for one, other in combinations([*colours, np.ones(3)], 2):  # the ground is white
        assert abs(one - other).max() > 0.3
    for column in losses[1:].T:
        for point in axes.transData.transform(np.column_stack([range(2, 13), column])):
            x, y = point.astype(int)
            around = picture[y - 1:y + 3, x - 1:x + 3]
            assert min(abs(around - colour).max(axis=2).min() for colour in colours) < 0.1, point
    texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_legend().get_texts()]
    for text, word in zip(texts, ["", "epoch", "loss", "train", "test"]):  # any title
        assert word in text.get_text().lower()
        box = text.get_window_extent()
        assert min(box.p0) >= 0 and all(box.p1 <= canvas.get_width_height())
        (x0, y0), (x1, y1) = box.get_points().astype(int)
        assert picture[y0:y1, x0:x1].min() < 0.5  # black on white
    saved = imread("loss.png")[:, :, :3]
    for colour in colours:
        assert (abs(saved - colour).max(axis=2) < 0.1).sum() > 100


def test_the_help_names_every_option(run):
    status, out, _ = run("--help")
    options = re.findall("^ +(?:-., )?(--[a-z-]+)", out, re.MULTILINE)
    assert (status, set(options)) == (0, {
        "--help", "--epochs", "--batch-size", "--lr", "--seed", "--data", "--save"})


def test_text_is_seen_before_the_next_epoch_report_and_picture_begin(few, run, watch):
    epochs = watch(ConvolutionNeuralNetwork, "train")
    reports = watch(ConvolutionNeuralNetwork, "predict")
    pictures = watch(Figure, "savefig")
    run("--epochs", 13, *OPTIONS, "--data", few, start=cnn_numpy.main)
    assert [unseen for _, unseen, _ in epochs + pictures] == 14 * [""]
    for _, unseen, _ in reports:
        assert not re.search("Epoch|Report", unseen)


# What goes wrong


@pytest.mark.parametrize("whole, batch", [(0, 2), (1, 2), (7, BATCHES + 1), (7, 2 * BATCHES)])
def test_after_ctrl_c_the_whole_epochs_are_reported_saved_and_drawn(
        few, run, watch, monkeypatch, whole, batch):
    older = ConvolutionNeuralNetwork()
    older.save(NAME)
    network, losses, text = plain_run(few, whole)
    forward, batches = CrossEntropyLoss.forward, []

    def interrupted(self, x, y):
        batches.append(len(x))
        if len(batches) == whole * 2 * BATCHES + batch:  # of training and test
            raise KeyboardInterrupt
        return forward(self, x, y)

    monkeypatch.setattr(CrossEntropyLoss, "forward", interrupted)
    pictures = watch(Figure, "savefig")
    status, out, err = run("--data", few, *OPTIONS, start=cnn_numpy.main)
    assert (status, out, err.count("\n")) == (130, text, 1)
    assert f"epoch {whole}" in err
    assert_saved(network if whole else older)
    assert len(pictures) == min(whole, 1)
    for figure, _, _ in pictures:
        assert_drawn(figure, losses)


@pytest.mark.parametrize("place, error, status", [
    ("PIL.Image.open", KeyboardInterrupt, 130),
    ("sklearn.metrics.classification_report", KeyboardInterrupt, 130),
    ("matplotlib.figure.Figure.savefig", KeyboardInterrupt, 130),
    ("matplotlib.figure.Figure.savefig", PermissionError("loss.png"), 1)])
def test_what_ends_a_run_before_or_after_its_epochs_loses_nothing(
        few, run, monkeypatch, place, error, status):
    network, _, text = plain_run(few, 2)
    network.save(NAME)
    monkeypatch.setattr(place, Mock(side_effect=error))
    found, out, err = run("--epochs", 2, *OPTIONS, "--data", few)
    assert found == status
    assert "Traceback" not in err
    assert out == text if "savefig" in place else text.startswith(out)
    assert_saved(network)


@pytest.mark.parametrize("away, back, status", [
    ("Epoch:   1", "Epoch:   2", 0), ("Epoch:   2", "End Train", 0), ("Epoch:   2", "no words", 1),
], ids=["for an epoch", "until the reports", "to the end"])
def test_a_save_that_fails_is_tried_again(few, run, away, back, status):
    network, _, text = plain_run(few, 3)
    Path("networks").mkdir()
    events = {away: lambda: os.rename("networks", "away"),
              back: lambda: os.rename("away", "networks")}
    command = ["--epochs", 3, *OPTIONS, "--data", few, "--save", f"networks/{NAME}"]
    found, out, err = run(*command, events=events)
    assert (found, out) == (status, text)
    failed = re.findall("epoch . is not saved: .*networks.*\n", err)
    assert 0 < len(failed) == err.count("\n") - status
    assert Path("loss.png").exists()
    if status == 0:
        assert_saved(network, f"networks/{NAME}")


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_an_infinite_loss_ends_the_run_without_warnings_and_leaves_an_older_file(few, run):
    Path(NAME).write_bytes(b"older")
    status, _, err = run(*OPTIONS, "--data", few, "--lr", 1e38)  # the last --lr counts
    assert (status, err.count("\n")) == (1, 1)
    assert "the loss is" in err
    assert Path(NAME).read_bytes() == b"older"


@pytest.mark.parametrize("argument", [
    "--epochs 0", "--epochs -1", "--batch-size 0", "--lr 0", "--lr -0.1", "--lr inf", "--lr nan",
    "--seed -1", "--seed 4294967296", "--save ", "--save .", "--save networks",
    "--save missing/digits.npz", f"--save {os.devnull}"])
def test_a_wrong_argument_is_refused_by_name_and_value(run, argument):
    Path("networks").mkdir()
    status, out, err = run("--data", "nowhere", *argument.split(" "))
    assert (status, out) == (2, "")  # "nowhere" would have been status 1
    assert argument in err
    assert os.listdir() == ["networks"]


@pytest.mark.parametrize("size", [None, (14, 56), (20, 28)])  # 14 * 56 = 28 * 28
@pytest.mark.parametrize("part", ["train", "test"])
def test_unusable_data_is_refused_by_name_before_the_first_epoch(few, run, part, size):
    shutil.copytree(few, "digits")
    if size is None:
        shutil.rmtree(f"digits/{part}")
    else:
        for path in Path("digits", part).glob("*/*.png"):
            Image.open(path).resize(size).save(path)
    status, out, err = run("--data", "digits")
    assert (status, err.count("\n")) == (1, 1)
    assert re.search(f"digits.{part}", err)
    assert "Begin" not in out


def test_the_data_is_in_the_working_folder_or_else_beside_the_script(data, few, run):
    other = Path("other", SCRIPT.name)
    shutil.copytree(data, other.parent / "cv-data")
    shutil.copyfile(SCRIPT, other)
    _, out, _ = run("--epochs", 1, start=lambda: run_script(other))
    assert out.startswith("(98, ")  # the images beside the script
    shutil.copytree(few, "cv-data")
    _, out, _ = run("--epochs", 1, start=lambda: run_script(other))
    assert out.startswith("(11, ")  # those in the working folder


# The process in which it runs


def test_a_run_does_not_compute_the_gradient_of_the_images(few, run, watch):
    steps = watch(ConvolutionNeuralNetwork, "backward")
    run("--epochs", 1, *OPTIONS, "--data", few, start=cnn_numpy.main)
    assert [x_grad is None for _, _, x_grad in steps] == BATCHES * [True]
    assert ConvolutionLayer(1, 1, 2, 2).need_x_grad  # others go on computing it


def test_a_run_has_one_blas_thread_and_gives_the_others_back(few, run):
    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    during = []
    with threadpool_limits(2):
        before = threads()
        run("--epochs", 1, "--data", few, events={"Epoch": lambda: during.append(threads())})
        assert threads() == before
    assert during == [len(before) * [1]]


def test_the_import_and_each_run_leave_the_process_as_it_was(few, tmp_path):
    program = dedent("""
        import contextlib, runpy, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests have left
        script, tests, data = sys.argv[1:]
        sys.path[:0] = [tests]
        import matplotlib.backends.backend_agg, matplotlib.figure, sklearn.metrics
        from helpers import states
        for name, arguments in [("cnn_numpy", ""), ("__main__", "--epochs 0"),
                                ("__main__", "--epochs 2 --lr 1e38"), ("__main__", "--epochs 2")]:
            sys.argv = [script, *arguments.split(), "--data", data]
            before = states()
            with contextlib.suppress(SystemExit):
                runpy.run_path(script, run_name=name)
            after = states()
            changed = [state for state in before if after[state] != before[state]]
            print("changed by", name, arguments, changed)
    """)
    environment = {**ENVIRONMENT, "MPLBACKEND": "pdf"}  # a run that chose another would be seen
    command = [sys.executable, "-c", program, SCRIPT, PROJECT / "tests", few]
    output = subprocess.check_output(command, cwd=tmp_path, env=environment)
    changed = re.findall("changed by (.*)", output.decode().replace("\r", ""))
    assert changed == ["cnn_numpy  []", "__main__ --epochs 0 []",
                       """__main__ --epochs 2 --lr 1e38 ["NumPy's random numbers"]""",
                       "__main__ --epochs 2 []"]  # the same random numbers as before it


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_a_real_ctrl_c_shows_one_line_and_the_reports(few, tmp_path):
    program = dedent("""
        import runpy, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
    """)
    command = [sys.executable, "-c", program, SCRIPT, "--data", few, "--epochs", "3000"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as process:
        for line in process.stdout:
            if b"Epoch:   3" in line:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, err.count(b"\n")) == (130, 1)
    assert b"interrupted" in err
    assert b"Classification Report: Test" in out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports it differently")
def test_a_closed_pipe_ends_the_run_with_one_line(few, tmp_path):
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # a buffer, to be flushed at the end, too
    with subprocess.Popen([sys.executable, SCRIPT, "--data", few], cwd=tmp_path, env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.readlines()
    assert (process.returncode, len(errors)) == (1, 1)
