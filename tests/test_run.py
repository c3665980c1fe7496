"""The run, as a person starts it."""
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from unittest.mock import Mock, patch

import numpy as np
import pytest
from helpers import ENVIRONMENT, NAME, PROJECT, arrays_of, assert_all_same, assert_same
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import classification_report
from threadpoolctl import threadpool_info, threadpool_limits

import cnn_numpy
from cnn_numpy import ConvolutionNeuralNetwork, CrossEntropyLoss, load_dataset

SCRIPT = PROJECT / "cnn_numpy.py"


class Output:
    """A standard output that has only write and flush, as in some notebooks."""

    text = seen = ""
    events = {}  # functions, to be called when their words are written

    def write(self, text):
        self.text += text
        for words, event in self.events.items():
            if words in text:
                event()

    def flush(self):
        self.seen = self.text


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs; it returns the status and what both standard files show."""
    def run_in_folder(*arguments, script=SCRIPT, main=None, events=None):
        out, err, status = Output(), Output(), 0
        out.events = events or {}
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", [str(SCRIPT), *map(str, arguments)])
            patch.setattr("sys.stdout", out)
            patch.setattr("sys.stderr", err)
            for clock in ("perf_counter", "monotonic", "time"):
                patch.setattr(f"time.{clock}", lambda: 90 if "Epoch" in out.text else 0)
            try:
                main() if main else runpy.run_path(str(script), run_name="__main__")
            except SystemExit as stop:
                status = stop.code
            except KeyboardInterrupt:  # it would end pytest
                status = -signal.SIGINT
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


OPTIONS = ["--batch-size", 6, "--seed", 0, "--lr", 0.2, "--save", NAME]


def plain_run(data, epochs):
    """Return the network that a run with OPTIONS trains, its losses, and the text it prints."""
    np.random.seed(0)
    train = load_dataset(data / "train", shuffle=True)
    test = load_dataset(data / "test")
    network = ConvolutionNeuralNetwork()
    line = 15 * "="
    text = f"{train[0].shape} {train[1].shape}\n{test[0].shape} {test[1].shape}\n"
    text += f"{line} Begin Train {line}\n"
    losses = []
    for epoch in range(1, epochs + 1):
        loss = network.train(*train, 6, epochs, 0.2), network.test(*test, 6)
        losses.append(loss)
        text += f"Epoch: {epoch:3d} Train Loss: {loss[0]:.4f} Test Loss: {loss[1]:.4f}\n"
    text += f"{line} End Train: {1.5 if epochs else 0:.2f} min {line}\n"
    for part, (x, y) in [("Train", train), ("Test", test)]:
        answers = network.predict(x).argmax(axis=1)
        report = classification_report(y, answers, digits=4, zero_division=0)
        text += f"{line} Classification Report: {part} {line}\n{report}\n"
    return network, np.array(losses), text


watch_savefig = patch.object(Figure, "savefig", autospec=True, side_effect=Figure.savefig)


def test_a_run_prints_and_saves_its_epochs_the_second_time_too(few, run):
    network, _, text = plain_run(few, 30)
    for _ in range(2):
        shown = run("--epochs", 30, *OPTIONS, "--data", few, main=cnn_numpy.main)
        assert shown == (0, text, "")
    assert sorted(os.listdir()) == sorted(["loss.png", NAME])
    assert_all_same(dict(np.load(NAME)), arrays_of(network), 0)


@pytest.mark.parametrize("epochs", [12, 2, 1])
@watch_savefig
def test_the_picture_shows_each_loss_and_names_what_it_shows(savefig, few, run, epochs):
    _, losses, _ = plain_run(few, epochs)
    run("--epochs", epochs, *OPTIONS, "--data", few, main=cnn_numpy.main)
    [axes] = savefig.call_args[0][0].axes
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[::-1, :, :3]  # its first line is the lowest
    has_ink = picture.min(axis=2) < 128  # the ground is white
    first = min(2, epochs)  # the first loss would flatten the rest
    for line, column in zip(axes.lines, losses[first - 1:].T):
        points = np.column_stack([range(first, epochs + 1), column])
        assert_same("the curve", line.get_xydata(), points)
        for x, y in axes.transData.transform(points).astype(int):
            assert has_ink[y - 1:y + 3, x - 1:x + 3].any()
    one, other = [np.array(to_rgb(line.get_color())) for line in axes.lines]
    assert abs(one - other).max() > 0.3
    texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_legend().get_texts()]
    for text, word in zip(texts, ["", "epoch", "loss", "train", "test"]):  # any title
        assert word in text.get_text().lower()
        (x0, y0), (x1, y1) = text.get_window_extent().get_points().astype(int)
        assert min(x0, y0) >= 0 and y1 <= has_ink.shape[0] and x1 <= has_ink.shape[1]
        assert has_ink[y0:y1, x0:x1].any()
    assert min(Image.open("loss.png").convert("L").size) > 400


@watch_savefig
def test_without_arguments_it_trains_as_the_series_does(savefig, few, run, monkeypatch):
    shutil.copytree(few, "cv-data")
    np.random.seed(1234)
    load_dataset("cv-data/train", shuffle=True)
    w = ConvolutionNeuralNetwork().layers[7].w
    calls = []

    def train(self, train_x, train_y, batch_size, epochs, lr):
        assert_same("the first parameters", self.layers[7].w, w)
        calls.append((batch_size, lr, self.layers[0].need_x_grad))  # no gradient of the images
        return 1.0

    monkeypatch.setattr(ConvolutionNeuralNetwork, "train", train)
    run(main=cnn_numpy.main)
    assert calls == 200 * [(100, 0.1, False)]
    assert len(savefig.call_args[0][0].axes[0].lines[0].get_xydata()) == 199


def test_text_is_seen_before_the_next_epoch_or_report_begins(few, run, monkeypatch):
    forward = ConvolutionNeuralNetwork.forward

    def watched(*arguments, **options):
        unseen = sys.stdout.text[len(sys.stdout.seen):]
        assert not re.search("Begin|Epoch|Report", unseen)
        return forward(*arguments, **options)

    monkeypatch.setattr(ConvolutionNeuralNetwork, "forward", watched)
    run("--epochs", 13, *OPTIONS, "--data", few, main=cnn_numpy.main)


@pytest.mark.parametrize("whole, last", [(0, 2), (1, 6), (2, 11), (2, 12)])
def test_after_ctrl_c_the_whole_epochs_are_reported_and_saved(few, run, monkeypatch, whole, last):
    network, _, text = plain_run(few, whole)
    forward, batches = CrossEntropyLoss.forward, []

    def interrupted(self, x, y):
        batches.append(len(x))
        if len(batches) == last:  # an epoch has two for training, then two for the test
            raise KeyboardInterrupt
        return forward(self, x, y)

    monkeypatch.setattr(CrossEntropyLoss, "forward", interrupted)
    status, out, err = run("--data", few, *OPTIONS, main=cnn_numpy.main)
    assert (status, out, err.count("\n")) == (130, text, 1)
    assert f"epoch {whole}" in err
    assert sorted(os.listdir()) == sorted(["loss.png", NAME] if whole else [])
    if whole:
        assert_all_same(dict(np.load(NAME)), arrays_of(network), 0)


@pytest.mark.parametrize("place, error, status", [
    ("PIL.Image.open", KeyboardInterrupt, 130),
    ("sklearn.metrics.classification_report", KeyboardInterrupt, 130),
    ("matplotlib.figure.Figure.savefig", KeyboardInterrupt, 130),
    ("matplotlib.figure.Figure.savefig", PermissionError, 1)])
def test_what_stops_a_run_loses_no_epoch(few, run, monkeypatch, place, error, status):
    network, _, text = plain_run(few, 2)
    network.save(NAME)
    monkeypatch.setattr(place, Mock(side_effect=error))
    found, out, _ = run("--epochs", 2, *OPTIONS, "--data", few)
    assert found == status and text.startswith(out)
    assert out == text or "savefig" not in place  # the reports come before the picture
    assert_all_same(dict(np.load(NAME)), arrays_of(network), 0)


@pytest.mark.parametrize("away, back, status", [
    ("Epoch:   1", "Epoch:   2", 0), ("Epoch:   2", "End Train", 0), ("Epoch:   2", "no words", 1),
])
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
        assert_all_same(dict(np.load(f"networks/{NAME}")), arrays_of(network), 0)


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


@pytest.mark.parametrize("size", [(14, 56), (20, 28)])  # 14 * 56 = 28 * 28
def test_images_of_another_size_are_refused_by_name_before_the_first_epoch(few, run, size):
    shutil.copytree(few, "digits")
    for path in Path("digits", "test").glob("*/*.png"):
        Image.open(path).resize(size).save(path)
    status, out, err = run("--data", "digits")
    assert (status, err.count("\n")) == (1, 1)
    assert re.search("digits.test", err)
    assert "Begin" not in out


def test_the_data_is_in_the_working_folder_or_else_beside_the_script(run):
    other = Path("other", SCRIPT.name)
    other.parent.mkdir()
    shutil.copyfile(SCRIPT, other)
    _, _, err = run(script=other)
    assert re.search("other.+cv-data", err)  # there is none
    Path("cv-data").mkdir()
    _, _, err = run(script=other)
    assert "cv-data" in err and "other" not in err


def test_a_run_has_one_blas_thread_and_gives_the_others_back(few, run):
    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    during = []
    with threadpool_limits(2):
        before = threads()
        run("--epochs", 1, "--data", few, events={"Epoch": lambda: during.append(threads())})
        assert threads() == before
    assert during == [len(before) * [1]]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_each_run_even_with_a_real_ctrl_c_leaves_the_process_as_the_import_found_it(few, tmp_path):
    program = dedent("""
        import runpy, signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
        script, tests, data = sys.argv[1:]
        sys.path[:0] = [tests]
        import matplotlib.backends.backend_agg, matplotlib.figure, sklearn.metrics
        from helpers import states
        for name, arguments in [("cnn_numpy", ""), ("__main__", "--epochs 2 --lr 1e38"),
                                ("__main__", "--epochs 2"), ("__main__", "--epochs 3000")]:
            sys.argv = [script, *arguments.split(), "--seed", "4294967295", "--data", data]
            before = states()
            try:
                runpy.run_path(script, run_name=name)
            except SystemExit as stop:
                print("status:", stop)
            after = states()
            print("changed:", [state for state in before if after[state] != before[state]])
    """)
    out, environment = "", {**ENVIRONMENT, "MPLBACKEND": "pdf"}  # another backend would be seen
    with subprocess.Popen([sys.executable, "-c", program, SCRIPT, PROJECT / "tests", few],
                          cwd=tmp_path, env=environment, umask=0o022, encoding="utf-8",
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for line in process.stdout:
            out += line
            if "Epoch:   3" in line:
                process.send_signal(signal.SIGINT)
        errors = process.stderr.readlines()
    assert re.findall("changed: (.*)", out) == [
        "[]", """["NumPy's random numbers"]""", "[]", "[]"]  # the same random numbers again
    assert re.search("(?s)status: .*the loss is .*Report: Test.*Report: Test.*status: 130", out)
    assert len(errors) == 1 and "interrupted" in errors[0]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports it differently")
def test_a_closed_pipe_ends_the_run_with_one_line(few, tmp_path):
    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": ""}  # text is left for Python's last flush
    with subprocess.Popen([sys.executable, SCRIPT, "--data", few], cwd=tmp_path, env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        errors = process.stderr.readlines()
    assert (process.returncode, len(errors)) == (1, 1)
