"""The network: its layers in a row, gradient descent, and what a step costs."""
import contextlib
import copy
import gc
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from unittest.mock import Mock

import definitions
import numpy as np
import pytest
from benchmark import PyTorchNetwork
from exercises import PaddedConvolutionLayer
from helpers import MEMORY, alone, arrays_of, assert_all_same, assert_same, network_of, states

import cnn_numpy
from cnn_numpy import ConvolutionLayer, ConvolutionNeuralNetwork, FlattenLayer, LinearLayer

X = np.random.default_rng(0).random((25, 1, 28, 28), np.float32)
X[:, :, :6] = 0  # so that pooling meets equal pixels
Y = np.arange(25) % 10
X.flags.writeable = Y.flags.writeable = False  # the network must not change them


# The seed


def test_a_seed_draws_the_weights_and_then_the_bias_of_each_layer_in_order():
    for seed in (1234, 0, 2**32 - 1):
        network = network_of(seed)
        network.layers.append(ConvolutionLayer(2, 3, 1, 5))
        following = np.random.random()
        np.random.seed(seed)
        for array, m in zip(arrays_of(network).values(), [25, 25, 36, 36, 400, 400, 10, 10]):
            bound = m ** -0.5
            drawn = np.random.uniform(-bound, bound, array.shape)
            assert_same("a parameter", array, drawn.astype(np.float32), 0)
        assert np.random.random() == following  # nothing else has been drawn


# Forward and backward


def test_the_input_of_each_layer_is_kept_only_when_asked_and_until_the_next_is():
    network = network_of(1)
    network.forward(X[:4], keepgrad=True)
    older = network.layer_inputs
    network.forward(X[:5], keepgrad=True)  # begins a new list
    network.forward(X[:2])  # leaves this list alone
    network.backward(np.zeros((5, 10)))  # leaves it alone, too
    assert [x.shape for x in network.layer_inputs] == [
        (5, 1, 28, 28), (5, 4, 24, 24), (5, 4, 12, 12), (5, 4, 12, 12), (5, 16, 10, 10),
        (5, 16, 5, 5), (5, 16, 5, 5), (5, 400)]
    assert [len(x) for x in older] == 8 * [4]


def test_backward_without_a_kept_forward_is_an_error():
    network = network_of(1)
    with pytest.raises(RuntimeError, match="keepgrad"):
        network.backward(network.forward(X))


def test_results_stay_and_other_calls_between_forward_and_backward_change_nothing():
    network, other = network_of(1), network_of(1)
    results = {"logits": network.forward(X, keepgrad=True), "probabilities": network.predict(X)}
    copies = copy.deepcopy(results)
    network.test(-X, Y, 10)
    network.predict(-X)
    x_grad = network.backward(last_x_grad=results["logits"])
    assert_same("x_grad", x_grad, other.backward(other.forward(X, keepgrad=True)), 0)
    assert_all_same(arrays_of(network), arrays_of(other), 0)
    network.train(-X, Y, 25, 1, 0.1)
    assert_all_same(results, copies, 0)


@pytest.mark.parametrize("change, error", [
    (np.float16, 2e-3), (np.float32, 1e-6), *((change, 1e-12) for change in MEMORY.values())])
def test_images_of_fewer_bits_or_in_other_memory_give_the_same(change, error):
    network, x = network_of(1), np.float64(X)
    assert_same("logits", network.forward(change(x)), network.forward(x), error)


@pytest.mark.parametrize("dtype, error", [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_the_network_adds_only_a_softmax_and_a_mean_to_its_layers(dtype, error):
    network, y = ConvolutionNeuralNetwork(), np.arange(127) % 10
    network.layers = [FlattenLayer()]
    x = np.random.standard_normal((127, 1, 5, 2)) * 10.0 ** np.arange(-3, 7).reshape(5, 2)
    x = x.astype(dtype)
    logits = network.forward(x=x, keepgrad=True)
    assert_same("logits", logits, x.reshape(127, 10), 0)
    assert_same("x_grad", network.backward(last_x_grad=logits), x, 0)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    for count in (1, 99, 100, 101, 127):
        assert_same("predict", network.predict(x=x[:count]), p[:count], error)
    assert network.loss_func.backward(logits, y).dtype == network.predict(x).dtype == dtype
    loss = network.loss_func.forward(logits, y)
    mean = network.test(test_x=x.tolist(), test_y=y.tolist(), batch_size=7)  # lists work, too
    assert type(mean) is float and mean == pytest.approx(loss, rel=error)
    x[7] = np.nan
    assert np.isnan(network.predict(x)[7]).all()


# Training, testing, predicting


def train_plainly(layers, x, y, batch_size, lr):
    """Train layers for one epoch of gradient descent; return the mean loss."""
    loss_func, losses = cnn_numpy.CrossEntropyLoss(), []
    for i in range(0, len(x), batch_size):
        inputs, labels = [x[i:i + batch_size]], y[i:i + batch_size]
        for layer in layers:
            inputs.append(layer.forward(inputs[-1]))
        logits = inputs.pop()
        losses += len(labels) * [loss_func.forward(logits, labels)]
        grad = loss_func.backward(logits, labels)
        for layer in reversed(layers):
            grad = layer.backward(inputs.pop(), grad)
        for layer in layers:
            if hasattr(layer, "update"):
                layer.update(lr)
    return np.mean(losses)


@pytest.mark.parametrize("epochs, scale, bias, y", [
    (100, 1, 0, Y[:11]),
    (1, 300, 0, Y[:11]),  # large images make large gradients
    (1, 1, 20, np.zeros(11, int)),  # a large bias of the right digit makes losses of 1e-8
], ids=["long", "large", "small"])
def test_training_is_gradient_descent_in_the_order_given(epochs, scale, bias, y):
    network = network_of(1)
    network.layers[7].b[0, 0] += bias
    for name, array in arrays_of(network).items():
        setattr(network.layers[int(name[0])], name[2], np.float64(array))
    x = scale * np.random.randint(0, 2, (11, 1, 28, 28)).astype(float)
    other = copy.deepcopy(network)
    parameters = arrays_of(network)  # no copies: train must change them in place
    for epoch in range(epochs):
        batch_size, lr = [(5, 0.5), (100, 0.8), (11, 0.2), (5, 0.3)][epoch % 4]
        lr /= scale**2
        expected = train_plainly(other.layers, x, y, batch_size, lr)
        loss = network.train(train_x=x, train_y=y, batch_size=batch_size, epochs=9 * epoch, lr=lr)
        assert type(loss) is float and loss == pytest.approx(expected, rel=1e-9, abs=1e-14)
        assert network.layer_inputs == []
        error = 1e-13 if epoch == 0 else 1e-9  # a difference grows from epoch to epoch
        assert_all_same(parameters, arrays_of(other), error)


class OtherConvolutionLayer:
    """Another person's layer, with the signatures of the articles."""

    def __init__(self, c1, c2, k1, k2):
        self.k, self.b = np.random.uniform(-0.2, 0.2, (c2, c1, k1, k2)), np.zeros((1, c2, 1, 1))

    def forward(self, x):
        return definitions.convolution(x, self.k, self.b)

    def backward(self, x, last_x_grad):
        grads = definitions.convolution_backward(x, self.k, self.b, last_x_grad)
        self.k_grad, self.b_grad = grads["k"], grads["b"]
        return grads["x"]

    def update(self, lr):
        self.k, self.b = self.k - lr * self.k_grad, self.b - lr * self.b_grad


def test_a_network_pasted_beside_other_layers_trains_saves_and_loads(tmp_path):
    network = network_of(1)
    names = {type(layer).__name__: type(layer) for layer in [*network.layers, network.loss_func]}
    names["ConvolutionLayer"] = OtherConvolutionLayer
    pasted = alone("ConvolutionNeuralNetwork", names)()
    pasted.save(tmp_path / "digits.npz")
    network.load(tmp_path / "digits.npz")
    x, y = np.float64(X[:2]), Y[:2]  # the second loss shows the step of the first
    assert pasted.train(x, y, 1, 1, 0.1) == pytest.approx(network.train(x, y, 1, 1, 0.1))
    pasted.load(tmp_path / "digits.npz")
    assert pasted.layers[0].k.any()


def test_a_network_of_a_dozen_layers_trains_saves_and_loads_all_of_them(tmp_path):
    network, loaded = ConvolutionNeuralNetwork(), ConvolutionNeuralNetwork()
    for each in (network, loaded):
        each.layers = [LinearLayer(10, 10) for _ in range(13)]
        for layer in each.layers:
            layer.w = np.float64(2 * layer.w).T  # files keep both types, and load fills a view
    other, x = copy.deepcopy(network), np.random.random((25, 10))
    train_plainly(other.layers, x, Y, 25, 0.1)
    network.train(x, Y, 25, 1, 0.1)
    assert_all_same(arrays_of(network), arrays_of(other), 1e-6)
    network.save(tmp_path / "digits")
    loaded.load(tmp_path / "digits")
    assert_all_same(arrays_of(loaded), arrays_of(network), 0)


def test_pytorch_learns_the_same():
    pytest.importorskip("torch")
    network, other = network_of(1), PyTorchNetwork("contiguous_format")
    for array, tensor in zip(arrays_of(network).values(), other.layers.parameters()):
        theirs = tensor.detach().numpy()
        array[...] = theirs.T if theirs.ndim == 2 else theirs.reshape(array.shape)
    for _ in range(5):
        loss = other.train(X.copy(), Y.copy(), 10, 1, 0.1)  # PyTorch wants to write
        assert network.train(X, Y, 10, 1, 0.1) == pytest.approx(loss, rel=1e-4)


def test_the_loss_function_may_be_replaced():
    network = network_of(1)
    network.loss_func = Mock(forward=lambda x, y: 7, backward=lambda x, y: np.zeros_like(x))
    assert network.train(X, Y, 10, 1, 0.1) == network.test(X, Y, 10) == 7
    assert_all_same(arrays_of(network), arrays_of(network_of(1)), 0)  # all gradients were 0


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


# need_x_grad


def test_without_need_x_grad_backward_returns_none_and_training_is_the_same():
    network, other = network_of(1), network_of(1)
    network.layers[0].need_x_grad = False
    assert network.train(X, Y, 10, 1, 0.1) == other.train(X, Y, 10, 1, 0.1)
    assert_all_same(arrays_of(network), arrays_of(other), 0)
    logits = network.forward(X, keepgrad=True)
    lines = lines_run(lambda: network.backward(logits))
    assert network.backward(logits) is None
    network.layers[0].need_x_grad = True
    assert network.backward(logits).shape == X.shape
    assert len(lines) < len(lines_run(lambda: network.backward(logits)))  # so it takes less time


def test_train_leaves_need_x_grad_to_its_user_so_that_a_padded_layer_can_be_the_first():
    network = network_of(1)
    network.layers[0] = PaddedConvolutionLayer(1, 4, 5, 5, p=2)  # which uses the gradient of x
    network.layers[7] = LinearLayer(16 * 6 * 6, 10)
    network.train(X, Y, 25, 1, 0.1)
    logits = network.forward(X, keepgrad=True)
    assert network.backward(logits).shape == X.shape


# What a step costs


def test_each_image_passes_a_first_layer_of_the_series_once_and_is_not_copied():
    network, layer = network_of(1), Mock(spec=["forward", "backward", "update"])
    layer.forward.side_effect = lambda x: x
    layer.backward.side_effect = lambda x, last_x_grad: last_x_grad
    network.layers.insert(0, layer)
    network.train(X, Y, 10, 1, 0.1)
    network.test(X, Y, 10)
    many = np.zeros((3000, 1, 28, 28), np.float32)
    network.predict(many)
    batches = [call.args[0] for call in layer.forward.call_args_list]
    counts = [len(x) for x in batches]
    assert counts[:6] == [10, 10, 5, 10, 10, 5]
    assert sum(counts[6:]) == 3000 and max(counts) <= 1000  # all together would take gigabytes
    assert all(np.shares_memory(x, X) or np.shares_memory(x, many) for x in batches)
    assert (layer.backward.call_count, layer.update.call_count) == (3, 3)


def lines_run(call):
    """Return for each line of Python that a call runs, in which file it stands."""
    files = []

    def trace(frame, event, argument):  # it returns itself, and so Python calls it for each line
        files.append(frame.f_code.co_filename)
        return trace

    call()  # imports what it needs
    gc.disable()  # it could run lines, too
    sys.settrace(trace)
    call()
    sys.settrace(None)
    gc.enable()
    return files


@pytest.mark.parametrize("call", [
    lambda network, x, y: network.train(x, y, 100, 1, 0.1),
    lambda network, x, y: network.test(x, y, 100),
    lambda network, x, y: network.predict(x),
], ids=["train", "test", "predict"])
def test_5_and_100_images_run_the_same_number_of_lines(call):  # only a count shows a loop
    network, x, y = network_of(1), np.concatenate(4 * [X]), np.concatenate(4 * [Y])
    lines = lines_run(lambda: call(network, x, y))
    assert len(lines) == len(lines_run(lambda: call(network, x[:5], y[:5])))
    assert lines.count(cnn_numpy.__file__) < 1500  # a loop over places of the image runs more


def test_nothing_is_held_after_many_batch_sizes():
    network, held = network_of(1), []
    x, y = np.concatenate(4 * [X]), np.concatenate(4 * [Y])
    tracemalloc.start()
    for count in range(4, 101, 4):
        network.train(x[:count], y[:count], 100, 1, 0.1)
        network.predict(x[:count])
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[-1] - held[0] < 30000  # the logits of all steps are larger


# In a process of its own, in which no earlier test has changed anything


def changes_of_calls(before):
    """Call each method of the network; return what belongs to the process and has changed."""
    network, changes = network_of(1), []
    for call in [
        lambda: network.forward(X, keepgrad=True),
        lambda: network.backward(np.ones((25, 10))),
        lambda: network.update(lr=0.1),
        lambda: network.train(X, Y, 10, 1, 0.1),
        lambda: network.test(X, Y, 10),
        lambda: network.predict(X),
        lambda: network.save("digits.npz"),
        lambda: network.load("digits.npz"),
        lambda: network.load("nowhere"),  # from here on, each call is refused
        lambda: cnn_numpy.load_dataset("nowhere"),
        lambda: network.train(X[:0], Y, 10, 1, 0.1),
        lambda: network.loss_func.forward(np.float32([[0, -np.inf]]), [1]),
    ]:
        with contextlib.suppress(ValueError, OSError, FloatingPointError):
            call()
        after = states()
        changes += [name for name in before if before[name] != after[name]]
        before = after
    return changes


def page_faults_of_10_steps():
    """Return how many pages of new memory a second training takes."""
    if sys.platform != "linux":
        return 0  # other systems count differently
    import resource

    network, faults = ConvolutionNeuralNetwork(), []
    x, y = np.random.default_rng(0).random((1000, 1, 28, 28), np.float32), np.zeros(1000, int)
    for _ in range(2):
        network.train(x, y, 100, 1, 0.1)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return faults[1] - faults[0]


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """Return what both functions return in a process that prints nothing else, and its files."""
    folder = tmp_path_factory.mktemp("process")
    program = f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]\n"
    program += "import conftest, test_network as test\n"
    program += "before = test.states()\n"
    program += "page_faults = test.page_faults_of_10_steps()\n"  # before large blocks are freed
    program += "print([test.changes_of_calls(before), page_faults])"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}  # so that setting 1 is a change
    text = subprocess.check_output([sys.executable, "-c", program], cwd=folder, env=environment,
                                   stderr=subprocess.STDOUT)
    return [*eval(text), os.listdir(folder)]


def test_no_call_prints_or_changes_what_belongs_to_the_process(process):
    changes, _, files = process
    assert changes == ["NumPy's random numbers"]  # of which the network has been made
    assert files == ["digits.npz"]


def test_a_step_takes_almost_no_new_memory(process):
    _, page_faults, _ = process
    assert page_faults <= 200  # new memory in each step makes 10,000
