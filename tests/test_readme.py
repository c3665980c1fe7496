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
from matplotlib.backend_bases import MouseEvent
from PIL import Image

import cnn_numpy

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
CLASSES = [value for value in vars(cnn_numpy).values()
           if isinstance(value, type) and value.__module__ == "cnn_numpy"]


@pytest.fixture(scope="module")
def network(digits):
    """Return a network that has learned a little."""
    np.random.seed(1)
    network = cnn_numpy.ConvolutionNeuralNetwork()
    for _ in range(4):
        network.train(digits[0], digits[1], 50, 4, 0.1)
    return network


@pytest.fixture
def run(network, digits, tmp_path, monkeypatch):
    """Return a function that runs a block of code alone, in a folder with digits.npz."""
    x, y = digits
    images = {"cv-data/train": (x[:500], y[:500]), "cv-data/test": (x[:3000], y[:3000])}
    monkeypatch.setattr(cnn_numpy, "load_dataset", lambda folder, shuffle=False: images[folder])
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    network.save("digits.npz")
    before = Path("digits.npz").read_bytes()

    def run(words):
        [block], names = [block for block in CODE if words in block], {}
        exec(compile(block, "README.md", "exec"), names)
        assert Path("digits.npz").read_bytes() == before
        return names
    yield run
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
    1: [[(14, 4), (14, 24)]],
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
    def png(image):
        image.save(file := io.BytesIO(), "PNG")
        return file

    digit, other = digits[0][[0, -1], 0]
    rng, size, nothing = np.random.default_rng(0), (360, 270), np.zeros_like(digit)
    empty = photos.photo_of(nothing, size, rng, lines=2, table="around", shadow=0.5)
    two = photos.photo_of(np.hstack([digit, other]), size, rng, tall=0.25)
    for photo in (empty, two, png(Image.new("I;16", size))):
        with pytest.raises(ValueError, match="0|2|8"):
            digit_image(photo)


LAYERS = {
    "AveragePoolingLayer": ((), (2, 2, 4, 6)), "MaxPoolingLayer": ((2, 3), (2, 2, 4, 6)),
    "ReLULayer": ((), (7,)), "FlattenLayer": ((), (2, 2, 3, 4)), "LinearLayer": ((4, 3), (5, 4)),
    "ConvolutionLayer": ((2, 3, 2, 3), (2, 2, 4, 5))}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("change", ["nothing", "dL/dx", "a parameter", "stale"])
def test_the_gradient_check_passes_what_is_right_alone(run, digits, name, change):
    names, (arguments, shape) = {**vars(cnn_numpy), **run("def check_gradients")}, LAYERS[name]

    class Changed(names[name]):
        def backward(self, x, last_x_grad):
            before = getattr(self, "b_grad", 0)
            x_grad = super().backward(x, last_x_grad)
            if change in ("a parameter", "stale") and hasattr(self, "b"):
                self.b_grad = self.b_grad + (before if change == "stale" else 0.001)
            return -x_grad if change == "dL/dx" else x_grad

    wrong = change == "dL/dx" or change != "nothing" and hasattr(names[name](*arguments), "b")
    np.random.seed(0)
    try:
        names["check_gradients"](Changed(*arguments), np.random.randn(*shape))
    except AssertionError as error:
        assert wrong and ("'x'" if change == "dL/dx" else "'b'") in str(error)
    else:
        assert not wrong
    if name == "AveragePoolingLayer":
        losses = [names["network"].train(digits[0][:500], digits[1][:500], 20, 3, 0.1)
                  for _ in range(2)]
        assert losses[1] < losses[0]


def test_pytorchs_network_is_the_one_that_another_test_compares():
    [network] = re.findall(r"`(nn\.Sequential\([^`]*)`", README)
    other_test = Path(__file__).with_name("test_network.py").read_text(encoding="utf-8")
    assert "".join(network.split()) in "".join(other_test.split())


def test_links_lead_somewhere_and_names_exist():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    headings = ["#" + re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
                for title in re.findall(r"^#+ (.*)", README, re.MULTILINE)]
    assert {f".github/{path.name}" for path in (PROJECT / ".github").glob("*.png")} <= set(links)
    for link in links:
        if link.startswith("#"):
            assert link in headings
        elif not link.startswith("https://"):
            assert (PROJECT / link).is_file()
    rows = [row for row in README.splitlines() if row.startswith("|")]
    named = set(re.findall(r"`(\w+)(?:\.\w+)?`", "".join(rows)))
    assert {kind.__name__ for kind in CLASSES} | {"load_dataset", "main"} == named


def test_commands_are_the_same_in_both_languages_and_their_options_exist():
    lines = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert lines == lines[:2] * 2
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("sys.argv", ["cnn_numpy.py", "--help"])
        cnn_numpy.main()
    named = set(re.findall(r"(?:cnn_numpy\.py |`)(--[a-z-]+)", README))
    assert {"--epochs", "--data", "--save", "--help", "--lr", "--batch-size"} <= named
    source = (PROJECT / "cnn_numpy.py").read_text(encoding="utf-8")
    assert named - {"--help"} <= set(re.findall(r'"(--[\w-]+)"', source))


def file_of(*lines):
    """Return the names of a file with the imports for all classes, and more lines."""
    names = {}
    exec("\n".join(["import math", "import numpy as np", *lines]), names)
    return names


@pytest.mark.parametrize("name", [*list(LAYERS)[1:], "CrossEntropyLoss"])
def test_a_class_stands_alone_with_its_base_classes(name):
    kind, (arguments, shape) = getattr(cnn_numpy, name), LAYERS.get(name, ((), (2, 3)))
    x, results = np.random.default_rng(0).standard_normal(shape), []
    names = file_of(*map(inspect.getsource, kind.__mro__[-2::-1]))
    for each in (names[name], kind):
        np.random.seed(0)
        layer, labels = each(*arguments), [np.array([1, 2])] * (name == "CrossEntropyLoss")
        y = layer.forward(x, *labels)
        results.append([y, layer.backward(x, *(labels or [y]))])
    for copied, original in zip(*results):
        np.testing.assert_array_equal(copied, original)


def test_what_may_be_deleted_when_copying(digits):
    source = "\n".join(map(inspect.getsource, CLASSES))
    first, rest = source.split("    def save(")
    source = re.sub(r" +self\._check.*\n| +if .*:\n +raise .*\n", "",
                    first + rest[rest.index("    def _batches"):])
    assert set(re.findall(r"raise (\w+)|(self\._check)", source)) == {("NotImplementedError", "")}
    losses = []
    for names in (file_of(source), vars(cnn_numpy)):
        np.random.seed(2)
        network = names["ConvolutionNeuralNetwork"]()
        losses.append(network.train(digits[0][:50], digits[1][:50], 10, 1, 0.1))
    assert losses[0] == losses[1]
