"""What the README says and shows is true: its code runs, its links lead, its names exist."""
import inspect
import io
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import photos
import pytest
from helpers import PROJECT, README
from matplotlib.backend_bases import MouseEvent
from PIL import Image

import cnn_numpy

CLASSES = [value for value in vars(cnn_numpy).values()
           if isinstance(value, type) and value.__module__ == "cnn_numpy"]


@pytest.fixture(scope="module")
def network(digits):
    """Return a network that has learned a little."""
    np.random.seed(1)
    network = cnn_numpy.ConvolutionNeuralNetwork()
    for _ in range(4):
        network.train(*digits, 50, 4, 0.1)
    return network


@pytest.fixture
def run(network, digits, readme, tmp_path, monkeypatch):
    """Return a function that runs a block of code in a folder with digits.npz."""
    def load_dataset(folder, shuffle=False):
        return [part[:{"cv-data/train": 500, "cv-data/test": 3000}[folder]] for part in digits]

    monkeypatch.setattr(cnn_numpy, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    network.save("digits.npz")
    yield readme
    plt.close("all")


def test_training_and_keeping_the_network(run, capsys):
    names = run("network.train(")
    assert re.fullmatch(r"(\d [\d.]+ [\d.]+\n){5}", capsys.readouterr().out)
    np.testing.assert_array_equal(np.load("five-epochs.npz")["k0"], names["network"].layers[0].k)


@pytest.mark.parametrize("picture, count", [("layers.png", 8), ("wrong.png", 40)])
def test_pictures(run, picture, count):
    run(picture)
    assert plt.imread(picture).shape == plt.imread(PROJECT / ".github" / picture).shape
    axes = plt.gcf().axes
    assert sum(bool(each.get_title() and (each.patches or each.images)) for each in axes) == count


STROKES = {  # how people draw, in pixels of a paper of 28 x 28
    0: [[(14, 5), (9, 8), (8, 15), (10, 21), (15, 23), (19, 19), (20, 11), (17, 6), (14, 5)]],
    3: [[(9, 6), (15, 4), (19, 8), (14, 13), (19, 18), (15, 23), (9, 22)]],
    4: [[(9, 5), (8, 14), (19, 14)], [(19, 4), (18, 24)]],
    7: [[(8, 5), (20, 5), (13, 24)]],
}


def test_digits_drawn_with_the_mouse_are_known(run):
    run("button_press_event")
    canvas, (paper, chart) = plt.gcf().canvas, plt.gcf().axes
    answers = {}
    for digit, strokes in STROKES.items():
        moves = [("button_press_event", 3, (14, 14))]  # which clears the paper
        for stroke in strokes:
            moves += [("button_press_event", 1, stroke[0])]
            moves += [("motion_notify_event", 1, point) for point in stroke]
            moves += [("button_release_event", 1, (2, 2)), ("motion_notify_event", None, (2, 2))]
        for name, button, point in moves:
            place = paper.transAxes.transform((point[0] / 28, 1 - point[1] / 28))
            canvas.callbacks.process(name, MouseEvent(name, canvas, *place, button))
            heights, dots = chart.patches[0].get_data().values, paper.lines[0].get_xydata()
            assert len(dots) == 0 if button == 3 else sum(heights) == pytest.approx(1)
        answers[digit] = int(np.argmax(heights))
    assert list(answers) == list(answers.values())


@pytest.fixture
def digit_image(run, network, digits, capsys):
    """Return the function that makes photos into images."""
    photo = photos.photo_of(digits[0][0, 0], (360, 270), np.random.default_rng(0))
    Path("photo.jpg").write_bytes(photo.getvalue())
    digit_image = run("def digit_image")["digit_image"]
    answer = network.predict(digit_image(photo)).argmax()
    assert capsys.readouterr().out.startswith(f"this is a {answer} with a probability of ")
    return digit_image


def test_the_network_knows_photos_of_every_kind(network, digits, digit_image):
    x, _ = digits
    surest = network.predict(x).argmax(axis=0)  # the surest 0, the surest 1 and so on
    rng, known = np.random.default_rng(3), {}
    for kind, settings in photos.KINDS.items():
        images = np.concatenate([digit_image(photos.photo_of(digit, (240, 180), rng, **settings))
                                 for digit in x[surest, 0]])
        assert images.dtype == np.float32 and images.min() >= 0 and images.max() == 1
        known[kind] = np.mean(network.predict(images).argmax(axis=1) == range(10))
    assert min(known.values()) >= 0.9 and np.mean(list(known.values())) >= 0.95, known


def test_what_is_not_one_dark_digit_on_light_paper_is_refused(digits, digit_image):
    digit, other = digits[0][[0, -1], 0]
    rng, size, deep = np.random.default_rng(0), (360, 270), io.BytesIO()
    empty = photos.photo_of(0 * digit, size, rng, lines=2, table="around", shadow=0.5)
    two = photos.photo_of(np.hstack([digit, other]), size, rng, tall=0.25)
    Image.new("I;16", size).save(deep, "PNG")
    for photo in empty, two, deep:
        with pytest.raises(ValueError, match="0|2|8"):
            digit_image(photo)


def test_average_pooling_learns(run, digits):
    network = run("def check_gradients")["network"]
    losses = [network.train(digits[0][:500], digits[1][:500], 20, 3, 0.1) for _ in range(2)]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("fault", ["x", "b", "b of before"])
def test_the_gradient_check_finds_what_is_wrong(check_gradients, fault):
    class Wrong(cnn_numpy.LinearLayer):
        def backward(self, x, last_x_grad):
            before = self.b_grad
            x_grad = super().backward(x, last_x_grad)
            self.b_grad = self.b_grad + {"x": 0, "b": 0.001, "b of before": before}[fault]
            return -x_grad if fault == "x" else x_grad

    with pytest.raises(AssertionError, match=f"'{fault[0]}'"):
        check_gradients(Wrong(4, 3), np.random.default_rng(0).standard_normal((5, 4)))


def test_links_lead_somewhere_and_names_exist():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    headings = ["#" + re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
                for title in re.findall(r"^#+ (.*)", README, re.MULTILINE)]
    assert {f".github/{path.name}" for path in (PROJECT / ".github").glob("*.png")} <= set(links)
    for link in links:
        assert link in headings or link.startswith("https://") or (PROJECT / link).is_file()
    rows = [row for row in README.splitlines() if row.startswith("|")]
    assert all("(series, part " in kind.__doc__ for kind in CLASSES)
    named = dict.fromkeys(re.findall(r"`(\w+)(?:\.\w+)?`", "".join(rows)))
    assert list(named) == [name for name, value in vars(cnn_numpy).items() if name[0] != "_"
                           and getattr(value, "__module__", "") == "cnn_numpy"]  # in this order


def test_commands_are_the_same_in_both_languages_and_their_options_exist(monkeypatch, capsys):
    lines = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert lines == lines[:2] * 2
    named = set(re.findall(r"(?:cnn_numpy\.py |`)(--[a-z-]+)", README))
    assert {"--epochs", "--data", "--save", "--lr", "--batch-size"} <= named
    monkeypatch.setattr("sys.argv", ["cnn_numpy.py", "--help"])
    pytest.raises(SystemExit, cnn_numpy.main)
    assert named <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))


def test_what_may_be_deleted_when_copying(digits):
    source = "\n".join(map(inspect.getsource, CLASSES))
    method = r"( +@\w+\n)? +def (save|load|_parameters|_check\w*)\(.*?\n(?= {4}\S|\nclass |\Z)"
    for part in (method, r" +self\._check[^\n]*\n",
                 r" +if [^\n]*:\n( +)raise [^\n]*\n(\1 +[^\n]*\n)*"):
        source = re.sub(part, "", source, flags=re.DOTALL)
    assert set(re.findall(r"raise (\w+)|(_check)", source)) == {("NotImplementedError", "")}
    above = list(vars(cnn_numpy).items())[:list(vars(cnn_numpy)).index("ConvolutionNeuralNetwork")]
    exec(source, copied := dict(above))
    losses = []
    for names in (copied, vars(cnn_numpy)):
        np.random.seed(2)
        network = names["ConvolutionNeuralNetwork"]()
        losses.append(network.train(digits[0][:50], digits[1][:50], 10, 1, 0.1))
        losses[-1] += network.predict(digits[0][:1])[0, 0]
    assert losses[0] == losses[1] and not hasattr(copied["ConvolutionNeuralNetwork"], "save")
