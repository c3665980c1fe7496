"""The network: its layers in a row, gradient descent step by step, PyTorch as the judge, files."""
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import definitions
import numpy as np
import pytest
from helpers import NAME, README, as_dtype, assert_same, definition, parameters

from cnn_numpy import ConvolutionLayer, ConvolutionNeuralNetwork, LinearLayer, MaxPoolingLayer


def network_of(seed, dtype=np.float32):
    """Return the network that a seed gives."""
    np.random.seed(seed)
    network = ConvolutionNeuralNetwork()
    for layer in network.layers:
        as_dtype(layer, dtype)
    return network


def images_of(seed, count, dtype=np.float32):
    """Return images of noise, with the black border where windows are ties, and labels."""
    rng = np.random.default_rng(seed)
    x, y = 2 * rng.random((count, 1, 28, 28)).astype(dtype), rng.integers(0, 10, count)
    x[:, :, :6] = 0
    x.flags.writeable = y.flags.writeable = False  # and nothing clips or scales them
    return x, y


def arrays_of(network, ending=""):
    """Return the parameters of a network, or with the ending "_grad" their gradients."""
    return {f"{name}{number}": getattr(layer, name + ending)
            for number, layer in enumerate(network.layers) for name in parameters(layer)}


def assert_same_network(actual, expected, error=0):
    """Check parameters by their names."""
    for (name, array), other in zip(arrays_of(actual).items(), arrays_of(expected).values()):
        assert array.dtype == other.dtype
        assert_same(name, array, other, error)


def test_logits_and_gradients_are_those_of_the_definitions():
    network, (x, y) = network_of(2, np.float64), images_of(2, 2, np.float64)
    value, values, steps, found = x, [], [], []
    for layer in network.layers:
        values.append(value)
        found.append((type(layer).__name__[:-5], value.shape[1:]))
        value, backward = definition(layer, value)
        steps.append(backward)
    assert found == [
        ("Convolution", (1, 28, 28)), ("MaxPooling", (4, 24, 24)), ("ReLU", (4, 12, 12)),
        ("Convolution", (4, 12, 12)), ("MaxPooling", (16, 10, 10)), ("ReLU", (16, 5, 5)),
        ("Flatten", (16, 5, 5)), ("Linear", (400,))]
    np.random.seed(2)
    drawn = ConvolutionLayer(1, 4, 5, 5), ConvolutionLayer(4, 16, 3, 3), LinearLayer(400, 10)
    for number, layer in zip((0, 3, 7), drawn):  # in this order
        np.testing.assert_array_equal(network.layers[number].b, layer.b)
    logits = network.forward(x, keepgrad=True)
    assert_same("the logits of forward", logits, value, 1e-13)
    assert_same("the probabilities of predict", network.predict(x), definitions.softmax(value))
    x_grad = network.backward(network.loss_func.backward(logits, y))
    grads = definitions.cross_entropy_backward(value, y)
    for number, layer in reversed(list(enumerate(network.layers))):
        assert_same(f"layer_inputs[{number}]", network.layer_inputs[number], values[number])
        grads = steps[number](grads["x"])
        for name in parameters(layer):
            assert_same(f"{name}{number}_grad", getattr(layer, f"{name}_grad"), grads[name])
    assert_same("dL/dX of the images", x_grad, grads["x"])


def test_forward_keeps_inputs_only_when_asked_and_backward_leaves_them():
    network, (x, y) = network_of(4), images_of(4, 5)
    logits = network.forward(x)
    assert network.layer_inputs == [] and network.predict(x).dtype == np.float32
    assert not np.shares_memory(network.predict(x), network.predict(x))
    np.testing.assert_array_equal(network.forward(x, keepgrad=True), logits)
    first = network.layer_inputs
    network.forward(x, keepgrad=True)  # instead of the first
    assert network.layer_inputs is not first and len(first) == 8
    for call in (network.forward, network.predict, lambda x: network.test(x, y[:2], 1)):
        call(x[:2])
    assert [len(layer_input) for layer_input in network.layer_inputs] == [5] * 8
    x_grad, expected = network.backward(logits), arrays_of(network, "_grad")
    assert x_grad.dtype == np.float32 and x_grad.shape == x.shape
    with pytest.raises(ValueError):
        network.backward(logits[:4])
    np.testing.assert_array_equal(network.backward(logits), x_grad)
    assert network.backward(2 * logits, need_x_grad=False) is None
    for name, grad in arrays_of(network, "_grad").items():
        assert_same(f"{name}_grad of the doubled gradient", grad, 2 * expected[name], 1e-6)
    network.layer_inputs = []
    with pytest.raises((LookupError, RuntimeError)):  # and not a gradient of nothing
        network.backward(logits)


def test_train_is_gradient_descent_in_the_order_given_and_test_changes_nothing(monkeypatch):
    network, other = network_of(6, np.float64), network_of(6, np.float64)
    x, y = images_of(6, 21, np.float64)
    asked, backward = set(), ConvolutionLayer.backward
    monkeypatch.setattr(ConvolutionLayer, "backward", lambda layer, x, grad, need_x_grad=True: (
        asked.add((x.shape[1], need_x_grad)), backward(layer, x, grad, need_x_grad))[1])
    for _ in range(2):
        expected = 0
        for batch in slice(0, 10), slice(10, 20), slice(20, 21):  # as many as digits, and one
            logits = other.forward(x[batch], keepgrad=True)
            expected += definitions.cross_entropy(logits, y[batch]) * len(logits) / 21
            grad = definitions.cross_entropy_backward(logits, y[batch])["x"]
            other.backward(grad, need_x_grad=False)
            for array, grad in zip(arrays_of(other).values(), arrays_of(other, "_grad").values()):
                array -= 0.1 * grad
        losses = [network.train(x, y.tolist(), 10, 77, 0.1)]  # of all images, not of the batches
        assert network.layer_inputs == [] and losses[0] == pytest.approx(expected, rel=1e-12)
        losses += [network.test(x, labels, 10) for labels in (y, y.tolist())]
        losses += [network.test(x, y, 10**30)]
        expected = definitions.cross_entropy(other.forward(x), y)
        assert losses[1:] == pytest.approx(3 * [expected], rel=1e-12)
        assert {type(loss) for loss in losses} == {float} and network.layer_inputs == []
        assert_same_network(network, other, 1e-12)
    assert (1, True) not in asked  # the images need no gradient


@pytest.mark.parametrize("seed", range(5))
def test_every_seed_learns(digits, seed):
    """Of forty seeds the losses are 0.16 to 0.31, and 0.82 to 0.90 of unseen digits are known."""
    (x, y), network = digits, network_of(seed)
    for _ in range(4):
        network.train(x[:400], y[:400], 10, 4, 0.1)
    assert network.test(x[:400], y[:400], 100) < 0.5
    assert np.mean(network.predict(x[2000:3000]).argmax(axis=1) == y[2000:3000]) > 0.75  # unseen


class Scale:
    """A reader's own layer, of no base class, whose parameter has a name of its own."""

    def __init__(self):
        self._grad_scale, self.steps, self.batches = np.array(1.0), np.array(0), []

    def forward(self, x):
        self.batches.append(len(x))
        return x * self._grad_scale

    def backward(self, x, last_x_grad):
        self._grad_scale_grad = np.array(np.sum(x * last_x_grad))
        return last_x_grad * self._grad_scale

    def update(self, lr):
        self._grad_scale -= lr * self._grad_scale_grad
        self.steps += 1


def test_a_network_of_other_layers_takes_other_images_and_predicts_few_at_a_time(tmp_path):
    def network_for_colours():
        network = network_of(9)
        relu, flatten = network.layers[5:7]
        network.layers = [Scale(), ConvolutionLayer(3, 2, 5, 5), MaxPoolingLayer(4, 2), *8 * [relu],
                          flatten, LinearLayer(2 * 7 * 14, 4), LinearLayer(4, 4)]
        return network

    x = np.random.default_rng(9).random((230, 3, 32, 32))
    network, other = network_for_colours(), network_for_colours()
    losses = [network.train(x, [3] * 230, 100, 1, 0.01) for _ in range(3)]
    assert losses[0] > losses[1] > losses[2] and network.layers[0]._grad_scale != 1
    for name, array in arrays_of(other).items():
        assert not np.array_equal(array, arrays_of(network)[name])  # it has learned
    network.save(tmp_path / "colours.npz")
    assert other.predict(x).shape == (230, 4)
    other.load(tmp_path / "colours.npz")
    assert other.layers[0].steps == 9  # an array of integers is saved, too
    expected = network.loss_func.softmax(network.forward(x))
    assert_same("the probabilities", other.predict(x), expected)
    assert_same("the probabilities of one image", other.predict(x[:1]), expected[:1])
    batches = other.layers[0].batches
    assert sum(batches) == 461 and max(batches) <= 100


def test_a_loss_of_ones_own_is_used():
    (x, y), network, other = images_of(9, 20), network_of(9), network_of(9)
    network.loss_func = SimpleNamespace(  # half the loss; it has no softmax
        forward=lambda x, y: other.loss_func.forward(x, y) / 2,
        backward=lambda x, y: other.loss_func.backward(x, y) / 2)
    assert 2 * network.train(x, y, 20, 1, 0.2) == pytest.approx(other.train(x, y, 20, 1, 0.1))
    assert_same_network(network, other, 1e-6)
    assert 2 * network.test(x, y, 20) == pytest.approx(other.test(x, y, 20))
    assert_same("the probabilities", network.predict(x), other.predict(x), 1e-5)


def test_pytorchs_network_of_the_readme_computes_the_same():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    [sequential] = re.findall(r"`(nn\.Sequential\([^`]*)`", README)
    other = eval(sequential, {"nn": torch.nn}).double()
    network, (x, y) = network_of(11, np.float64), images_of(11, 50, np.float64)

    def as_ours(theirs, shape):
        return (theirs.T if theirs.ndim == 2 else theirs).detach().numpy().reshape(shape)

    for theirs, ours in zip(other.parameters(), arrays_of(network).values()):
        ours[...] = as_ours(theirs, ours.shape)
    theirs_x = torch.tensor(x, requires_grad=True)
    theirs_logits = other(theirs_x)
    torch.nn.CrossEntropyLoss()(theirs_logits, torch.tensor(y)).backward()
    logits = network.forward(x, keepgrad=True)
    assert_same("the logits", logits, theirs_logits.detach().numpy(), 1e-10)
    x_grad = network.backward(network.loss_func.backward(logits, y))
    assert_same("dL/dX of the images", x_grad, theirs_x.grad.numpy(), 1e-10)
    for theirs, (name, ours) in zip(other.parameters(), arrays_of(network, "_grad").items()):
        assert_same(f"dL/d{name}", ours, as_ours(theirs.grad, ours.shape), 1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_saved_is_loaded(tmp_path, monkeypatch, dtype):
    network, other, path = network_of(13, dtype), network_of(14, dtype), f"{NAME}.npz.1"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))  # it is written beside
    with pytest.raises(FileNotFoundError, match="npz"):
        other.load(path)
    with ThreadPoolExecutor(4) as writers:  # whose files do not mix
        results = [writers.submit(each.save, tmp_path / path) for each in 20 * [network, other]]
    assert os.name == "nt" or not any(each.exception() for each in results)  # it may refuse some
    other.load(path)
    sums = [np.sum(array) for array in arrays_of(other).values()]
    assert any(sums == [np.sum(array) for array in arrays_of(network_of(seed, dtype)).values()]
               for seed in (13, 14))
    for at in (path, str(tmp_path / path)):  # in place of the older one
        network.train(*images_of(13, 5, dtype), 5, 1, 0.1)
        network.save(at)
    with np.load(path, allow_pickle=False) as file:
        assert [(name, *array.shape) for name, array in file.items()] == [
            ("k0", 4, 1, 5, 5), ("b0", 1, 4, 1, 1), ("k3", 16, 4, 3, 3), ("b3", 1, 16, 1, 1),
            ("w7", 400, 10), ("b7", 1, 10)]
    other.load(path)
    assert_same_network(other, network)
    assert os.listdir(tmp_path) == [path]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of zipfile
def test_what_cannot_be_written_leaves_an_older_file(tmp_path):
    resource = pytest.importorskip("resource")  # which Windows has not
    network, other, path = network_of(13), network_of(14), tmp_path / "digits.npz"
    network.save(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))  # as if the disk was full
        pytest.raises(OSError, other.save, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for wrong, name in (tmp_path, tmp_path.name), (tmp_path / "nowhere" / "digits.npz", "nowhere"):
        with pytest.raises(OSError, match=name):
            network.save(wrong)
    assert os.listdir(tmp_path) == [path.name]
    other.load(path)
    assert_same_network(other, network)


class Trap:
    """What opens a pickle calls what is in it."""

    def __reduce__(self):
        return pytest.fail, ("code of the file was run",)


FOREIGN = {  # arrays that a file holds in place of the network's, or what becomes of the file
    "another shape": {"b7": np.zeros(10)}, "one more": {"b8": np.zeros((1, 10))},
    "swapped": {"b0": np.zeros((1, 16, 1, 1)), "b3": np.zeros((1, 4, 1, 1))},
    "not a number": {"b7": np.full((1, 10), np.nan)},
    "infinite": {"k0": np.full((4, 1, 5, 5), np.inf)}, "pickled": {"k0": np.array([Trap()])},
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "empty": lambda path: path.write_bytes(b""),
    "one missing": lambda path: np.savez(path, **dict(list(np.load(path).items())[:5])),
    "PyTorch": lambda path: pytest.importorskip("torch").save({"k0": 1}, path),
}


@pytest.mark.filterwarnings("error")  # a file that stays open warns
@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_that_is_not_of_save_changes_nothing(tmp_path, content):
    path, network, change = tmp_path / "digits.npz", network_of(13), FOREIGN[content]
    network_of(14).save(path)
    if callable(change):
        change(path)
    else:
        np.savez(path, **{**arrays_of(network_of(14)), **change})
    with pytest.raises(ValueError, match="digits.npz"):
        network.load(path)
    assert_same_network(network, network_of(13))


IMAGES = np.full((3, 1, 28, 28), 0.5, np.float32)
LABELS = np.array([1, 2, 3])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("wrong, word", [
    ({"x": IMAGES[:0], "y": LABELS[:0]}, None), ({"x": IMAGES[:, 0]}, None),
    ({"x": IMAGES[..., 1:]}, None), ({"x": IMAGES > 0}, "bool"), ({"x": IMAGES * np.nan}, "nan"),
    ({"x": IMAGES.astype(np.uint8)}, "uint8"), ({"x": IMAGES[:1]}, "3"), ({"y": LABELS[:1]}, "1"),
    ({"y": LABELS - 2}, "-1"), ({"y": [1, 2, 10]}, "10"), ({"batch_size": 0}, None),
    ({"batch_size": -2}, "-2"), ({"lr": 1e38}, "nan|inf")])
def test_what_cannot_be_learned_is_refused(wrong, word):
    network, error = network_of(12), (ArithmeticError, TypeError, ValueError)
    x, y, batch_size, lr = {"x": IMAGES, "y": LABELS, "batch_size": 1, "lr": 0.1, **wrong}.values()
    with pytest.raises(error, match=word):
        network.train(x, y, batch_size, 1, lr)
    if lr == 0.1:
        with pytest.raises(error, match=word):
            network_of(12).test(x, y, min(batch_size, 3))
    if word == "uint8":
        for call in (network.forward, network.predict):
            pytest.raises(error, call, x)
