"""The network: its layers in a row, gradient descent, and what a step costs."""
import contextlib
import gc
import itertools
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import other_layers
import pytest
from exercises import PaddedConvolutionLayer
from helpers import MEMORY, alone, arrays_of, assert_all_same, assert_same, network_of, states

import cnn_numpy
from cnn_numpy import ConvolutionLayer, ConvolutionNeuralNetwork, FlattenLayer, LinearLayer

X = np.random.default_rng(0).random((25, 1, 28, 28), np.float32)
X[:, :, :6] = 0  # so that pooling meets equal pixels
Y = np.arange(25) % 10
X.flags.writeable = Y.flags.writeable = False  # the network must not change them


# The seed


def test_a_seeded_network_is_its_layers_drawn_in_order():
    networks = {seed: network_of(seed) for seed in (1234, 0, 2**32 - 1)}  # share nothing, too
    following = np.random.random()
    for seed, network in networks.items():
        np.random.seed(seed)
        layers = {"0": ConvolutionLayer(1, 4, 5, 5), "3": ConvolutionLayer(4, 16, 3, 3),
                  "7": LinearLayer(400, 10)}
        for name, array in arrays_of(network).items():
            assert_same(name, array, getattr(layers[name[0]], name[2]), 0)
    assert np.random.random() == following  # nothing else has been drawn


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
    with pytest.raises(RuntimeError, match="keepgrad"):
        network.backward(network.forward(X))


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


def test_results_stay_and_other_calls_between_forward_and_backward_change_nothing():
    network, other = network_of(1), network_of(1)
    logits = other.forward(X, keepgrad=True)
    expected = {"logits": logits.copy(), "x_grad": other.backward(last_x_grad=logits),
                "probabilities": other.predict(X), **arrays_of(other, "_grad")}
    results = {"logits": network.forward(X, keepgrad=True), "probabilities": network.predict(X)}
    network.test(X[::-1], Y, 10)
    network.predict(-X)
    assert_all_same(arrays_of(network), arrays_of(other), 0)
    results["x_grad"] = network.backward(results["logits"])
    results.update(arrays_of(network, "_grad"))
    for batch_size in (25, 25, 10, 1):
        network.train(-X, Y, batch_size, 1, 0.1)
        network.predict(-X[:batch_size])
    assert_all_same(results, expected, 0)


@pytest.mark.parametrize("change, error", [
    (np.float16, 2e-3), (np.float32, 1e-6), *((change, 1e-12) for change in MEMORY.values())])
def test_images_of_fewer_bits_or_in_other_memory_give_the_same(change, error):
    network, x = network_of(1), np.float64(X)
    assert_same("logits", network.forward(change(x)), network.forward(x), error)


@pytest.mark.parametrize("dtype, error", [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_the_network_adds_only_a_softmax_and_a_mean_to_its_layers(dtype, error):
    network, y = ConvolutionNeuralNetwork(), np.arange(130) % 10
    network.layers = [FlattenLayer()]
    x = np.random.standard_normal((130, 1, 5, 2)) * 10.0 ** np.arange(-3, 7).reshape(5, 2)
    x = x.astype(dtype)
    logits = network.forward(x=x, keepgrad=True)
    assert_same("logits", logits, x.reshape(130, 10), 0)
    assert_same("x_grad", network.backward(last_x_grad=logits), x, 0)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    for count in (1, 99, 100, 101, 130):
        assert_same("predict", network.predict(x=x[:count]), p[:count], error)
    assert abs(network.predict(x).sum(axis=1) - 1).max() < error
    loss = network.loss_func.forward(logits, y)
    mean = network.test(test_x=x.tolist(), test_y=y.tolist(), batch_size=7)  # lists work, too
    assert type(mean) is float and mean == pytest.approx(loss, rel=error)


# Training, testing, predicting


def train_plainly(layers, x, y, batch_size, lr):
    """Train layers for one epoch of gradient descent; return the mean loss."""
    loss_sum = 0
    for i in range(0, len(x), batch_size):
        inputs, q = [x[i:i + batch_size]], np.eye(10)[y[i:i + batch_size]]
        for layer in layers:
            inputs.append(layer.forward(inputs[-1]))
        logits = inputs.pop()
        log_p = logits - np.logaddexp.reduce(logits, axis=1)[:, np.newaxis]
        loss_sum -= (q * log_p).sum()
        grad = (np.exp(log_p) - q) / len(q)
        for layer in reversed(layers):
            grad = layer.backward(inputs.pop(), grad)
        for layer in layers:
            if hasattr(layer, "update"):
                layer.update(lr)
    return loss_sum / len(x)


def two_networks():
    """Return our network, and the same as it is pasted into a file with other people's layers."""
    names = {**vars(other_layers), "CrossEntropyLoss": cnn_numpy.CrossEntropyLoss}
    network, other = network_of(1), alone("ConvolutionNeuralNetwork", names)()
    for name, array in arrays_of(network).items():
        for each in (network, other):
            setattr(each.layers[int(name[0])], name[2], np.float64(array))
    return network, other


@pytest.mark.parametrize("size, count, epochs, scale", [
    (28, 105, 4, 1), (16, 20, 100, 1), (28, 25, 1, 300)])  # with large gradients for large images
def test_training_is_gradient_descent_in_the_order_given(size, count, epochs, scale):
    network, other = two_networks()
    if size == 16:
        network.layers[7], other.layers[7] = LinearLayer(64, 10), other_layers.LinearLayer(64, 10)
        network.layers[7].w, network.layers[7].b = other.layers[7].w.copy(), np.zeros((1, 10))
    x = scale * np.random.randint(0, 2, (count, 1, size, size)).astype(float)
    y = np.random.randint(0, 10, count)
    parameters = arrays_of(network)  # no copies: train must change them in place
    for epoch in range(epochs):
        batch_size, lr = [(10, 0.5), (100, 0.8), (count, 0.2), (10, 0.3)][epoch % 4]
        lr /= scale**2
        expected = train_plainly(other.layers, x, y, batch_size, lr)
        loss = network.train(train_x=x, train_y=y, batch_size=batch_size, epochs=9 * epoch,
                             lr=lr)
        assert type(loss) is float and loss == pytest.approx(expected, rel=1e-9)
        assert network.layer_inputs == []
        error = 1e-13 if epoch == 0 else 1e-9  # a difference grows from epoch to epoch
        assert_all_same(parameters, arrays_of(other), error)


def test_a_network_pasted_beside_other_layers_trains_and_saves(tmp_path):
    network, other = two_networks()
    assert other.train(X, Y, 10, 1, 0.1) == pytest.approx(network.train(X, Y, 10, 1, 0.1))
    assert other.test(X, Y, 10) == pytest.approx(network.test(X, Y, 10))
    assert_same("predict", other.predict(X), network.predict(X))
    other.save(tmp_path / "digits.npz")
    other.train(X, Y, 10, 1, 0.1)
    other.load(tmp_path / "digits.npz")
    assert_all_same(arrays_of(other), arrays_of(network))


def test_a_network_of_a_dozen_layers_trains_saves_and_loads_all_of_them(tmp_path):
    network, loaded, others = ConvolutionNeuralNetwork(), ConvolutionNeuralNetwork(), []
    for each in (network, loaded):
        each.layers = [LinearLayer(10, 10) for _ in range(13)]
        for layer in each.layers:
            layer.w = np.float64(2 * layer.w).T  # files keep both types, and load fills a view
    for layer in network.layers:
        others.append(other_layers.LinearLayer(10, 10))
        others[-1].w, others[-1].b = layer.w, layer.b
    x = np.random.random((25, 10))
    train_plainly(others, x, Y, 25, 0.1)
    network.train(x, Y, 25, 1, 0.1)
    network.save(tmp_path / "digits")
    loaded.load(tmp_path / "digits")
    with np.load(tmp_path / "digits") as file:
        assert list(file) == [f"{number}.{name}" for number in range(13) for name in "wb"]
        for number, layer in enumerate(network.layers):
            for name in "wb":
                array, saved = getattr(layer, name), file[f"{number}.{name}"]
                assert_same(f"{number}.{name}", array, getattr(others[number], name), 1e-6)
                assert_same("saved", saved, array, 0)
                assert saved.dtype == array.dtype
                assert_same("loaded", getattr(loaded.layers[number], name), array, 0)


@pytest.mark.parametrize("logit", [1, 5, 10, 20])  # the last one makes losses of 2e-8
def test_small_losses_teach_as_large_ones(logit):
    network, other = ConvolutionNeuralNetwork(), other_layers.LinearLayer(10, 10)
    network.layers = [LinearLayer(10, 10)]
    other.w, other.b = logit * np.eye(10), np.zeros((1, 10))
    network.layers[0].w, network.layers[0].b = other.w.copy(), other.b.copy()
    train_plainly([other], np.eye(10), Y[:10], 5, np.exp(logit))
    network.train(np.eye(10), Y[:10], 5, 1, np.exp(logit))
    assert_same("w", network.layers[0].w, other.w, 1e-6)


def test_any_count_of_images_and_any_batch_size_give_the_mean():
    network = ConvolutionNeuralNetwork()
    network.layers = [FlattenLayer(), LinearLayer(784, 10)]
    losses = [network.test(X[n:n + 1], Y[n:n + 1], 1) for n in range(12)]
    for count, batch_size in itertools.product(range(1, 13), range(1, 14)):
        mean = pytest.approx(np.mean(losses[:count]), rel=1e-5)
        assert network.test(X[:count], Y[:count], batch_size) == mean
        assert network.train(X[:count], Y[:count], batch_size, 1, lr=0) == mean


def test_predict_of_no_images_is_an_error():
    with pytest.raises(ValueError):
        network_of(1).predict(X[:0])


def test_the_loss_function_may_be_replaced():
    network = network_of(1)
    network.loss_func = Mock(forward=lambda x, y: 7, backward=lambda x, y: np.zeros_like(x))
    assert network.train(X, Y, 10, 1, 0.1) == network.test(X, Y, 10) == 7
    assert_all_same(arrays_of(network), arrays_of(network_of(1)), 0)  # all gradients were 0


def test_other_layers_learn_other_images_and_classes():
    network = ConvolutionNeuralNetwork()
    network.layers = [ConvolutionLayer(3, 1, 5, 3), FlattenLayer(), LinearLayer(16 * 8, 26)]
    x, y = np.random.random((52, 3, 20, 10)), np.arange(52) % 26
    losses = [network.train(x, y, 26, 1, 0.01) for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
    assert network.predict(x).shape == (52, 26)


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


# need_x_grad


def test_without_need_x_grad_backward_returns_none_and_training_is_the_same():
    network, other = network_of(1), network_of(1)
    network.layers[0].need_x_grad = False
    assert network.backward(network.forward(X, keepgrad=True)) is None
    assert network.train(X, Y, 10, 1, 0.1) == other.train(X, Y, 10, 1, 0.1)
    assert_all_same(arrays_of(network), arrays_of(other), 0)


def test_train_leaves_need_x_grad_to_its_user_so_that_a_padded_layer_can_be_the_first():
    network = network_of(1)
    network.layers[0] = PaddedConvolutionLayer(1, 4, 5, 5, p=2)  # which uses the gradient of x
    network.layers[7] = LinearLayer(16 * 6 * 6, 10)
    losses = [network.train(X, Y, 25, 1, 0.1) for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
    logits = network.forward(X, keepgrad=True)
    assert network.backward(logits).shape == X.shape


# What a step costs


def test_each_image_passes_a_first_layer_of_the_series_once():
    network, layer = network_of(1), Mock(spec=["forward", "backward", "update"])
    layer.forward.side_effect = lambda x: x
    layer.backward.side_effect = lambda x, last_x_grad: last_x_grad
    network.layers.insert(0, layer)
    network.train(X, Y, 10, 1, 0.1)
    network.test(X, Y, 10)
    network.predict(X)
    counts = [len(call.args[0]) for call in layer.forward.call_args_list]
    assert counts == [10, 10, 5, 10, 10, 5, 25]
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


CALLS = {
    "train": lambda network, x, y, batch_size: network.train(x, y, batch_size, 1, 0.1),
    "test": lambda network, x, y, batch_size: network.test(x, y, batch_size),
    "predict": lambda network, x, y, batch_size: network.predict(x[:batch_size]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_5_and_100_images_run_the_same_number_of_lines(call):  # only a count shows a loop
    network, x, y = network_of(1), np.concatenate(4 * [X]), np.concatenate(4 * [Y])
    lines = lines_run(lambda: call(network, x, y, 100))
    assert len(lines) == len(lines_run(lambda: call(network, x[:5], y[:5], 5)))
    assert lines.count(cnn_numpy.__file__) < 1500  # a loop over places of the image runs more


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_images_are_not_copied(call):
    network, x, y = network_of(1), np.ones((4000, 1, 28, 28), np.float32), np.arange(4000) % 10
    network.layers = [FlattenLayer(), LinearLayer(784, 10)]
    tracemalloc.start()
    call(network, x, y, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes / 4


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


def changes_of_calls():
    """Call each method of the network; return what belongs to the process and has changed."""
    before, network, changes = states(), network_of(1), []
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
        lambda: network.layers[0].backward(X, X),
        lambda: network.train(X[:0], Y, 10, 1, 0.1),
        lambda: network.test(X, Y + 1, 10),
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

    network, faults = network_of(1), []
    x, y = np.random.random((1000, 1, 28, 28)).astype(np.float32), np.zeros(1000, int)
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
    program += "print([test.changes_of_calls(), test.page_faults_of_10_steps()])"
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
