"""What the README says is true: its links lead somewhere, its programs run, its options exist."""
import ast
import re

import numpy as np
import pytest
from helpers import PROJECT, README

import cnn_numpy

PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def few_digits(digits, tmp_path, monkeypatch):
    """Let the README's programs read a few digits, in a folder of their own."""
    few = [part[:300] for part in digits]
    monkeypatch.setattr(cnn_numpy, "load_dataset", lambda folder, shuffle=False: few)
    monkeypatch.chdir(tmp_path)
    return few


def test_every_link_leads_to_a_heading_a_file_or_the_web():
    titles = re.findall(r"^#+ (.*)", README, re.MULTILINE)
    headings = ["#" + re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
    for target, source in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', README):
        link = target or source
        assert link in headings or link.startswith("https://") or (PROJECT / link).is_file(), link


def test_every_picture_is_shown():
    for picture in (PROJECT / ".github").glob("*.png"):
        assert f'src=".github/{picture.name}"' in README


def test_the_python_in_the_readme_stays_short():
    assert sum(len(block.splitlines()) for block in PYTHON) <= 70


def test_both_languages_have_the_same_commands():
    english, chinese = re.findall(r"```sh\n(python3.*?)```", README, re.DOTALL)
    assert english == chinese


def test_every_option_that_is_named_exists(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["cnn_numpy.py", "--help"])
    with pytest.raises(SystemExit):
        cnn_numpy.main()
    exist = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    named = set(re.findall(r"`(?:python cnn_numpy.py )?(--[\w-]+)", README))
    assert named <= exist
    assert {"--epochs", "--batch-size", "--lr", "--data", "--save"} <= named


def test_the_example_prints_the_numbers_in_its_comments(readme, capsys):
    readme("layer.k[...] = [[1, 2], [3, 4]]")
    printed = re.findall(r"\d+", capsys.readouterr().out.replace(".", " "))
    [block] = [block for block in PYTHON if "layer.k[...] = [[1, 2], [3, 4]]" in block]
    expected = re.findall(r"\[\[.*?\]\]", " ".join(re.findall(r"# .*", block)))
    assert printed == re.findall(r"\d+", " ".join(expected))


def test_training_in_ones_own_code_prints_the_losses_and_saves(readme, few_digits, capsys):
    network = readme("network.train(")["network"]
    assert re.fullmatch(r"(\d [\d.]+ [\d.]+\n){5}", capsys.readouterr().out)
    np.testing.assert_array_equal(np.load("five-epochs.npz")["k0"], network.layers[0].k)


def test_the_network_for_other_images_takes_them():
    [block] = [block for block in PYTHON if "network.layers = [" in block]
    names = {**vars(cnn_numpy), "network": cnn_numpy.ConvolutionNeuralNetwork()}
    exec(block, names)
    x = np.random.default_rng(0).random((2, 3, 32, 32))
    assert names["network"].predict(x).shape == (2, 5)


def test_average_pooling_passes_the_check_and_learns(readme, few_digits, capsys):
    network = readme("def check_gradients")["network"]
    assert capsys.readouterr().out == "the gradients agree: x\n"
    losses = [network.train(*few_digits, 20, 3, 0.1) for _ in range(2)]
    assert losses[1] < losses[0]


class WrongLayer(cnn_numpy.LinearLayer):
    """A linear layer with a fault in one of its gradients."""

    def __init__(self, fault):
        super().__init__(4, 3)
        self.fault = fault

    def backward(self, x, last_x_grad):
        before = self.b_grad
        x_grad = super().backward(x, last_x_grad)
        if self.fault == "the sign of x":
            x_grad = -x_grad
        if self.fault == "a little of b":
            self.b_grad = self.b_grad + 0.001
        if self.fault == "b of the batch before":
            self.b_grad = self.b_grad + before
        return x_grad


@pytest.mark.parametrize("fault, name", [
    ("the sign of x", "x"), ("a little of b", "b"), ("b of the batch before", "b")])
def test_the_gradient_check_names_the_array_that_is_wrong(check_gradients, fault, name):
    with pytest.raises(AssertionError, match=f"'{name}'"):
        check_gradients(WrongLayer(fault), np.random.default_rng(0).standard_normal((5, 4)))


class Shorter(ast.NodeTransformer):
    """Delete from a class what the README says may be deleted."""

    def visit_If(self, node):
        return None if isinstance(node.body[0], ast.Raise) else node

    def visit_FunctionDef(self, node):
        deletable = ("_check_labels", "save", "load", "_parameters")
        return None if node.name in deletable else self.generic_visit(node)

    def visit_Expr(self, node):
        return None if "self._check_labels(" in ast.unparse(node) else node


def test_the_classes_work_without_what_may_be_deleted(digits):
    module = ast.parse((PROJECT / "cnn_numpy.py").read_text(encoding="utf-8"))
    module.body = [Shorter().visit(node) for node in module.body if isinstance(node, ast.ClassDef)]
    names = {"np": np}
    exec(ast.unparse(module), names)
    losses = []
    for network_class in (names["ConvolutionNeuralNetwork"], cnn_numpy.ConvolutionNeuralNetwork):
        np.random.seed(2)
        losses.append(network_class().train(digits[0][:50], digits[1][:50], 10, 1, 0.1))
    assert losses[0] == losses[1]
    assert "raise" not in ast.unparse(module).replace("raise NotImplementedError", "")
