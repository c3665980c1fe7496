"""The network: its layers in a row, gradient descent, and files."""
import subprocess
import sys
from textwrap import dedent
from unittest.mock import Mock

import definitions
import numpy as np
import pytest
from helpers import NAME, PROJECT, assert_all_same, assert_same

from cnn_numpy import ConvolutionLayer, ConvolutionNeuralNetwork, FlattenLayer, LinearLayer


def network_of(seed):
    """Return the network that a seed gives."""
    np.random.seed(seed)
    return ConvolutionNeuralNetwork()


def images(count):
    """Return labels and images, which are black at the top: pixels must be equal somewhere."""
    rng = np.random.default_rng(0)
    x, y = rng.random((count, 1, 28, 28), np.float32), rng.integers(0, 10, count)
    x[:, :, :6] = 0
    x.flags.writeable = y.flags.writeable = False  # the network must not change them
    return x, y


def arrays_of(network, ending=""):
    """Return the parameters by their names in a file, or with "_grad" their gradients."""
    arrays = {}
    for name in ("k0", "b0", "k3", "b3", "w7", "b7"):
        arrays[name] = getattr(network.layers[int(name[1])], name[0] + ending)
    return arrays


# Forward and backward


def test_the_layers_get_images_of_the_series_shapes():
    network = network_of(1)
    network.forward(images(2)[0], keepgrad=True)
    assert [x.shape[1:] for x in network.layer_inputs] == [
        (1, 28, 28), (4, 24, 24), (4, 12, 12), (4, 12, 12), (16, 10, 10), (16, 5, 5), (16, 5, 5),
        (400,)]


def test_forward_keeps_inputs_only_when_asked():
    network, (x, _) = network_of(1), images(5)
    network.forward(x)
    assert network.layer_inputs == []
    network.forward(x[:4], keepgrad=True)
    network.forward(x, keepgrad=True)  # these inputs replace the first
    network.forward(x[:2])  # these are not kept
    assert [len(layer_input) for layer_input in network.layer_inputs] == 8 * [5]


def test_backward_without_a_kept_forward_is_an_error():
    network, (x, _) = network_of(1), images(2)
    with pytest.raises(RuntimeError, match="keepgrad"):
        network.backward(network.forward(x))


def test_pytorch_computes_the_same():
    torch = pytest.importorskip("torch")
    network, (x, y) = network_of(11), images(20)
    logits = network.forward(x, keepgrad=True)
    x_grad = network.backward(network.loss_func.backward(logits, y))
    grads = {"images": x_grad, **arrays_of(network, "_grad")}

    theirs = {}
    for name, array in [("images", x), *arrays_of(network).items()]:
        theirs[name] = torch.tensor(array, requires_grad=True)
    z, k0, b0, k3, b3, w7, b7 = theirs.values()
    z = torch.conv2d(z, k0, b0.flatten())
    z = torch.relu(torch.max_pool2d(z, 2))
    z = torch.conv2d(z, k3, b3.flatten())
    z = torch.relu(torch.max_pool2d(z, 2))
    z = z.flatten(1) @ w7 + b7
    torch.nn.functional.cross_entropy(z, torch.tensor(y)).backward()
    assert_same("the logits", logits, z.detach().numpy(), 1e-5)
    for name, tensor in theirs.items():
        assert_same(f"dL/d{name}", grads[name], tensor.grad.numpy(), 1e-5)


def test_between_the_layers_the_batch_is_innermost_in_memory():
    network, (images_x, y) = network_of(1), images(5)
    grad = network.loss_func.backward(network.forward(images_x, keepgrad=True), y)
    for number in (7, 6, 5, 4, 3, 2, 1):
        x = network.layer_inputs[number]
        grad = network.layers[number].backward(x, grad)
        assert x.strides[0] == x.itemsize, f"the input of layer {number}"
        assert grad.strides[0] == grad.itemsize, f"dL/dX of layer {number}"


def test_a_step_with_more_images_runs_no_more_lines_of_python():
    network, lines = network_of(1), []

    def trace(*event):  # Python calls it for each line
        lines[-1] += 1
        return trace

    for count in (5, 50):
        x, y = images(count)
        lines.append(0)
        sys.settrace(trace)
        network.train(x, y, count, 1, 0.1)
        sys.settrace(None)
    assert lines[0] == lines[1]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count page faults otherwise")
def test_a_step_asks_the_system_for_hardly_any_memory():
    program = dedent("""
        import resource
        import numpy as np
        from cnn_numpy import ConvolutionNeuralNetwork
        x = np.random.default_rng(0).random((1000, 1, 28, 28), np.float32)
        network = ConvolutionNeuralNetwork()
        network.train(x, np.zeros(1000, int), 100, 1, 0.1)  # warm up
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        network.train(x, np.zeros(1000, int), 100, 1, 0.1)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)
    """)
    page_faults_of_a_step = subprocess.check_output([sys.executable, "-c", program], cwd=PROJECT)
    assert float(page_faults_of_a_step) <= 20  # new memory in each step makes 1,000


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
    arrays = arrays_of(network)  # no copies: train must change them in place
    loss = network.train(train_x=x, train_y=y, batch_size=10, epochs=77, lr=0.1)  # one epoch
    assert type(loss) is float and loss == pytest.approx(expected)
    assert_all_same(arrays, arrays_of(other), 1e-6)
    assert network.layer_inputs == []


def test_train_leaves_out_the_gradient_of_the_images():
    network, (x, y), returned = network_of(6), images(5), []
    backward = network.backward
    network.backward = lambda *args, **options: returned.append(backward(*args, **options))
    network.train(x, y, 5, 1, 0.1)
    assert returned == [None]


def test_the_test_returns_the_mean_loss_of_all_images_and_changes_nothing():
    network, (x, y) = network_of(6), images(25)
    loss = network.test(test_x=x.tolist(), test_y=y.tolist(), batch_size=10)  # or arrays
    assert type(loss) is float
    assert loss == pytest.approx(definitions.cross_entropy(network.forward(x), y))
    assert_all_same(arrays_of(network), arrays_of(network_of(6)), 0)


def test_predict_gives_probabilities_a_hundred_images_at_a_time():
    network, (x, _) = network_of(1), images(230)
    logits = network.forward(x)
    network.layers[0].forward = Mock(wraps=network.layers[0].forward)
    assert_same("predict", network.predict(x=x), definitions.softmax(logits), 1e-6)
    counts = [len(call.args[0]) for call in network.layers[0].forward.call_args_list]
    assert counts == [100, 100, 30]


def test_predict_of_no_images_is_an_error():
    with pytest.raises(ValueError):
        network_of(1).predict(np.zeros((0, 1, 28, 28)))


def test_a_first_layer_needs_only_forward_backward_and_update():
    network, (x, y) = network_of(1), images(5)
    layer = Mock(forward=lambda x: x, backward=lambda x, last_x_grad: last_x_grad)
    network.layers.insert(0, layer)
    network.train(x, y, 5, 1, 0.1)
    layer.update.assert_called_once_with(0.1)


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


@pytest.mark.parametrize("count, y, dtype, batch_size, error", [
    (0, [], float, 3, "0 images"),
    (3, [1, 2], float, 3, "3 images, 2 labels"),
    (3, [1, 2, 10], float, 3, "10.*expected integers 0 to 9"),
    (3, [1, 2, 3], np.uint8, 3, "uint8, expected floats"),
    (3, [1, 2, 3], float, -1, "batch_size -1"),
], ids=["no images", "few labels", "label 10", "integers", "batch size -1"])
def test_what_cannot_be_learned_is_refused(count, y, dtype, batch_size, error):
    x = np.zeros((count, 1, 28, 28), dtype)
    with pytest.raises((ValueError, TypeError), match=error):
        network_of(1).train(x, y, batch_size, 1, 0.1)
    with pytest.raises((ValueError, TypeError), match=error):
        network_of(1).test(x, y, batch_size)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_loss_sees_a_single_nan():
    network, (x, y) = network_of(1), images(3)
    x = x.copy()
    x[1, 0, 20, 20] = np.nan
    with pytest.raises(FloatingPointError, match="nan"):
        network.train(x, y, 3, 1, 0.1)


# Files


def test_what_is_saved_is_loaded(tmp_path):
    network, other, path = network_of(13), network_of(14), tmp_path / f"{NAME}.npz"
    path.write_bytes(b"older")
    network.save(path=path)
    arrays = arrays_of(other)  # no copies: load must change them in place
    other.load(path=path)
    assert_all_same(arrays, arrays_of(network), 0)
    assert list(tmp_path.iterdir()) == [path]
    with np.load(path) as file:
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
    arrays = {**arrays_of(network_of(14)), **change}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="digits.npz.*expected"):
        network.load(path)
    assert_all_same(arrays_of(network), arrays_of(network_of(13)), 0)


def test_half_a_file_changes_nothing(tmp_path):
    network, path = network_of(13), tmp_path / "digits.npz"
    network_of(14).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(Exception, match="zip|pickle"):  # NumPy's error
        network.load(path)
    assert_all_same(arrays_of(network), arrays_of(network_of(13)), 0)
