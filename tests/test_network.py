"""The network: its layers in a row, gradient descent step by step, PyTorch as the judge, files."""
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import definitions
import numpy as np
import pytest
from helpers import NAME, as_dtype, assert_same, definition, parameters

from cnn_numpy import (
    ConvolutionLayer,
    ConvolutionNeuralNetwork,
    CrossEntropyLoss,
    FlattenLayer,
    LinearLayer,
    MaxPoolingLayer,
    ReLULayer,
)


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
    x = 2 * rng.random((count, 1, 28, 28)).astype(dtype)  # nothing clips or scales them
    x[:, :, :6] = 0
    return x, rng.integers(0, 10, count)


def arrays_of(network, ending=""):
    """Return the parameters of a network, or with the ending "_grad" their gradients."""
    return {f"{name}{number}": getattr(layer, name + ending)
            for number, layer in enumerate(network.layers) for name in parameters(layer)}


def assert_same_network(actual, expected, error=0):
    """Check parameters by their names."""
    actual, expected = arrays_of(actual), arrays_of(expected)
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        assert array.dtype == expected[name].dtype
        assert_same(name, array, expected[name], error)


def test_logits_and_gradients_are_those_of_the_definitions():
    network = network_of(2, np.float64)
    x, y = images_of(2, 2, np.float64)
    steps, value, shapes = [], x, []
    for layer in network.layers:
        shapes.append((type(layer), value.shape[1:]))
        value, backward = definition(layer, value)
        steps.append(backward)
    assert shapes == [
        (ConvolutionLayer, (1, 28, 28)), (MaxPoolingLayer, (4, 24, 24)), (ReLULayer, (4, 12, 12)),
        (ConvolutionLayer, (4, 12, 12)), (MaxPoolingLayer, (16, 10, 10)), (ReLULayer, (16, 5, 5)),
        (FlattenLayer, (16, 5, 5)), (LinearLayer, (400,))]
    np.random.seed(2)
    for kind, arguments, layer in ((ConvolutionLayer, (1, 4, 5, 5), network.layers[0]),
                                   (ConvolutionLayer, (4, 16, 3, 3), network.layers[3]),
                                   (LinearLayer, (400, 10), network.layers[7])):
        np.testing.assert_array_equal(kind(*arguments).b, layer.b)  # drawn in this order
    logits = network.forward(x, keepgrad=True)
    assert_same("the logits of forward", logits, value, 1e-13)
    assert_same("the probabilities of predict", network.predict(x), definitions.softmax(value))
    x_grad = network.backward(network.loss_func.backward(logits, y))
    grad = definitions.cross_entropy_backward(value, y)["x"]
    for number in reversed(range(8)):
        grads = steps[number](grad)
        for name in parameters(network.layers[number]):
            actual = getattr(network.layers[number], f"{name}_grad")
            assert_same(f"{name}{number}_grad", actual, grads[name])
        grad = grads["x"]
    assert_same("dL/dX of the images", x_grad, grad)


def test_forward_keeps_inputs_only_when_asked_and_backward_leaves_them():
    network, (x, y) = network_of(4), images_of(4, 5)
    x.flags.writeable = False
    logits = network.forward(x)
    assert network.layer_inputs == []
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
    network.layer_inputs.clear()
    with pytest.raises((LookupError, RuntimeError)):  # and not a gradient of nothing
        network.backward(logits)


@pytest.mark.parametrize("as_given", [np.asarray, np.ndarray.tolist])
def test_train_is_gradient_descent_on_the_mean_loss_in_the_order_given(as_given, monkeypatch):
    network, other = network_of(6, np.float64), network_of(6, np.float64)
    x, y = images_of(6, 25, np.float64)
    x.flags.writeable = y.flags.writeable = False
    losses = []
    for batch in 2 * [slice(0, 10), slice(10, 20), slice(20, 25)]:
        logits = other.forward(x[batch], keepgrad=True)
        losses += [definitions.cross_entropy(logits, y[batch])] * len(logits)
        other.backward(definitions.cross_entropy_backward(logits, y[batch])["x"])
        for array, grad in zip(arrays_of(other).values(), arrays_of(other, "_grad").values()):
            array -= 0.1 * grad
    backward = ConvolutionLayer.backward
    asked = []
    monkeypatch.setattr(ConvolutionLayer, "backward", lambda layer, x, grad, need_x_grad=True: (
        asked.append((x.shape[1], need_x_grad)), backward(layer, x, grad, need_x_grad))[1])
    for expected in np.reshape(losses, (2, 25)).mean(axis=1):  # over the images, not the batches
        loss = network.train(as_given(x), as_given(y), 10, 77, 0.1)
        assert type(loss) is float and network.layer_inputs == []
        assert loss == pytest.approx(expected, rel=1e-12)
    assert set(asked) == {(1, False), (4, True)}  # the images need no gradient
    assert_same_network(network, other, 1e-12)


@pytest.mark.parametrize("batch_size", [10, 10**30])
def test_test_is_the_mean_loss_over_the_images_and_changes_nothing(batch_size):
    network, (x, y) = network_of(7, np.float64), images_of(7, 25, np.float64)
    loss = definitions.cross_entropy(network.forward(x), y)
    x.flags.writeable = y.flags.writeable = False
    for images, labels in ((x, y), (x.tolist(), y.tolist())):
        assert network.test(images, labels, batch_size) == pytest.approx(loss, rel=1e-13)
    assert type(network.test(x, y, batch_size)) is float and network.layer_inputs == []
    assert_same_network(network, network_of(7, np.float64))


@pytest.mark.parametrize("seed", range(5))
def test_every_seed_learns(digits, seed):
    """Of forty seeds the losses are 0.16 to 0.31, and 0.82 to 0.90 of unseen digits are known."""
    x, y = digits
    np.random.seed(seed)
    network = ConvolutionNeuralNetwork()
    for _ in range(4):
        network.train(x[:400], y[:400], 10, 4, 0.1)
    assert network.test(x[:400], y[:400], 100) < 0.5
    assert np.mean(network.predict(x[2000:3000]).argmax(axis=1) == y[2000:3000]) > 0.75  # unseen


class Scale:
    """A reader's own layer, of no base class, whose parameter has a name of its own."""

    def __init__(self):
        self._grad_scale, self._grad_scale_grad, self.batches = np.ones(1), np.zeros(1), []
        self.steps = np.zeros(1, int)

    def forward(self, x):
        self.batches.append(len(x))
        return x * self._grad_scale

    def backward(self, x, last_x_grad):
        self._grad_scale_grad = np.sum(x * last_x_grad)
        return last_x_grad * self._grad_scale

    def update(self, lr):
        self._grad_scale -= lr * self._grad_scale_grad
        self.steps += 1


def test_predict_takes_few_images_at_a_time():
    network, (x, _) = network_of(8), images_of(8, 230)
    expected = CrossEntropyLoss.softmax(network.forward(x))
    x.flags.writeable = False
    network.layers.insert(3, Scale())
    assert_same("the probabilities", network.predict(x), expected, 1e-5)
    assert_same("the probabilities of one image", network.predict(x[:1]), expected[:1], 1e-5)
    batches = network.layers[3].batches
    assert sum(batches) == 231 and max(batches) <= 100


def test_a_network_of_other_layers_takes_other_images(tmp_path):
    def network_for_colours():
        network = network_of(9)
        network.layers = [Scale(), ConvolutionLayer(3, 2, 5, 5), MaxPoolingLayer(4, 2), ReLULayer(),
                          FlattenLayer(), LinearLayer(2 * 7 * 14, 4)]
        return network

    x = np.random.default_rng(9).random((20, 3, 32, 32))
    network, other = network_for_colours(), network_for_colours()
    losses = [network.train(x, [3] * 20, 10, 1, 0.01) for _ in range(3)]
    assert losses[0] > losses[1] > losses[2] and other.predict(x).shape == (20, 4)
    assert network.layers[0]._grad_scale != 1
    network.save(tmp_path / "colours.npz")
    other.load(tmp_path / "colours.npz")
    np.testing.assert_array_equal(other.predict(x), network.predict(x))
    assert other.layers[0].steps == 6  # an array of integers is saved, too


class HalfConvolutionLayer(ConvolutionLayer):
    """A layer made of ours, with a backward that knows no need_x_grad."""

    def backward(self, x, last_x_grad):
        return super().backward(x, last_x_grad / 2)


class HalfLoss:
    """A reader's own loss, which has no softmax."""

    def forward(self, x, y):
        return CrossEntropyLoss().forward(x, y) / 2

    def backward(self, x, y):
        return CrossEntropyLoss().backward(x, y) / 2


def test_a_first_layer_and_a_loss_of_ones_own_are_used():
    (x, y), network, other = images_of(9, 20), network_of(9), network_of(9)
    network.layers[0].__class__ = HalfConvolutionLayer
    loss, expected = network.train(x, y, 20, 1, 0.1), other.train(x, y, 20, 1, 0.1)
    assert loss == pytest.approx(expected)
    step, half = (each.layers[0].k - network_of(9).layers[0].k for each in (other, network))
    assert_same("the step of k0 by half the gradient", half, step / 2, 1e-4)
    network = network_of(9)
    network.loss_func = HalfLoss()
    assert network.train(x, y, 20, 1, 0.2) == pytest.approx(expected / 2)
    assert_same_network(network, other, 1e-6)
    assert network.test(x, y, 20) == pytest.approx(other.test(x, y, 20) / 2)
    assert_same("the probabilities", network.predict(x), other.predict(x), 1e-5)


def test_pytorch_computes_the_same():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.set_num_threads(1)
    network, (x, y) = network_of(11, np.float64), images_of(11, 50, np.float64)
    other = nn.Sequential(nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 16, 3),
                          nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10)).double()
    for theirs, ours in zip(other.parameters(), arrays_of(network).values()):
        ours = ours.T if ours.shape == (400, 10) else ours.reshape(theirs.shape)
        theirs.data.copy_(torch.tensor(ours))
    theirs_x = torch.tensor(x, requires_grad=True)
    theirs_logits = other(theirs_x)
    nn.CrossEntropyLoss()(theirs_logits, torch.tensor(y)).backward()
    logits = network.forward(x, keepgrad=True)
    assert_same("the logits", logits, theirs_logits.detach().numpy(), 1e-10)
    x_grad = network.backward(network.loss_func.backward(logits, y))
    assert_same("dL/dX of the images", x_grad, theirs_x.grad.numpy(), 1e-10)
    for theirs, (name, ours) in zip(other.parameters(), arrays_of(network, "_grad").items()):
        ours = ours.T if name == "w7" else ours.reshape(theirs.shape)
        assert_same(f"dL/d{name}", ours, theirs.grad.numpy(), 1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_saved_is_loaded(tmp_path, monkeypatch, dtype):
    network, other, path = network_of(13, dtype), network_of(14, dtype), f"{NAME}.npz.1"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))  # it is written beside
    with pytest.raises(FileNotFoundError, match="npz"):
        other.load(path)
    for at in (path, tmp_path / path):
        network.save(at)
        network.train(*images_of(13, 5, dtype), 5, 1, 0.1)
    network.save(str(tmp_path / path))  # in place of the older one
    with np.load(path, allow_pickle=False) as file:
        assert [(name, *array.shape) for name, array in file.items()] == [
            ("k0", 4, 1, 5, 5), ("b0", 1, 4, 1, 1), ("k3", 16, 4, 3, 3), ("b3", 1, 16, 1, 1),
            ("w7", 400, 10), ("b7", 1, 10)]
    other.load(path)
    assert_same_network(other, network)
    assert os.listdir(tmp_path) == [path]


def test_two_writers_do_not_mix(tmp_path):
    networks, other, path = [network_of(seed) for seed in range(4)], network_of(9), "digits.npz"
    with ThreadPoolExecutor(4) as writers:  # Windows may refuse some, but mix none
        writers.map(lambda network: network.save(tmp_path / path), 20 * networks)
    assert os.listdir(tmp_path) == [path]
    other.load(tmp_path / path)
    actual = arrays_of(other)
    assert any(all(np.array_equal(array, actual[name]) for name, array in arrays_of(each).items())
               for each in networks)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of zipfile
def test_what_cannot_be_written_leaves_an_older_file(tmp_path):
    resource = pytest.importorskip("resource")  # which Windows has not
    network, path = network_of(13), tmp_path / "digits.npz"
    network.save(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))  # as if the disk was full
        with pytest.raises(OSError):
            network_of(14).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for wrong in (tmp_path, tmp_path / "nowhere" / "digits.npz"):
        with pytest.raises(OSError, match=f"{wrong.name}"):
            network.save(wrong)
    assert os.listdir(tmp_path) == [path.name]
    other = network_of(14)
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
@pytest.mark.parametrize("wrong, error, words", [
    ({"x": IMAGES[:0], "y": LABELS[:0]}, ValueError, None), ({"x": IMAGES[:, 0]}, ValueError, None),
    ({"x": IMAGES[..., 1:]}, ValueError, None),
    ({"x": IMAGES.astype(np.uint8)}, TypeError, "uint8"),
    ({"x": IMAGES * np.nan}, FloatingPointError, "nan"),
    ({"x": IMAGES[:1]}, ValueError, "3"), ({"y": LABELS[:1]}, ValueError, "1"),
    ({"y": LABELS - 2}, ValueError, "-1"), ({"y": [1, 2, 10]}, ValueError, "10"),
    ({"batch_size": 0}, ValueError, None), ({"batch_size": -2}, ValueError, "-2"),
    ({"x": IMAGES, "lr": 1e38}, FloatingPointError, "nan|inf")])
def test_what_cannot_be_learned_is_refused(wrong, error, words):
    network = network_of(12)
    x, y, batch_size, lr = {"x": IMAGES, "y": LABELS, "batch_size": 1, "lr": 0.1, **wrong}.values()
    with pytest.raises(error, match=words):
        network.train(x, y, batch_size, 1, lr)
    if lr == 0.1 and batch_size == 1:
        with pytest.raises(error, match=words):
            network_of(12).test(x, y, 3)
    if error is TypeError:
        for call in (network.forward, network.predict):
            with pytest.raises(error, match=words):
                call(x)
