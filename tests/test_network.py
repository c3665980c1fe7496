"""The network: its layers in a row, gradient descent step by step, PyTorch as the judge, files."""
import os
from concurrent.futures import ThreadPoolExecutor

import definitions
import numpy as np
import pytest
from helpers import NAME, as_dtype, assert_same, definition, parameters

from cnn_numpy import ConvolutionLayer, ConvolutionNeuralNetwork, CrossEntropyLoss


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
    x = rng.random((count, 1, 28, 28)).astype(dtype)
    x[:, :, :6] = 0
    return x, rng.integers(0, 10, count)


def arrays_of(network, ending=""):
    """Return the parameters of a network, or with the ending "_grad" their gradients."""
    return {f"{name}{number}": getattr(layer, name + ending)
            for number, layer in enumerate(network.layers) for name in parameters(layer)}


def assert_same_network(actual, expected):
    """Check parameters by their names."""
    actual, expected = arrays_of(actual), arrays_of(expected)
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        assert array.dtype == expected[name].dtype
        assert_same(name, array, expected[name], 0)


def test_the_network_is_the_series():
    network = network_of(1)
    assert network.forward(images_of(1, 3)[0], keepgrad=True).shape == (3, 10)
    assert [(type(layer).__name__, x.shape[1:]) for layer, x in
            zip(network.layers, network.layer_inputs)] == [
        ("ConvolutionLayer", (1, 28, 28)), ("MaxPoolingLayer", (4, 24, 24)),
        ("ReLULayer", (4, 12, 12)), ("ConvolutionLayer", (4, 12, 12)),
        ("MaxPoolingLayer", (16, 10, 10)), ("ReLULayer", (16, 5, 5)),
        ("FlattenLayer", (16, 5, 5)), ("LinearLayer", (400,))]


def test_logits_and_gradients_are_those_of_the_definitions():
    network = network_of(2, np.float64)
    x, y = images_of(2, 2, np.float64)
    steps, value = [], x
    for layer in network.layers:
        value, backward = definition(layer, value)
        steps.append(backward)
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


def test_forward_keeps_inputs_only_when_asked_and_backward_uses_them_up():
    network, x = network_of(4), images_of(4, 5)[0]
    x.flags.writeable = False
    logits = network.forward(x)
    assert network.layer_inputs == []
    np.testing.assert_array_equal(network.forward(x, keepgrad=True), logits)
    network.forward(x, keepgrad=True)  # instead of the first
    network.forward(x[:2])
    assert [len(layer_input) for layer_input in network.layer_inputs] == [5] * 8
    assert network.backward(logits).dtype == np.float32
    assert network.layer_inputs == []
    with pytest.raises(RuntimeError, match="keepgrad=True"):
        network.backward(logits)


def test_train_is_gradient_descent_on_the_mean_loss_in_the_order_given():
    network, other = network_of(6), network_of(6)
    x, y = images_of(6, 25)
    losses = []
    for batch in (slice(0, 10), slice(10, 20), slice(20, 25)):
        logits = other.forward(x[batch], keepgrad=True)
        losses += [other.loss_func.forward(logits, y[batch])] * len(logits)
        other.backward(other.loss_func.backward(logits, y[batch]))
        other.update(0.1)
    loss = network.train(x, y, 10, 77, 0.1)
    assert loss == pytest.approx(np.mean(losses), rel=1e-12)  # over the images, not the batches
    assert_same_network(network, other)


@pytest.mark.parametrize("batch_size", [10, 10**30])
def test_test_is_the_mean_loss_over_the_images_even_if_these_are_lists(batch_size):
    network, (x, y) = network_of(7, np.float64), images_of(7, 25, np.float64)
    loss = definitions.cross_entropy(network.forward(x), y)
    assert network.test(x.tolist(), y.tolist(), batch_size) == pytest.approx(loss, rel=1e-13)


def test_predict_takes_100_images_at_a_time():
    network, (x, _), pieces = network_of(8), images_of(8, 230), []
    forward, expected = network.forward, CrossEntropyLoss.softmax(network.forward(x))
    network.forward = lambda x: pieces.append(len(x)) or forward(x)
    assert_same("the probabilities", network.predict(x), expected, 1e-5)
    assert pieces == [100, 100, 30]


def test_training_leaves_out_the_gradient_of_the_images_where_it_can():
    class Frozen(ConvolutionLayer):
        """A layer whose own backward learns nothing."""

        def backward(self, x, last_x_grad):
            pass

    (x, y), fast, frozen = images_of(9, 20), network_of(9), network_of(9)
    fast.layers[0].backward = None  # not called
    frozen.layers[0].__class__ = Frozen
    for network in (fast, frozen):
        network.train(x, y, 20, 1, 0.1)
    np.testing.assert_array_equal(frozen.layers[0].k, network_of(9).layers[0].k)


def test_pytorch_computes_the_same():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.set_num_threads(1)
    network, (x, y) = network_of(11, np.float64), images_of(11, 200, np.float64)
    other = nn.Sequential(nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 16, 3),
                          nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10)).double()

    def in_pairs(ending=""):
        """Yield the names of our arrays, these in PyTorch's shapes, and PyTorch's own."""
        for theirs, (name, ours) in zip(other.parameters(), arrays_of(network, ending).items()):
            yield name, ours.T if name[0] == "w" else ours.reshape(theirs.shape), theirs

    for _, ours, theirs in in_pairs():
        theirs.data.copy_(torch.tensor(ours))
    theirs_x = torch.tensor(x, requires_grad=True)
    for start in range(0, 200, 20):
        batch = slice(start, start + 20)
        theirs_logits = other(theirs_x[batch])
        other.zero_grad()
        nn.CrossEntropyLoss()(theirs_logits, torch.tensor(y[batch])).backward()
        logits = network.forward(torch.tensor(x[batch]), keepgrad=True)
        assert_same("the logits", logits, theirs_logits.detach().numpy(), 1e-10)
        x_grad = network.backward(network.loss_func.backward(logits, y[batch]))
        assert_same("dL/dX of the images", x_grad, theirs_x.grad[batch].numpy(), 1e-10)
        network.update(0.1)
        for name, ours, theirs in in_pairs("_grad"):
            assert_same(f"dL/d{name}", ours, theirs.grad.numpy(), 1e-10)
            theirs.data -= 0.1 * theirs.grad


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_saved_is_loaded(tmp_path, dtype):
    network, other, path = network_of(13, dtype), network_of(14), tmp_path / f"{NAME}.npz"
    with pytest.raises(FileNotFoundError, match="npz"):
        other.load(path)
    network.save(str(path))
    with np.load(path, allow_pickle=False) as file:
        assert list(file) == ["k0", "b0", "k3", "b3", "w7", "b7"]
    other.load(path)
    assert_same_network(other, network)


def test_save_writes_through_a_link_and_two_writers_do_not_mix(tmp_path):
    path, link = tmp_path / "target.npz", tmp_path / "link.npz"
    try:
        link.symlink_to(path)
    except OSError:
        pytest.skip("no right to make links")
    networks = [network_of(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as writers:  # Windows may refuse some, but mix none
        writers.map(lambda network: network.save(link), 20 * networks)
    assert sorted(os.listdir(tmp_path)) == ["link.npz", "target.npz"] and link.is_symlink()
    other = network_of(9)
    other.load(path)
    assert any(np.array_equal(other.layers[0].k, network.layers[0].k) for network in networks)


def test_what_cannot_be_saved_is_refused(tmp_path):
    network = network_of(13)
    (tmp_path / "folder.npz").mkdir()
    for name, error, message in (
            ("folder.npz", OSError, "folder.npz cannot be written: it is not a regular file"),
            ("nowhere/digits.npz", OSError, "digits.npz cannot be written: ."),
            ("digits.txt", ValueError, "digits.txt, expected a name that ends in .npz")):
        with pytest.raises(error, match=message):
            network.save(tmp_path / name)
    network.layers[7].b[0, 3] = np.inf
    with pytest.raises(FloatingPointError, match="parameters are not finite"):
        network.save(tmp_path / "digits.npz")
    assert os.listdir(tmp_path) == ["folder.npz"]


class Trap:
    """What opens a pickle calls what is in it."""

    def __reduce__(self):
        return pytest.fail, ("code of the file was run",)


FOREIGN = {  # arrays that a file holds in place of the network's, or what becomes of the file
    "another shape": {"b7": np.zeros(10)}, "one more": {"b8": np.zeros(10)},
    "halves": {"b7": np.zeros((1, 10), np.half)}, "infinite": {"b7": np.full((1, 10), np.inf)},
    "pickled": {"k0": np.array([Trap()])},
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "PyTorch": lambda path: pytest.importorskip("torch").save({"k0": 1}, path),
}


@pytest.mark.filterwarnings("error")  # a file that stays open warns
@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_that_is_not_of_save_changes_nothing(tmp_path, content):
    path, network, change = tmp_path / "digits.npz", network_of(13), FOREIGN[content]
    network.save(path)
    if callable(change):
        change(path)
    else:
        np.savez(path, **{**arrays_of(network), **change})
    with pytest.raises(ValueError, match="digits.npz is not a network that save wrote: ."):
        network.load(path)
    assert_same_network(network, network_of(13))


IMAGES = np.zeros((2, 1, 28, 28), np.float32)
LABELS = np.array([1, 2])


@pytest.mark.filterwarnings("error")  # where training diverges, the loss says so
@pytest.mark.parametrize("wrong, error, message", [
    ({"x": IMAGES[:0]}, ValueError, r"\(0, 1, 28, 28\), expected \(B, 1, 28, 28\), B > 0"),
    ({"x": IMAGES[..., 1:]}, ValueError, r"1, 28, 27\), expected \(B, 1, 28, 28\)"),
    ({"x": IMAGES.astype(np.uint8)}, TypeError, "dtype uint8, expected floats"),
    ({"x": [[1.0], [1.0, 2.0]]}, TypeError, r"images cannot .* floats \(B, 1, 28, 28\): ."),
    ({"x": IMAGES * np.nan}, FloatingPointError, "loss is nan: the images are not finite"),
    ({"y": LABELS[:1]}, ValueError, r"labels have shape \(1,\), expected \(2,\)"),
    ({"y": [[1], [2, 3]]}, TypeError, r"labels cannot become an array of integers \(B,\)"),
    ({"batch_size": 0}, ValueError, "batch_size = 0, expected an integer of at least 1"),
    ({"lr": 0}, ValueError, "lr = 0, expected a finite number above 0"),
    ({"lr": float("inf")}, ValueError, "lr = inf"),
    ({"x": IMAGES + 1, "lr": 1e38}, FloatingPointError, "loss is .*smaller learning rate")])
def test_what_cannot_be_learned_is_refused(wrong, error, message):
    network = network_of(12)
    x, y, batch_size, lr = {"x": IMAGES, "y": LABELS, "batch_size": 1, "lr": 0.1, **wrong}.values()
    with pytest.raises(error, match=message):
        network.train(x, y, batch_size, 1, lr)
    if error is FloatingPointError:
        with pytest.raises(error, match=message):
            network.test(x, y, batch_size)
