"""The network: its layers in a row, gradient descent step by step, PyTorch as the judge."""
import weakref

import numpy as np
import pytest
from scipy.special import log_softmax
from test_layers import assert_same, convolution, in_float64, linear, max_pooling, parameters, relu

from cnn_numpy import ConvolutionNeuralNetwork, CrossEntropyLoss

# The first parameters come from NumPy's global generator:
# ruff: noqa: NPY002


def network_of(seed, dtype=np.float32):
    """Return the network that a seed gives."""
    np.random.seed(seed)
    network = ConvolutionNeuralNetwork()
    if dtype == np.float64:
        for layer in network.layers:
            in_float64(layer)
    return network


def images_of(seed, count, dtype=np.float32):
    """Return images of noise and labels."""
    rng = np.random.default_rng(seed)
    return rng.random((count, 1, 28, 28)).astype(dtype), rng.integers(0, 10, count)


def arrays_of(network, ending=""):
    """Return the parameters of a network, or with the ending "_grad" their gradients."""
    return [getattr(layer, name + ending)
            for layer in network.layers for name in parameters(layer)]


def test_the_network_is_the_series():
    network = network_of(1)
    x, _ = images_of(1, 3)
    network.forward(x, keepgrad=True)
    assert [(type(layer).__name__, y.shape) for layer, y in
            zip(network.layers, [*network.layer_inputs[1:], network.forward(x)])] == [
        ("ConvolutionLayer", (3, 4, 24, 24)), ("MaxPoolingLayer", (3, 4, 12, 12)),
        ("ReLULayer", (3, 4, 12, 12)), ("ConvolutionLayer", (3, 16, 10, 10)),
        ("MaxPoolingLayer", (3, 16, 5, 5)), ("ReLULayer", (3, 16, 5, 5)),
        ("FlattenLayer", (3, 400)), ("LinearLayer", (3, 10))]
    assert [sum(getattr(layer, name).size for name in parameters(layer))
            for layer in network.layers if parameters(layer)] == [104, 592, 4010]
    assert isinstance(network.loss_func, CrossEntropyLoss)


def test_logits_are_those_of_the_definitions():
    network = network_of(2, np.float64)
    x, _ = images_of(2, 2, np.float64)
    first, _, _, second, _, _, _, last = network.layers
    y = convolution(x, first.k, first.b, np.zeros((2, 4, 24, 24)))[0]
    y = max_pooling(y, 2, 2, np.zeros((2, 4, 12, 12)))[0]
    y = relu(y, y)[0]
    y = convolution(y, second.k, second.b, np.zeros((2, 16, 10, 10)))[0]
    y = max_pooling(y, 2, 2, np.zeros((2, 16, 5, 5)))[0]
    y = relu(y, y)[0].reshape(2, 400)
    y = linear(y, last.w, last.b, np.zeros((2, 10)))[0]
    assert_same(network.forward(x), y, 1e-13)
    assert_same(network.predict(x), np.exp(log_softmax(y, axis=1)), 1e-13)


def test_gradients_are_the_slopes_in_any_direction():
    """A direction moves all elements of an array at once: a wrong one changes the slope."""
    network, rng = network_of(3, np.float64), np.random.default_rng(3)
    x, y = images_of(3, 3, np.float64)
    x_grad = network.backward(network.loss_func.backward(network.forward(x, keepgrad=True), y))
    assert x_grad.shape == x.shape and x_grad.dtype == np.float64
    for array, grad in zip([x, *arrays_of(network)], [x_grad, *arrays_of(network, "_grad")]):
        assert grad.shape == array.shape and grad.dtype == np.float64
        for _ in range(5):
            direction, start = rng.standard_normal(array.shape), array.copy()
            losses = []
            for step in (1e-6, -1e-6):
                array[...] = start + step * direction
                losses.append(network.loss_func.forward(network.forward(x), y))
            array[...] = start
            slope = (losses[0] - losses[1]) / 2e-6
            assert np.sum(grad * direction) == pytest.approx(slope, rel=1e-7, abs=2e-9)


def test_keepgrad_keeps_the_inputs_of_the_last_batch_alone():
    network = network_of(4)
    x, _ = images_of(4, 5)
    before = x.copy()
    logits = network.forward(x)
    assert network.layer_inputs == []
    np.testing.assert_array_equal(network.forward(x, keepgrad=True), logits)
    assert [len(layer_input) for layer_input in network.layer_inputs] == [5] * 8
    np.testing.assert_array_equal(network.layer_inputs[0], x)
    network.forward(x[:2])
    assert [len(layer_input) for layer_input in network.layer_inputs] == [5] * 8
    network.forward(x[:3], keepgrad=True)
    assert [len(layer_input) for layer_input in network.layer_inputs] == [3] * 8
    x_grad = network.backward(np.ones((3, 10), np.float32))
    np.testing.assert_array_equal(network.backward(np.ones((3, 10), np.float32)), x_grad)
    np.testing.assert_array_equal(x, before)
    assert x_grad.dtype == np.float32


def test_the_last_batch_is_freed_before_the_next_is_computed():
    network = network_of(4)
    network.forward(images_of(4, 5)[0], keepgrad=True)
    kept, freed = weakref.ref(network.layer_inputs[3]), []
    forward = network.layers[0].forward
    network.layers[0].forward = lambda x: freed.append(kept() is None) or forward(x)
    network.forward(images_of(4, 5)[0], keepgrad=True)
    assert freed == [True]


def test_memory_order_and_batch_change_nothing():
    network = network_of(5, np.float64)
    x, _ = images_of(5, 7, np.float64)
    logits, order = network.forward(x), np.random.default_rng(5).permutation(7)
    batch_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)
    every_second = np.repeat(x, 2, axis=3)[..., ::2]
    for same in (np.asfortranarray(x), batch_last, every_second):
        same.flags.writeable = False
        assert_same(network.forward(same), logits, 1e-13)
    assert_same(network.forward(x[order]), logits[order], 1e-13)
    assert_same(network.forward(x[3:4]), logits[3:4], 1e-13)


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
    for array, same in zip(arrays_of(network), arrays_of(other)):
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, same)


@pytest.mark.parametrize("batch_size", [1, 10, 25, 1000])
def test_test_is_the_mean_loss_over_the_images(batch_size):
    network = network_of(7, np.float64)
    x, y = images_of(7, 25, np.float64)
    before = [array.copy() for array in arrays_of(network)]
    expected = -log_softmax(network.forward(x), axis=1)[np.arange(25), y].mean()
    loss = network.test(x, y, batch_size)
    assert type(loss) is float and loss == pytest.approx(expected, rel=1e-13)
    for array, same in zip(arrays_of(network), before):
        np.testing.assert_array_equal(array, same)


def test_predict_is_the_softmax_of_any_number_of_images():
    network = network_of(8)
    x, _ = images_of(8, 230)
    probabilities = network.predict(x)
    assert probabilities.shape == (230, 10) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(probabilities, np.exp(log_softmax(network.forward(x), axis=1)),
                               rtol=1e-4)
    np.testing.assert_allclose(network.predict(x[:1]), probabilities[:1], rtol=1e-4)


def test_predict_works_in_pieces():
    network, pieces = network_of(8), []
    forward = network.forward
    network.forward = lambda x: pieces.append(len(x)) or forward(x)
    network.predict(images_of(8, 230)[0])
    assert pieces == [100, 100, 30]


def test_nothing_of_the_data_is_kept():
    network = network_of(9)
    x, y = images_of(9, 20)
    network.train(x, y, 10, 1, 0.1)
    network.test(x, y, 10)
    network.predict(x)
    assert network.layer_inputs == []
    kept = [value for owner in (network, network.loss_func, *network.layers)
            for value in vars(owner).values() if isinstance(value, np.ndarray)]
    assert sum(array.size for array in kept) == 2 * 4706  # the parameters and their gradients
    assert vars(network).keys() == {"layers", "loss_func", "layer_inputs"}
    with pytest.raises(ValueError, match="labels from"):
        network.train(x, np.where(np.arange(20) == 15, 10, y), 10, 1, 0.1)
    assert network.layer_inputs == []


def test_training_computes_no_gradient_of_the_images():
    network = network_of(9)
    network.layers[0].backward = None
    network.train(*images_of(9, 5), 5, 1, 0.1)


def test_layers_with_forward_and_backward_alone_work_in_the_network():
    class Plain:
        def __init__(self, layer):
            self.forward, self.backward = layer.forward, layer.backward

    network = network_of(10)
    x, y = images_of(10, 10)
    network.layers = [Plain(layer) for layer in network.layers]
    assert network.train(x, y, 5, 1, 0.1) == pytest.approx(network.test(x, y, 5), rel=1e-5)


def test_pytorch_computes_the_same():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    network = network_of(11, np.float64)
    other = nn.Sequential(nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 16, 3),
                          nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(400, 10)).double()
    loss_func, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(other.parameters(), lr=0.1)

    def as_pytorch(arrays):
        """Return the parameters in PyTorch's shapes: linear weights transposed, biases flat."""
        k0, b0, k3, b3, w7, b7 = arrays
        return [k0, b0.ravel(), k3, b3.ravel(), w7.T, b7.ravel()]

    with torch.no_grad():
        for theirs, ours in zip(other.parameters(), as_pytorch(arrays_of(network))):
            theirs.copy_(torch.tensor(ours))
    x, y = images_of(11, 200, np.float64)
    x[:, :, :6] = 0  # the black border, where windows are ties

    theirs_x = torch.tensor(x[:8], requires_grad=True)
    theirs_logits = other(theirs_x)
    loss = loss_func(theirs_logits, torch.tensor(y[:8]))
    loss.backward()
    logits = network.forward(x[:8], keepgrad=True)
    assert_same(logits, theirs_logits.detach().numpy(), 1e-13)
    assert network.loss_func.forward(logits, y[:8]) == pytest.approx(loss.item(), rel=1e-13)
    x_grad = network.backward(network.loss_func.backward(logits, y[:8]))
    assert_same(x_grad, theirs_x.grad.numpy(), 1e-12)
    for theirs, ours in zip(other.parameters(), as_pytorch(arrays_of(network, "_grad"))):
        assert_same(ours, theirs.grad.numpy(), 1e-12)

    for _ in range(5):
        network.train(x, y, 20, 1, 0.1)  # ten steps
        for start in range(0, 200, 20):
            optimizer.zero_grad()
            loss_func(other(torch.tensor(x[start:start + 20])),
                      torch.tensor(y[start:start + 20])).backward()
            optimizer.step()
    for theirs, ours in zip(other.parameters(), as_pytorch(arrays_of(network))):
        assert_same(ours, theirs.detach().numpy(), 1e-9)


def test_what_is_saved_is_loaded(tmp_path):
    network, other = network_of(13), network_of(14)
    path = tmp_path / "digits \u6570\u5b57"  # no suffix: none is added
    network.save(path)
    assert list(tmp_path.iterdir()) == [path]
    with np.load(path, allow_pickle=False) as file:
        assert {name: array.shape for name, array in file.items()} == {
            "k0": (4, 1, 5, 5), "b0": (1, 4, 1, 1), "k3": (16, 4, 3, 3), "b3": (1, 16, 1, 1),
            "w7": (400, 10), "b7": (1, 10)}
    other.load(str(path))
    for array, same in zip(arrays_of(network), arrays_of(other)):
        np.testing.assert_array_equal(array, same)
        assert same.dtype == np.float32
    x, y = images_of(13, 20)
    assert network.train(x, y, 10, 1, 0.1) == other.train(x, y, 10, 1, 0.1)
    network.save(path)  # over the old one
    other.load(path)
    np.testing.assert_array_equal(network.predict(x), other.predict(x))
    network_of(15, np.float64).save(path)
    other.load(path)
    for array, same in zip(arrays_of(network_of(15, np.float64)), arrays_of(other)):
        assert same.dtype == np.float64
        np.testing.assert_array_equal(array, same)


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "digits.npz"
    network_of(13).save(path)
    before = path.read_bytes()

    def interrupted(file, **_):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        network_of(14).save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        network_of(13).save(tmp_path / "nowhere" / "digits.npz")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        network_of(13).save(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def no_file(path, _):
    path.unlink()


def empty(path, _):
    path.write_bytes(b"")


def text(path, _):
    path.write_text("k0", encoding="utf-8")


def truncated(path, _):
    path.write_bytes(path.read_bytes()[:5000])


def damaged(path, _):
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)


def one_array(path, arrays):
    with open(path, "wb") as file:
        np.save(file, arrays["k0"])


def pickled(path, arrays):
    save(path, {**arrays, "k0": np.array([{}], object)})


def of_another_shape(path, arrays):
    save(path, {**arrays, "b7": arrays["b7"][0]})


def lacking(path, arrays):
    save(path, {name: array for name, array in arrays.items() if name != "k3"})


def with_more(path, arrays):
    save(path, {**arrays, "k9": arrays["k0"]})


def of_integers(path, arrays):
    save(path, {**arrays, "w7": arrays["w7"].astype(int)})


def save(path, arrays):
    """Write arrays to a file as it is named."""
    with open(path, "wb") as file:
        np.savez(file, **arrays)


@pytest.mark.parametrize("spoil, error, message", [
    (no_file, FileNotFoundError, "digits.npz"), (empty, ValueError, "not a file that save"),
    (text, ValueError, "not a file that save"), (truncated, ValueError, "not a file that save"),
    (damaged, ValueError, "not a file that save"), (one_array, ValueError, "not a file that save"),
    (pickled, ValueError, "not a file that save"),
    (of_another_shape, ValueError, r"'b7': \(10,\).*expected.*'b7': \(1, 10\)"),
    (lacking, ValueError, "holds parameters of shapes"), (with_more, ValueError, "'k9'"),
    (of_integers, ValueError, "holds parameters of shapes")])
def test_a_file_that_cannot_be_loaded_changes_nothing(tmp_path, spoil, error, message):
    path, network = tmp_path / "digits.npz", network_of(13)
    network.save(path)
    with np.load(path) as file:
        spoil(path, dict(file))
    before = [array.copy() for array in arrays_of(network)]
    with pytest.raises(error, match=message) as caught:
        network.load(path)
    assert "digits.npz" in str(caught.value)
    for array, same in zip(arrays_of(network), before):
        np.testing.assert_array_equal(array, same)


IMAGES = np.zeros((2, 1, 28, 28), np.float32)
LABELS = np.array([1, 2])


def train(x=IMAGES, y=LABELS, batch_size=1, lr=0.1):
    """Train a new network with one of the arguments spoilt."""
    return network_of(12).train(x, y, batch_size, 1, lr)


@pytest.mark.parametrize("call, error, message", [
    (lambda: network_of(0).forward(IMAGES[:0]), ValueError, "B at least 1"),
    (lambda: network_of(0).forward(IMAGES[0]), ValueError, r"shape \(1, 28, 28\)"),
    (lambda: network_of(0).predict(IMAGES[:0]), ValueError, "B at least 1"),
    (lambda: network_of(0).predict(IMAGES[..., 1:]), ValueError, r"1, 28, 27\)"),
    (lambda: network_of(0).predict(IMAGES.astype(np.uint8)), TypeError, "uint8"),
    (lambda: network_of(0).backward(np.zeros((2, 10))), RuntimeError, "keepgrad"),
    (lambda: train(x=IMAGES[:0], y=LABELS[:0]), ValueError, "B at least 1"),
    (lambda: train(x=IMAGES.astype(int)), TypeError, "int"),
    (lambda: train(y=LABELS[:1]), ValueError, "1 labels for 2 images"),
    (lambda: train(y=LABELS - 2), ValueError, "labels from -1"),
    (lambda: train(y=LABELS + 8), ValueError, "to 10, expected 0 to 9"),
    (lambda: train(y=LABELS / 1), TypeError, "expected integers"),
    (lambda: train(batch_size=0), ValueError, "batch_size = 0"),
    (lambda: train(batch_size=1.5), ValueError, "batch_size = 1.5"),
    (lambda: train(lr=0), ValueError, "lr = 0"),
    (lambda: train(lr=-0.1), ValueError, "lr = -0.1"),
    (lambda: train(lr=float("nan")), ValueError, "lr = nan"),
    (lambda: train(lr=float("inf")), ValueError, "lr = inf"),
    (lambda: train(lr="0.1"), ValueError, "lr = '0.1'"),
    (lambda: train(x=IMAGES + 1, lr=1e38), FloatingPointError,
     "batch 2 of 2 is .*smaller learning rate"),
    (lambda: network_of(0).test(IMAGES, LABELS, 0), ValueError, "batch_size = 0"),
    (lambda: network_of(0).test(IMAGES, LABELS[:1], 1), ValueError, "1 labels for 2 images"),
    (lambda: network_of(0).test(IMAGES * np.nan, LABELS, 2), FloatingPointError, "batch 1 of 1"),
])
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numpy_numbers_are_numbers_too():
    train(batch_size=np.int64(2), lr=np.float32(0.1))
