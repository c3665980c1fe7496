"""What the README says and shows is true: its code runs, its links lead, its tables agree."""
import functools
import importlib.util
import inspect
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image  # which comes with matplotlib

import cnn_numpy

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def photo_of(digit, rng):
    """Make a photo of a white-on-black digit: dark on light, larger, off centre, uneven paper."""
    ink = np.kron(digit, np.ones((4, 4)))
    paper = 0.85 + 0.02 * rng.standard_normal((170, 200)) - np.linspace(0, 0.1, 200)
    top, left = rng.integers(0, 170 - 112), rng.integers(0, 200 - 112)
    paper[top:top + 112, left:left + 112] -= 0.6 * ink
    return Image.fromarray((np.clip(paper, 0, 1) * 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make a folder as the README's code expects it: a small cv-data and a photo."""
    folder = tmp_path_factory.mktemp("readme")
    for part in ("train", "test"):
        for digit in range(10):
            target = folder / "cv-data" / part / str(digit)
            target.mkdir(parents=True)
            for path in sorted((PROJECT / "cv-data" / part / str(digit)).iterdir())[:30]:
                shutil.copyfile(path, target / path.name)
    image = plt.imread(sorted((folder / "cv-data" / "test" / "3").iterdir())[0])
    photo_of(image, np.random.default_rng(0)).save(folder / "photo.png")
    return folder


def run_code(folder, monkeypatch, blocks):
    """Run blocks of the README one after the other, and return their names."""
    monkeypatch.chdir(folder)
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    return names


def test_the_code_for_use_runs(folder, monkeypatch, capsys):
    assert ["import torch" in block for block in CODE] == [False, False, False, True]
    torch = importlib.util.find_spec("torch")
    names = run_code(folder, monkeypatch, CODE if torch else CODE[:3])
    if torch:
        np.testing.assert_allclose(names["same"], names["probabilities"], atol=1e-5)
    assert names["probabilities"].shape == (300, 10)
    assert names["digit_image"]("photo.png").shape == (1, 1, 28, 28)
    assert re.match(r"(\d \d\.\d+ \d\.\d+\n){5}accuracy 0\.\d+\nthis is a \d\n",
                    capsys.readouterr().out)
    assert sorted(path.name for path in folder.iterdir()) == ["cv-data", "digits.npz", "photo.png"]


def test_the_network_knows_photos_of_digits(tmp_path):
    np.random.seed(1)
    x, y = cnn_numpy.load_dataset(PROJECT / "cv-data" / "test", shuffle=True)
    network = cnn_numpy.ConvolutionNeuralNetwork()
    for _ in range(3):
        network.train(x[:3000], y[:3000], 50, 3, 0.1)
    names, rng = {"network": network}, np.random.default_rng(1)
    recipe = next(block for block in CODE if "def digit_image" in block)
    exec(recipe[:recipe.index("\n\n\nprint")], names)
    plain, photos = network.predict(x[-200:]).argmax(axis=1), []
    for digit in x[-200:, 0]:
        photo_of(digit, rng).save(tmp_path / "photo.png")
        photos.append(names["digit_image"](tmp_path / "photo.png"))
    white_on_black = Image.fromarray((x[0, 0] * 255).astype(np.uint8))
    for name, image in (("blank", Image.new("L", (90, 60), 240)), ("chalk", white_on_black)):
        image.save(tmp_path / f"{name}.png")
        with pytest.raises(ValueError, match=f"{name}.png shows no dark digit"):
            names["digit_image"](tmp_path / f"{name}.png")
    photos = np.concatenate(photos)
    assert photos.dtype == np.float32 and photos.min() >= 0 and photos.max() == 1
    assert np.mean(network.predict(photos).argmax(axis=1) == plain) >= 0.9


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    headings = ["#" + re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
                for title in re.findall(r"^#+ (.*)", README, re.MULTILINE)]
    assert ".github/loss-curve.png" in links
    for link in links:
        if link.startswith("#"):
            assert link in headings
        elif not link.startswith("https://"):
            assert (PROJECT / link).is_file()
    for name in re.findall(r"`(tests/[^`\s]*|[\w./-]+\.(?:py|txt|md))`", README):
        assert (PROJECT / name).exists()
    for name in re.findall(r"python (\S+\.py)", README):
        assert (PROJECT / name).is_file()


def table(heading):
    """Return the rows of the first table below a heading, without its head."""
    rows = README.split(f"\n## {heading}\n")[1].split("\n|---")[1].split("\n\n")[0].split("\n")[1:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip("|"))] for row in rows]


def test_names_of_the_table_beside_the_series():
    named = [name for row in table("Reading it beside the series")
             for name in re.findall(r"`([\w.]+)`", row[2])]
    for name in named:
        assert callable(functools.reduce(getattr, name.split("."), cnn_numpy))
    classes = {name for name, value in vars(cnn_numpy).items()
               if isinstance(value, type) and value.__module__ == "cnn_numpy" and name[0] != "_"}
    assert classes <= {name.split(".")[0] for name in named}
    assert [row[0] for row in table("Reading it beside the series")] == sorted(
        row[0] for row in table("Reading it beside the series"))


X = np.random.default_rng(0).standard_normal((2, 3, 4, 4))


@pytest.mark.parametrize("name, arguments, x", [
    ("MaxPoolingLayer", (2, 2), X), ("ReLULayer", (), X), ("FlattenLayer", (), X),
    ("LinearLayer", (4, 3), X[0, 0]), ("ConvolutionLayer", (3, 2, 2, 3), X),
    ("CrossEntropyLoss", (), X[0, 0])])
def test_a_class_stands_alone_with_its_base_classes(name, arguments, x):
    kinds = [kind for kind in reversed(getattr(cnn_numpy, name).__mro__) if kind is not object]
    names = {}
    exec("import math\nfrom functools import reduce\nimport numpy as np\n"
         + "\n".join(map(inspect.getsource, kinds)), names)
    copy, original = names[name](*arguments), getattr(cnn_numpy, name)(*arguments)
    vars(copy).update(vars(original))
    more = [np.arange(len(x))] if name == "CrossEntropyLoss" else []
    y = original.forward(x, *more)
    np.testing.assert_array_equal(copy.forward(x, *more), y)
    more = more or [y]
    np.testing.assert_array_equal(copy.backward(x, *more), original.backward(x, *more))


def test_the_run_and_its_arguments(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cnn_numpy.py", "--help"])
    monkeypatch.setenv("COLUMNS", "200")  # or "cv-data" may be broken in two
    with pytest.raises(SystemExit):
        cnn_numpy.main()
    text = " ".join(capsys.readouterr().out.split())
    for default in ("200", "100", "0.1", "1234", "cv-data", "None"):
        assert f"(default: {default})" in text
    options = set(re.findall(r"--[\w-]+", text))
    named = set(re.findall(r"(?:cnn_numpy\.py |`)(--[a-z-]+)", README))
    assert {"--epochs", "--data", "--save", "--help"} <= named <= options
