"""The network: its layers in a row, gradient descent, and files."""
import subprocess
import sys
from textwrap import dedent
from unittest.mock import Mock

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


def arrays_of(network, ending=""):
    """Return the parameters by their names in a file, or with "_grad" their gradients."""
    arrays = {}
    for name, number in [("k", 0), ("b", 0), ("k", 3), ("b", 3), ("w", 7), ("b", 7)]:
        arrays[f"{name}{number}"] = getattr(network.layers[number], name + ending)
    return arrays


X = np.random.default_rng(0).random((25, 1, 28, 28), np.float32)
X[:, :, :6] = 0  # so that pooling meets equal pixels
Y = np.arange(25) % 10
X.flags.writeable = Y.flags.writeable = False  # the network must not change them


# Forward and backward


def test_each_layer_gets_the_shape_that_the_series_says():
    network = network_of(1)
    network.forward(X, keepgrad=True)
    assert [x.shape[1:] for x in network.layer_inputs] == [
        (1, 28, 28), (4, 24, 24), (4, 12, 12), (4, 12, 12), (16, 10, 10), (16, 5, 5), (16, 5, 5),
        (400,)]


def test_inputs_are_kept_only_when_asked_and_until_the_next_are():
    network = network_of(1)
    network.forward(X[:4], keepgrad=True)
    older = network.layer_inputs
    network.forward(X[:5], keepgrad=True)  # begins a new list
    network.forward(X[:2])  # leaves this list alone
    network.backward(np.zeros((5, 10)))  # leaves it alone, too
    assert [len(x) for x in network.layer_inputs] == 8 * [5]
    assert [len(x) for x in older] == 8 * [4]


def test_backward_without_a_kept_forward_is_an_error():
    network = network_of(1)
    logits = network.forward(X)
    with pytest.raises(RuntimeError, match="keepgrad"):
        network.backward(logits)


def test_pytorch_computes_the_same():
    torch = pytest.importorskip("torch")
    network = network_of(1)
    logits = network.forward(X, keepgrad=True)
    x_grad = network.backward(network.loss_func.backward(logits, Y))
    grads = {"images": x_grad, **arrays_of(network, "_grad")}

    theirs = {}
    for name, array in [("images", X), *arrays_of(network).items()]:
        theirs[name] = torch.tensor(array, requires_grad=True)
    x, k0, b0, k3, b3, w7, b7 = theirs.values()
    z = torch.conv2d(x, k0, b0.flatten())
    z = torch.relu(torch.max_pool2d(z, 2))
    z = torch.conv2d(z, k3, b3.flatten())
    z = torch.relu(torch.max_pool2d(z, 2))
    z = z.flatten(1) @ w7 + b7
    torch.nn.functional.cross_entropy(z, torch.tensor(Y)).backward()
    assert_same("the logits", logits, z.detach().numpy(), 1e-5)
    for name, tensor in theirs.items():
        assert_same(f"dL/d{name}", grads[name], tensor.grad.numpy(), 1e-5)


def test_between_the_layers_the_batch_is_innermost_in_memory():
    network = network_of(1)
    logits = network.forward(X, keepgrad=True)
    grad = network.loss_func.backward(logits, Y)
    for number in (7, 6, 5, 4, 3, 2, 1):
        x = network.layer_inputs[number]
        grad = network.layers[number].backward(x, grad)
        assert x.strides[0] == x.itemsize, f"the input of layer {number}"
        assert grad.strides[0] == grad.itemsize, f"dL/dX of layer {number}"


def test_a_step_of_500_images_runs_few_lines_of_python():
    network, lines = network_of(1), []
    x, y = np.concatenate(20 * [X]), np.concatenate(20 * [Y])

    def trace(frame, event, argument):  # it returns itself, and so Python calls it for each line
        if frame.f_code.co_filename == cnn_numpy.__file__:
            lines.append(frame.f_lineno)
            return trace

    sys.settrace(trace)
    network.train(x, y, 500, 1, 0.1)
    sys.settrace(None)
    assert len(lines) < 1200  # it runs 1,000; a loop over the images adds 500


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count differently")
def test_a_step_takes_almost_no_new_memory():
    program = dedent("""
        import resource
        import numpy as np
        from cnn_numpy import ConvolutionNeuralNetwork
        x = np.random.default_rng(0).random((1000, 1, 28, 28), np.float32)
        network = ConvolutionNeuralNetwork()
        network.train(x, np.zeros(1000, int), 100, 1, 0.1)  # warm up
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt  # page faults
        network.train(x, np.zeros(1000, int), 100, 1, 0.1)  # 10 steps
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """)
    page_faults = subprocess.check_output([sys.executable, "-c", program], cwd=PROJECT)
    assert int(page_faults) <= 200  # new memory in each step makes 10,000


# Training, testing, predicting


def test_train_is_gradient_descent_in_the_order_given():
    network, other, loss_sum = network_of(1), network_of(1), 0
    x = 300 * X  # makes large gradients, which train must not clip
    for batch in (slice(0, 10), slice(10, 20), slice(20, 25)):
        logits = other.forward(x[batch], keepgrad=True)
        loss_sum += definitions.cross_entropy(logits, Y[batch]) * len(logits)
        other.backward(other.loss_func.backward(logits, Y[batch]))
        grads = arrays_of(other, "_grad")
        for name, array in arrays_of(other).items():
            array -= 1e-4 * grads[name]
    arrays = arrays_of(network)  # no copies: train must change them in place
    loss = network.train(train_x=x, train_y=Y, batch_size=10, epochs=77, lr=1e-4)  # in one epoch
    assert type(loss) is float and loss == pytest.approx(loss_sum / 25)
    assert_all_same(arrays, arrays_of(other), 1e-6)
    assert network.layer_inputs == []


def test_train_leaves_out_the_gradient_of_the_images():
    network, returned = network_of(1), []

    def backward(*arguments, **options):
        returned.append(ConvolutionNeuralNetwork.backward(network, *arguments, **options))

    network.backward = backward
    network.train(X, Y, 25, 1, 0.1)
    assert returned == [None]


def test_method_test_returns_the_mean_loss_of_all_images_and_does_not_train():
    network = network_of(1)
    expected = definitions.cross_entropy(network.forward(X), Y)
    loss = network.test(test_x=X.tolist(), test_y=Y.tolist(), batch_size=10)  # lists work, too
    assert type(loss) is float and loss == pytest.approx(expected)
    assert_all_same(arrays_of(network), arrays_of(network_of(1)), 0)


def test_predict_gives_probabilities_a_hundred_images_at_a_time():
    network, x = network_of(1), np.concatenate(10 * [X])
    network.layers[7].w *= 2500  # so large that exp of a float32 logit is inf or 0
    logits = network.forward(x)
    network.layers[0].forward = Mock(wraps=network.layers[0].forward)
    assert_same("predict", network.predict(x=x), definitions.softmax(logits), 1e-4)
    counts = [len(call.args[0]) for call in network.layers[0].forward.call_args_list]
    assert counts == [100, 100, 50]


def test_predict_of_no_images_is_an_error():
    with pytest.raises(ValueError):
        network_of(1).predict(X[:0])


def test_a_first_layer_of_the_series_is_trained():
    network = network_of(1)
    layer = Mock(spec=["k", "forward", "backward", "update"])  # as the series' convolution has
    layer.forward = lambda x: x
    layer.backward = lambda x, last_x_grad: last_x_grad
    network.layers.insert(0, layer)
    network.train(X, Y, 25, 1, 0.1)
    layer.update.assert_called_once_with(0.1)


def test_the_loss_function_may_be_replaced():
    network = network_of(1)
    network.loss_func = Mock(forward=lambda x, y: 7, backward=lambda x, y: np.zeros_like(x))
    assert network.train(X, Y, 10, 1, 0.1) == network.test(X, Y, 10) == 7
    assert_all_same(arrays_of(network), arrays_of(network_of(1)), 0)  # all gradients were 0


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
    (3, [1, 2, 3], np.int64, 3, "int64, expected floats"),
    (3, [1, 2, 3], np.uint8, 3, "uint8, expected floats"),
    (3, [1, 2, 3], float, -1, "batch_size -1"),
])
def test_what_cannot_be_learned_is_refused(count, y, dtype, batch_size, error):
    x = np.zeros((count, 1, 28, 28), dtype)
    with pytest.raises((ValueError, TypeError), match=error):
        network_of(1).train(x, y, batch_size, 1, 0.1)
    with pytest.raises((ValueError, TypeError), match=error):
        network_of(1).test(x, y, batch_size)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_loss_sees_a_single_nan():
    x = X.copy()
    x[1, 0, 20, 20] = np.nan
    with pytest.raises(FloatingPointError, match="nan"):
        network_of(1).train(x, Y, 25, 1, 0.1)


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
], ids=["another shape", "one more", "b0 with the shape of b3"])
def test_a_file_of_another_network_is_refused(tmp_path, change):
    network, path = network_of(13), tmp_path / "digits.npz"
    arrays = {**arrays_of(network_of(14)), **change}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="digits.npz.*expected"):
        network.load(path)
    assert_all_same(arrays_of(network), arrays_of(network_of(13)), 0)
