"""What the README says and shows is true: its code runs, its links lead, its names exist."""
import functools
import inspect
import io
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import photos
import pytest
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
    for _ in range(3):
        network.train(digits[0][:2000], digits[1][:2000], 50, 3, 0.1)
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
    squared = photos.photo_of(nothing, size, rng, lines=2, table="around", shadow=0.5)
    two = photos.photo_of(np.hstack([digit, other]), size, rng, tall=0.25)
    with Image.open(photos.photo_of(digit, size, rng)) as photo:
        chalk = png(Image.eval(photo, lambda grey: 255 - grey))
    for photo, words in ((squared, "shows no dark digit"), (two, "shows 2 dark pieces"),
                         (chalk, "dark .* paper"),
                         (png(Image.fromarray(np.uint8(digit * 255))), "dark .* paper"),
                         (png(Image.new("I;16", size)), "more than 8 bits a channel")):
        with pytest.raises(ValueError, match=words):
            digit_image(photo)


@pytest.mark.parametrize("picture, count", [("layers.png", 8), ("wrong.png", 40)])
def test_pictures(run, picture, count):
    run(picture)
    assert plt.imread(picture).shape == plt.imread(PROJECT / ".github" / picture).shape
    axes = plt.gcf().axes
    assert sum(bool(each.get_title() and (each.patches or each.images)) for each in axes) == count


def test_a_layer_of_ones_own(run, digits):
    network = run("AveragePoolingLayer")["network"]
    losses = [network.train(digits[0][:500], digits[1][:500], 20, 3, 0.1) for _ in range(3)]
    assert losses[2] < losses[0] and type(network.layers[4]).__name__ == "AveragePoolingLayer"


def test_pytorchs_network_is_the_one_that_another_test_compares():
    [network] = re.findall(r"`(nn\.Sequential[^`]*)`", README)
    other_test = Path(__file__).with_name("test_network.py").read_text(encoding="utf-8")
    assert "".join(network.split()) in "".join(other_test.split())


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    headings = ["#" + re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
                for title in re.findall(r"^#+ (.*)", README, re.MULTILINE)]
    assert {f".github/{path.name}" for path in (PROJECT / ".github").glob("*.png")} <= set(links)
    for link in links:
        if link.startswith("#"):
            assert link in headings
        elif not link.startswith("https://"):
            assert (PROJECT / link).is_file()


def test_names_of_the_table_beside_the_series():
    table = README.split("\n| article |")[1].split("\n\n")[0]
    rows = [row.split("|") for row in table.splitlines()[2:]]
    named = [name for row in rows for name in re.findall(r"`([\w.]+)`", row[3])]
    for name in named:
        assert callable(functools.reduce(getattr, name.split("."), cnn_numpy))
    assert {kind.__name__ for kind in CLASSES} <= {name.split(".")[0] for name in named}


def file_of(*lines):
    """Return the names of a file with the imports for all classes, and more lines."""
    names = {}
    exec("\n".join(["import math", "import numpy as np", *lines]), names)
    return names


X = np.random.default_rng(0).standard_normal((2, 3, 4, 4))


@pytest.mark.parametrize("bases, name, arguments, x", [
    ("NetworkLayer", "MaxPoolingLayer", (2, 2), X), ("NetworkLayer", "ReLULayer", (), X),
    ("NetworkLayer", "FlattenLayer", (), X),
    ("NetworkLayer ParamLayer", "LinearLayer", (4, 3), X[0, 0]),
    ("NetworkLayer ParamLayer", "ConvolutionLayer", (3, 2, 2, 3), X),
    ("NetworkLayer", "CrossEntropyLoss", (), X[0, 0])])
def test_a_class_stands_alone_with_its_base_classes(bases, name, arguments, x):
    lines = [inspect.getsource(getattr(cnn_numpy, kind)) for kind in (*bases.split(), name)]
    results = []
    for names in (file_of(*lines), vars(cnn_numpy)):
        np.random.seed(0)
        layer, labels = names[name](*arguments), [np.arange(len(x))] * (name == "CrossEntropyLoss")
        y = layer.forward(x, *labels)
        results.append([y, layer.backward(x, *(labels or [y]))])
    for copied, original in zip(*results):
        np.testing.assert_array_equal(copied, original)


def test_what_may_be_deleted_when_copying(digits):
    source = "\n".join(map(inspect.getsource, CLASSES))
    network = source.index("class ConvolutionNeuralNetwork")
    source = source[:source.index("    def save(", network)] + source[source.index("    def _batches"):]
    source = re.sub(r" +self\._check.*\n| +if .*:\n +raise .*\n", "", source)
    assert set(re.findall(r"raise (\w+)|(self\._check)", source)) == {("NotImplementedError", "")}
    names = file_of(source)
    losses = []
    for kind in (names["ConvolutionNeuralNetwork"], cnn_numpy.ConvolutionNeuralNetwork):
        np.random.seed(2)
        losses.append(kind().train(digits[0][:50], digits[1][:50], 10, 1, 0.1))
    assert losses[0] == losses[1]
