"""The network: its layers in a row, gradient descent step by step, PyTorch as the judge, files."""
import io
import os
import sys
import threading
from pathlib import Path

import definitions
import numpy as np
import pytest
from helpers import NAME, as_dtype, assert_same, parameters

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


def assert_same_network(actual, expected, ending="", error=0):
    """Check parameters, or with the ending "_grad" their gradients, by their names."""
    actual, expected = arrays_of(actual, ending), arrays_of(expected, ending)
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        assert array.dtype == expected[name].dtype
        assert_same(f"{name}{ending}", array, expected[name], error)


def test_the_network_is_the_series():
    network = network_of(1)
    network.forward(images_of(1, 3)[0], keepgrad=True)
    assert [(type(layer).__name__, x.shape[1:]) for layer, x in
            zip(network.layers, network.layer_inputs)] == [
        ("ConvolutionLayer", (1, 28, 28)), ("MaxPoolingLayer", (4, 24, 24)),
        ("ReLULayer", (4, 12, 12)), ("ConvolutionLayer", (4, 12, 12)),
        ("MaxPoolingLayer", (16, 10, 10)), ("ReLULayer", (16, 5, 5)),
        ("FlattenLayer", (16, 5, 5)), ("LinearLayer", (400,))]
    assert {name: array.shape for name, array in arrays_of(network).items()} == {
        "k0": (4, 1, 5, 5), "b0": (1, 4, 1, 1), "k3": (16, 4, 3, 3), "b3": (1, 16, 1, 1),
        "w7": (400, 10), "b7": (1, 10)}
    assert isinstance(network.loss_func, CrossEntropyLoss)
    assert vars(network).keys() == {"layers", "loss_func", "layer_inputs"}


def test_logits_and_probabilities_are_those_of_the_definitions():
    network = network_of(2, np.float64)
    x, _ = images_of(2, 2, np.float64)
    k0, b0, k3, b3, w7, b7 = arrays_of(network).values()
    y = definitions.relu(definitions.max_pooling(definitions.convolution(x, k0, b0), 2, 2))
    y = definitions.relu(definitions.max_pooling(definitions.convolution(y, k3, b3), 2, 2))
    y = definitions.linear(y.reshape(2, 400), w7, b7)
    assert_same("the logits of forward", network.forward(x), y, 1e-13)
    assert_same("the probabilities of predict", network.predict(x), definitions.softmax(y), 1e-13)


def test_gradients_are_the_slopes_in_any_direction():
    """A direction moves all elements of an array at once: a wrong one changes the slope."""
    network, rng = network_of(3, np.float64), np.random.default_rng(3)
    x, y = images_of(3, 3, np.float64)
    x_grad = network.backward(network.loss_func.backward(network.forward(x, keepgrad=True), y))
    grads = {"x": x_grad, **arrays_of(network, "_grad")}
    for name, array in {"x": x, **arrays_of(network)}.items():
        assert grads[name].shape == array.shape and grads[name].dtype == np.float64
        for _ in range(5):
            direction, start = rng.standard_normal(array.shape), array.copy()
            direction[array == 0] = 0  # where ties would be broken
            losses = []
            for step in (1e-6, -1e-6):
                array[...] = start + step * direction
                losses.append(network.loss_func.forward(network.forward(x), y))
            array[...] = start
            slope = (losses[0] - losses[1]) / 2e-6
            along = np.sum(grads[name] * direction)
            assert along == pytest.approx(slope, rel=1e-7, abs=2e-9), f"dL/d{name} is wrong"


def test_forward_keeps_inputs_only_when_asked_and_backward_uses_them_up():
    network = network_of(4)
    x, _ = images_of(4, 5)
    before, logits = x.copy(), network.forward(x)
    assert network.layer_inputs == []
    np.testing.assert_array_equal(network.forward(x, keepgrad=True), logits)
    np.testing.assert_array_equal(network.layer_inputs[0], x)
    network.forward(x[:2])
    assert [len(layer_input) for layer_input in network.layer_inputs] == [5] * 8
    network.forward(x[:3], keepgrad=True)
    assert [len(layer_input) for layer_input in network.layer_inputs] == [3] * 8
    x_grad = network.backward(np.ones((3, 10), np.float32))
    assert network.layer_inputs == []
    assert x_grad.shape == (3, 1, 28, 28) and x_grad.dtype == np.float32
    other = network_of(4)
    other.forward(x[:3], keepgrad=True)
    assert other.backward(np.ones((3, 10), np.float32), False) is None
    assert_same_network(other, network, "_grad")
    with pytest.raises(RuntimeError, match="keepgrad=True"):
        network.backward(np.ones((3, 10), np.float32))
    np.testing.assert_array_equal(x, before)


def test_train_is_gradient_descent_on_the_mean_loss_in_the_order_given():
    network, other = network_of(6), network_of(6)
    x, y = images_of(6, 25)
    x.flags.writeable = y.flags.writeable = False
    losses = []
    for batch in (slice(0, 10), slice(10, 20), slice(20, 25)):
        logits = other.forward(x[batch], keepgrad=True)
        losses += [other.loss_func.forward(logits, y[batch])] * len(logits)
        other.backward(other.loss_func.backward(logits, y[batch]))
        other.update(0.1)
    loss = network.train(x, y, 10, 77, 0.1)
    assert type(loss) is float
    assert loss == pytest.approx(np.mean(losses), rel=1e-12)  # over the images, not the batches
    assert_same_network(network, other)
    assert network.layer_inputs == []


@pytest.mark.parametrize("batch_size", [1, 10, 25, 10**30])
def test_test_is_the_mean_loss_over_the_images(batch_size):
    network = network_of(7, np.float64)
    x, y = images_of(7, 25, np.float64)
    loss = network.test(x, y, batch_size)
    expected = definitions.cross_entropy(network.forward(x), y)
    assert type(loss) is float and loss == pytest.approx(expected, rel=1e-13)
    assert_same_network(network, network_of(7, np.float64))
    assert network.layer_inputs == []


def test_predict_is_the_softmax_of_any_number_of_images_100_at_a_time():
    network, pieces = network_of(8), []
    x, _ = images_of(8, 230)
    expected, forward = CrossEntropyLoss.softmax(network.forward(x)), network.forward
    network.forward = lambda x: pieces.append(len(x)) or forward(x)
    probabilities = network.predict(x)
    assert pieces == [100, 100, 30] and probabilities.dtype == np.float32
    assert_same("the probabilities", probabilities, expected, 1e-5)


class Plain:
    """A layer with what the series promises and nothing else."""

    def __init__(self, layer):
        self.forward, self.backward = layer.forward, layer.backward
        self.update = getattr(layer, "update", lambda lr: None)


class Doubled(ConvolutionLayer):
    """A layer that adds something to backward."""

    def backward(self, x, last_x_grad):
        x_grad = super().backward(x, last_x_grad)
        self.k_grad = 2 * self.k_grad
        return x_grad


def test_training_leaves_out_the_gradient_of_the_images_where_it_can():
    (x, y), start = images_of(9, 20), network_of(9).layers[0].k
    network, plain, doubled, expected = (network_of(9) for _ in range(4))
    network.layers[0].backward = None  # not called
    layers, plain.layers = plain.layers, [Plain(layer) for layer in plain.layers]
    doubled.layers[0].__class__ = Doubled
    for one in (network, plain, doubled, expected):
        one.train(x, y, 20, 1, 0.1)
    plain.layers = layers
    assert_same_network(network, expected)
    assert_same_network(plain, expected)
    assert_same("the step of a layer that doubles its gradient", doubled.layers[0].k - start,
                2 * (expected.layers[0].k - start), 1e-5)


def test_lists_and_tuples_are_arrays_too():
    x, y = images_of(11, 4, np.float64)
    expected = network_of(11)
    losses = expected.train(x, y, 2, 1, 0.1), expected.test(x, y, 2)
    for kind in (np.ndarray.tolist, lambda array: tuple(array.tolist())):
        network = network_of(11)
        assert (network.train(kind(x), kind(y), np.int64(2), 1, np.float32(0.1)),
                network.test(kind(x), kind(y), 2)) == pytest.approx(losses, rel=1e-6)
        assert_same("the probabilities", network.predict(kind(x)), expected.predict(x), 1e-5)


def test_pytorch_computes_the_same():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.set_num_threads(1)
    network = network_of(11, np.float64)
    other = nn.Sequential(nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 16, 3),
                          nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10)).double()
    loss_func, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(other.parameters(), lr=0.1)

    def as_pytorch(arrays):
        """Return the arrays in PyTorch's shapes: linear weights transposed, biases flat."""
        return {name: {"w": array.T, "b": array.ravel()}.get(name[0], array)
                for name, array in arrays.items()}

    with torch.no_grad():
        for theirs, ours in zip(other.parameters(), as_pytorch(arrays_of(network)).values()):
            theirs.copy_(torch.tensor(ours))
    x, y = images_of(11, 200, np.float64)

    theirs_x = torch.tensor(x[:8], requires_grad=True)
    theirs_logits = other(theirs_x)
    loss = loss_func(theirs_logits, torch.tensor(y[:8]))
    loss.backward()
    logits = network.forward(x[:8], keepgrad=True)
    assert_same("the logits", logits, theirs_logits.detach().numpy(), 1e-13)
    assert network.loss_func.forward(logits, y[:8]) == pytest.approx(loss.item(), rel=1e-13)
    x_grad = network.backward(network.loss_func.backward(logits, y[:8]))
    assert_same("dL/dX of the images", x_grad, theirs_x.grad.numpy(), 1e-12)
    for theirs, (name, ours) in zip(other.parameters(),
                                    as_pytorch(arrays_of(network, "_grad")).items()):
        assert_same(f"dL/d{name}", ours, theirs.grad.numpy(), 1e-12)

    network.train(torch.tensor(x), torch.tensor(y), 20, 1, 0.1)
    for start in range(0, 200, 20):
        optimizer.zero_grad()
        loss_func(other(torch.tensor(x[start:start + 20])),
                  torch.tensor(y[start:start + 20])).backward()
        optimizer.step()
    for theirs, (name, ours) in zip(other.parameters(), as_pytorch(arrays_of(network)).items()):
        assert_same(f"{name} after ten steps", ours, theirs.detach().numpy(), 1e-10)
    with pytest.raises(TypeError, match=r"floats \(B, 1, 28, 28\).*requires grad"):
        network.predict(theirs_x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_saved_is_loaded(tmp_path, dtype):
    network, other, path = network_of(13, dtype), network_of(14), tmp_path / f"{NAME}.npz"
    network_of(15).save(path)
    network.save(str(path))  # over the old one
    assert os.listdir(tmp_path) == [path.name]
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
    writers = [threading.Thread(target=lambda network=network: [
        network.save(link) for _ in range(20)]) for network in networks]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(os.listdir(tmp_path)) == ["link.npz", "target.npz"] and link.is_symlink()
    other = network_of(9)
    other.load(path)
    assert any(np.array_equal(other.layers[0].k, network.layers[0].k) for network in networks)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = tmp_path / "digits.npz"
    network_of(13).save(path)
    before = path.read_bytes()

    def interrupted(path, content):
        with open(path, "wb") as file:
            file.write(content[:100])
        raise error

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises((KeyboardInterrupt, OSError)) as caught:
        network_of(14).save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    assert error is KeyboardInterrupt or "digits.npz cannot be written" in str(caught.value)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    for path in (tmp_path / "nowhere" / "digits.npz", tmp_path / "folder.npz"):
        with pytest.raises(OSError, match=f"{path.name} cannot be written: ."):
            network_of(13).save(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.npz")
        with pytest.raises(OSError, match="pipe.npz cannot be written: it is not a regular file"):
            network_of(13).save(tmp_path / "pipe.npz")
        (tmp_path / "pipe.npz").unlink()
    for name in ("digits", "digits.NPZ", "digits.npz.txt"):
        with pytest.raises(ValueError, match=f"{name}, expected a name that ends in .npz"):
            network_of(13).save(tmp_path / name)
    network = network_of(13)
    network.layers[7].b[0, 3] = np.inf
    with pytest.raises(FloatingPointError, match="parameters are not finite"):
        network.save(tmp_path / "digits.npz")
    assert os.listdir(tmp_path) == ["folder.npz"]


def saved(**changes):
    """Return a function that saves arrays with changes; None leaves one out."""
    def spoil(path, arrays):
        arrays = {name: array for name, array in {**arrays, **changes}.items()
                  if array is not None}
        np.savez(path, **arrays)
    return spoil


def one_array(array):
    """Return what np.save writes."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


SPOILED = {
    "empty": lambda path, _: path.write_bytes(b""),
    "text": lambda path, _: path.write_text("k0", encoding="utf-8"),
    "truncated": lambda path, _: path.write_bytes(path.read_bytes()[:5000]),
    "one array": lambda path, arrays: path.write_bytes(one_array(arrays["k0"])),
    "pickled": saved(k0=np.array([{}], object)), "other shape": saved(b7=np.zeros(10)),
    "missing": saved(k3=None), "more": saved(k9=np.zeros(3)),
    "integers": saved(b7=np.zeros((1, 10), int)), "nan": saved(b7=np.full((1, 10), np.nan)),
    "infinite": saved(b7=np.full((1, 10), np.inf)), "half": saved(b7=np.zeros((1, 10), np.half)),
    "text array": saved(b7=np.full((1, 10), "x")),
}


@pytest.mark.filterwarnings("error")  # a file that stays open warns
@pytest.mark.parametrize("spoil", [*SPOILED, "PyTorch"])
def test_a_file_that_is_not_of_save_changes_nothing(tmp_path, spoil):
    path, network = tmp_path / "digits.npz", network_of(13)
    network.save(path)
    if spoil == "PyTorch":
        pytest.importorskip("torch").save({"k0": 1}, path)
    else:
        with np.load(path) as file:
            SPOILED[spoil](path, dict(file))
    with pytest.raises(ValueError, match="digits.npz is not a network that save wrote: ."):
        network.load(path)
    assert_same_network(network, network_of(13))
    if sys.platform == "linux":
        assert str(path) not in [os.path.realpath(f"/proc/self/fd/{number}")
                                 for number in os.listdir("/proc/self/fd")]


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError, match="digits.npz"):
        network_of(13).load(tmp_path / "digits.npz")


IMAGES = np.zeros((2, 1, 28, 28), np.float32)
LABELS = np.array([1, 2])


@pytest.mark.parametrize("x, error, message", [
    (IMAGES[:0], ValueError, r"shape \(0, 1, 28, 28\), expected \(B, 1, 28, 28\), B > 0"),
    (IMAGES[0], ValueError, r"shape \(1, 28, 28\), expected \(B, 1, 28, 28\)"),
    (IMAGES[..., 1:], ValueError, r"1, 28, 27\), expected \(B, 1, 28, 28\)"),
    (IMAGES.astype(np.uint8), TypeError, "dtype uint8, expected floats"),
    (None, ValueError, r"shape \(\), expected \(B, 1, 28, 28\)"),
    ([], ValueError, r"shape \(0,\), expected \(B, 1, 28, 28\)"),
    ([[1.0], [1.0, 2.0]], TypeError, r"the images cannot .* floats \(B, 1, 28, 28\): .")])
def test_images_that_the_network_cannot_take_are_refused(x, error, message):
    network = network_of(0)
    for call in (network.forward, network.predict, lambda x: network.test(x, LABELS, 1),
                 lambda x: network.train(x, LABELS, 1, 1, 0.1)):
        with pytest.raises(error, match=message):
            call(x)


@pytest.mark.parametrize("wrong, error, message", [
    ({"y": LABELS[:1]}, ValueError, r"labels have shape \(1,\), expected \(2,\)"),
    ({"y": [1, 2, 3]}, ValueError, r"labels have shape \(3,\), expected \(2,\)"),
    ({"y": None}, ValueError, r"labels have shape \(\), expected \(2,\)"),
    ({"y": [[1], [2, 3]]}, TypeError, r"labels cannot become an array of integers \(B,\)"),
    ({"y": LABELS - 2}, ValueError, "-1 to -1, expected 0 to 9"),
    ({"y": LABELS + 8}, ValueError, "10 to 10, expected 0 to 9"),
    ({"y": LABELS / 1}, TypeError, "expected integers"),
    ({"batch_size": 0}, ValueError, "batch_size = 0, expected an integer of at least 1"),
    ({"batch_size": -1}, ValueError, "batch_size = -1"),
    ({"batch_size": 1.5}, TypeError, "float"),
    ({"lr": 0}, ValueError, "lr = 0, expected a finite number above 0"),
    ({"lr": -0.1}, ValueError, "lr = -0.1"), ({"lr": float("nan")}, ValueError, "lr = nan"),
    ({"lr": float("inf")}, ValueError, "lr = inf"), ({"lr": "0.1"}, TypeError, "str"),
    ({"x": IMAGES + 1, "lr": 1e38}, FloatingPointError, "loss is .*smaller learning rate"),
    ({"x": IMAGES * np.nan}, FloatingPointError, "loss is nan: the images are not finite")])
def test_wrong_arguments_are_refused(wrong, error, message):
    network = network_of(12)
    arguments = {"x": IMAGES, "y": LABELS, "batch_size": 1, "lr": 0.1, **wrong}
    with pytest.raises(error, match=message):
        network.train(arguments["x"], arguments["y"], arguments["batch_size"], 1, arguments["lr"])
    if "lr" not in wrong:
        with pytest.raises(error, match=message):
            network.test(arguments["x"], arguments["y"], arguments["batch_size"])
