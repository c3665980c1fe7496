"""The network: its layers in a row, gradient descent, files, and PyTorch as another judge."""
import inspect
import subprocess
import sys
from operator import attrgetter

import definitions
import numpy as np
import pytest
from helpers import NAME, PROJECT, assert_all_same, assert_same

import cnn_numpy
from cnn_numpy import ConvolutionLayer, ConvolutionNeuralNetwork, FlattenLayer, LinearLayer


def network_of(seed):
    """Return the network that a seed gives."""
    np.random.seed(seed)
    return ConvolutionNeuralNetwork()


def images(count):
    """Return images of noise whose six top rows are black, and labels."""
    rng = np.random.default_rng(0)
    x, y = rng.random((count, 1, 28, 28), np.float32), rng.integers(0, 10, count)
    x[:, :, :6] = 0
    x.flags.writeable = y.flags.writeable = False  # nobody may change them
    return x, y


def arrays_of(network, ending=""):
    """Return the parameters by their names in a file, or with "_grad" their gradients."""
    arrays = {}
    for name in ("k0", "b0", "k3", "b3", "w7", "b7"):
        arrays[name] = getattr(network.layers[int(name[1])], name[0] + ending)
    return arrays


# Forward and backward


def test_the_network_has_the_layers_of_the_series():
    network = network_of(0)
    network.forward(images(2)[0], keepgrad=True)
    found = []
    for layer, x in zip(network.layers, network.layer_inputs):
        found.append((type(layer).__name__, x.shape[1:]))
    assert found == [
        ("ConvolutionLayer", (1, 28, 28)), ("MaxPoolingLayer", (4, 24, 24)),
        ("ReLULayer", (4, 12, 12)), ("ConvolutionLayer", (4, 12, 12)),
        ("MaxPoolingLayer", (16, 10, 10)), ("ReLULayer", (16, 5, 5)),
        ("FlattenLayer", (16, 5, 5)), ("LinearLayer", (400,))]


def test_forward_and_backward_call_the_layers_one_after_the_other():
    network, (x, y) = network_of(1), images(3)
    logits = network.forward(x, keepgrad=True)
    for number, layer in enumerate(network.layers):
        assert_same(f"layer_inputs[{number}]", network.layer_inputs[number], x)
        x = layer.forward(x)
    assert_same("the logits", logits, x)

    grad = network.loss_func.backward(logits, y)
    x_grad = network.backward(grad)
    grads = {name: array.copy() for name, array in arrays_of(network, "_grad").items()}
    for layer, x in zip(network.layers[::-1], network.layer_inputs[::-1]):
        grad = layer.backward(x, grad)
    assert_same("dL/dX of the images", x_grad, grad)
    assert_all_same(grads, arrays_of(network, "_grad"))


def test_forward_keeps_inputs_only_when_asked():
    network, (x, _) = network_of(1), images(5)
    network.forward(x)
    assert network.layer_inputs == []
    for _ in range(2):  # the second time in place of the first
        network.forward(x, keepgrad=True)
    network.forward(x[:2])
    assert [len(layer_input) for layer_input in network.layer_inputs] == 8 * [5]


def test_backward_without_a_kept_forward_is_an_error():
    network, (x, _) = network_of(1), images(2)
    with pytest.raises(RuntimeError, match="keepgrad"):
        network.backward(network.forward(x))


def test_between_the_layers_the_batch_is_innermost_in_memory():
    network, (x, y) = network_of(1), images(5)
    grad = network.loss_func.backward(network.forward(x, keepgrad=True), y)
    for number in range(7, 0, -1):
        x = network.layer_inputs[number]
        grad = network.layers[number].backward(x, grad)
        assert x.strides[0] == x.itemsize, f"the input of layer {number}"
        assert grad.strides[0] == grad.itemsize, f"dL/dX of layer {number}"


def lines_of_a_step(count):
    """Return how many lines of Python a step with so many images takes."""
    network, (x, y), lines = network_of(1), images(count), []

    def trace(frame, event, argument):
        lines.append(event)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    network.train(x, y, count, 1, 0.1)
    sys.settrace(before)
    return len(lines)


def test_a_step_with_more_images_takes_no_more_lines_of_python():
    assert lines_of_a_step(50) == lines_of_a_step(5)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count page faults otherwise")
def test_a_step_asks_the_system_for_no_memory():
    program = """if True:
        import resource
        import numpy as np
        from cnn_numpy import ConvolutionNeuralNetwork
        x = np.random.default_rng(0).random((1000, 1, 28, 28), np.float32)
        network = ConvolutionNeuralNetwork()
        network.train(x, np.zeros(1000, int), 100, 1, 0.1)  # warm up
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        network.train(x, np.zeros(1000, int), 100, 1, 0.1)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)  # steps
    """
    output = subprocess.check_output([sys.executable, "-c", program], cwd=PROJECT)
    assert float(output) <= 20  # page faults; with memory that is new in each step 1,000


# Training, testing, predicting


def test_train_is_gradient_descent_in_the_order_given():
    network, other, (x, y) = network_of(6), network_of(6), images(25)
    expected = 0
    for batch in (slice(0, 10), slice(10, 20), slice(20, 25)):
        logits = other.forward(x[batch], keepgrad=True)
        expected += definitions.cross_entropy(logits, y[batch]) * len(logits) / 25
        other.backward(other.loss_func.backward(logits, y[batch]))
        grads = arrays_of(other, "_grad")
        for name, array in arrays_of(other).items():
            array -= 0.1 * grads[name]
    arrays = arrays_of(network)  # which train changes in place
    loss = network.train(train_x=x, train_y=y, batch_size=10, epochs=77, lr=0.1)
    assert type(loss) is float and loss == pytest.approx(expected)
    assert_all_same(arrays, arrays_of(other), 1e-6)
    assert network.layer_inputs == []


def test_train_leaves_out_the_gradient_of_the_images():
    network, (x, y), returned = network_of(6), images(5), []
    backward = network.backward

    def backward_and_note(*arguments, **options):
        returned.append(backward(*arguments, **options))

    network.backward = backward_and_note
    network.train(x, y, 5, 1, 0.1)
    assert returned == [None]


def test_test_is_the_mean_loss_of_all_images_and_changes_nothing():
    network, (x, y) = network_of(6), images(25)
    loss = network.test(test_x=x, test_y=y, batch_size=10)
    assert type(loss) is float
    assert loss == pytest.approx(definitions.cross_entropy(network.forward(x), y))
    assert_all_same(arrays_of(network), arrays_of(network_of(6)), 0)


class Scale:
    """A reader's own layer, of no base class, that notes how many images it gets."""

    def __init__(self):
        self.scale, self.scale_grad, self.counts = np.array(1.0), np.array(0.0), []

    def forward(self, x):
        self.counts.append(len(x))
        return x * self.scale

    def backward(self, x, last_x_grad):
        self.scale_grad = np.sum(x * last_x_grad)
        return last_x_grad * self.scale

    def update(self, lr):
        self.scale -= lr * self.scale_grad


def test_predict_gives_probabilities_a_hundred_images_at_a_time():
    network, (x, _) = network_of(1), images(230)
    network.layers.insert(0, Scale())
    probabilities = network.predict(x)
    assert network.layers[0].counts == [100, 100, 30]
    assert_same("predict", probabilities, definitions.softmax(network.forward(x)), 1e-6)


def test_predict_of_no_images_is_an_error():
    with pytest.raises(ValueError):
        network_of(1).predict(images(0)[0])


def test_a_layer_of_ones_own_is_trained():
    network, (x, y) = network_of(1), images(5)
    network.layers.insert(0, Scale())
    network.train(x, y, 5, 1, 0.1)
    assert network.layers[0].scale != 1


np.random.seed(1)  # for the layers below


@pytest.mark.parametrize("layers, shape, classes", [
    ([LinearLayer(3, 2)], (3,), 2),
    ([FlattenLayer(), LinearLayer(784, 26)], (1, 28, 28), 26),
    ([ConvolutionLayer(3, 1, 5, 3), FlattenLayer(), LinearLayer(16 * 8, 12)], (3, 20, 10), 12),
], ids=["one layer", "26 classes", "colours, 12 classes"])
def test_other_layers_learn_other_images_and_classes(layers, shape, classes):
    network = network_of(1)
    network.layers = layers
    x, y = np.random.random((52, *shape)), np.arange(52) % classes
    losses = [network.train(x, y, 26, 1, 0.01) for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
    assert network.predict(x).shape == (52, classes)


# What comes in


def test_images_and_labels_may_be_lists():
    network, other, (x, y) = network_of(1), network_of(1), images(5)
    loss = network.train(x.tolist(), y.tolist(), 3, 1, 0.1)
    assert loss == pytest.approx(other.train(x, y, 3, 1, 0.1))
    assert_same("predict", network.predict(x.tolist()), other.predict(x), 1e-6)


@pytest.mark.parametrize("x, y, error", [
    (np.zeros((0, 1, 28, 28)), [], "0 images"),
    (np.zeros((3, 1, 28, 28)), [1, 2], "3 images, 2 labels"),
    (np.zeros((3, 1, 28, 28)), [1, 2, 10], "10.*expected integers 0 to 9"),
    (np.zeros((3, 1, 28, 28), np.uint8), [1, 2, 3], "uint8, expected floats"),
], ids=["none", "few labels", "label 10", "integers"])
def test_what_cannot_be_learned_is_refused(x, y, error):
    with pytest.raises((ValueError, TypeError), match=error):
        network_of(1).train(x, y, 3, 1, 0.1)
    with pytest.raises((ValueError, TypeError), match=error):
        network_of(1).test(x, y, 3)


def test_a_batch_size_below_1_is_refused():
    with pytest.raises(ValueError, match="batch_size -1"):
        network_of(1).train(*images(3), -1, 1, 0.1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["images", "k0", "b0", "k3", "b3", "w7", "b7"])
def test_the_loss_sees_a_nan_wherever_it_is(name):
    network, (x, y) = network_of(1), images(3)
    x = x.copy()
    arrays = {**arrays_of(network), "images": x}
    arrays[name].flat[-1] = np.nan
    with pytest.raises(FloatingPointError, match="nan"):
        network.train(x, y, 3, 1, 0.1)


# Files


def test_what_is_saved_is_loaded(tmp_path):
    network, other, path = network_of(13), network_of(14), tmp_path / f"{NAME}.npz"
    path.write_bytes(b"older")
    network.save(path)
    arrays = arrays_of(other)
    other.load(path)  # into the same arrays
    assert_all_same(arrays, arrays_of(network), 0)
    assert list(tmp_path.iterdir()) == [path]
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file) == sorted(arrays_of(network))


def test_saving_that_stops_in_the_middle_leaves_the_older_file(tmp_path, monkeypatch):
    def savez(file, **arrays):
        file.write(b"half")
        raise OSError("the disk is full")

    network, path = network_of(13), tmp_path / "digits.npz"
    network.save(path)
    monkeypatch.setattr(np, "savez", savez)
    with pytest.raises(OSError, match="full"):
        network_of(14).save(path)
    network.load(path)
    assert_all_same(arrays_of(network), arrays_of(network_of(13)), 0)


@pytest.mark.parametrize("change", [
    {"b7": np.zeros(10)}, {"b8": np.zeros((1, 10))}, {"b0": np.zeros((1, 16, 1, 1))},
], ids=["another shape", "one more", "another layer's shape"])
def test_a_file_of_another_network_is_refused(tmp_path, change):
    network, path = network_of(13), tmp_path / "digits.npz"
    np.savez(path, **{**arrays_of(network_of(14)), **change})
    with pytest.raises(ValueError, match="digits.npz.*expected"):
        network.load(path)
    assert_all_same(arrays_of(network), arrays_of(network_of(13)), 0)


def test_half_a_file_changes_nothing(tmp_path):
    network, path = network_of(13), tmp_path / "digits.npz"
    network_of(14).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(Exception, match="zip|pickle"):  # as np.load says it
        network.load(path)
    assert_all_same(arrays_of(network), arrays_of(network_of(13)), 0)


# Another judge


def test_pytorch_computes_the_same():
    torch = pytest.importorskip("torch")
    nn, network, (x, y) = torch.nn, network_of(11), images(20)
    other = nn.Sequential(nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.ReLU(),
                          nn.Conv2d(4, 16, 3), nn.MaxPool2d(2), nn.ReLU(),
                          nn.Flatten(), nn.Linear(400, 10))
    for theirs, ours in zip(other.parameters(), arrays_of(network).values()):
        ours = ours.T if ours.shape == (400, 10) else ours  # theirs is (d2, d1)
        theirs.data[...] = torch.tensor(ours).reshape(theirs.shape)
    logits = network.forward(torch.tensor(x), keepgrad=True)
    x_grad = network.backward(network.loss_func.backward(logits, torch.tensor(y)))
    theirs_x = torch.tensor(x, requires_grad=True)
    theirs_logits = other(theirs_x)
    nn.CrossEntropyLoss()(theirs_logits, torch.tensor(y)).backward()
    assert_same("the logits", logits, theirs_logits.detach().numpy(), 1e-5)
    assert_same("dL/dX of the images", x_grad, theirs_x.grad.numpy(), 1e-5)
    for theirs, (name, grad) in zip(other.parameters(), arrays_of(network, "_grad").items()):
        grad = grad.T if grad.shape == (400, 10) else grad
        assert_same(f"dL/d{name}", grad.reshape(theirs.shape), theirs.grad.numpy(), 1e-5)


# The contract

SIGNATURES = """
load_dataset(folder: str, shuffle: bool = False) -> tuple[np.ndarray, np.ndarray]
NetworkLayer.forward(self, x: np.ndarray) -> np.ndarray
NetworkLayer.backward(self, x: np.ndarray, last_x_grad: np.ndarray) -> np.ndarray
MaxPoolingLayer.__init__(self, k1: int, k2: int) -> None
FlattenLayer.__init__(self, start: int = 1, end: int = -1) -> None
ParamLayer.update(self, lr: float) -> None
LinearLayer.__init__(self, d1: int, d2: int) -> None
ConvolutionLayer.__init__(self, c1: int, c2: int, k1: int, k2: int) -> None
CrossEntropyLoss.forward(self, x: np.ndarray, y: np.ndarray) -> float
CrossEntropyLoss.backward(self, x: np.ndarray, y: np.ndarray) -> np.ndarray
ConvolutionNeuralNetwork.forward(self, x: np.ndarray, keepgrad: bool = False) -> np.ndarray
ConvolutionNeuralNetwork.predict(self, x: np.ndarray) -> np.ndarray
ConvolutionNeuralNetwork.save(self, path: str) -> None
ConvolutionNeuralNetwork.load(self, path: str) -> None
"""


@pytest.mark.parametrize("expected", SIGNATURES.strip().splitlines())
def test_the_signatures_are_those_of_the_articles(expected):
    name, _ = expected.split("(", 1)
    function = attrgetter(name)(cnn_numpy)
    found = str(inspect.signature(function)).replace("numpy.ndarray", "np.ndarray")
    beginning, end = expected.rsplit(")", 1)  # further arguments may come last
    assert (name + found).startswith(beginning) and found.endswith(end)
