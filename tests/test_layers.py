"""Every layer, the loss and the network against plain references and finite differences."""
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import correlate
from scipy.special import log_softmax

sys.path.insert(0, str(Path(__file__).parents[1]))
from cnn_numpy import (  # noqa: E402
    ConvolutionLayer,
    ConvolutionNeuralNetwork,
    CrossEntropyLoss,
    FlattenLayer,
    LinearLayer,
    MaxPoolingLayer,
    NetworkLayer,
    ParamLayer,
    ReLULayer,
)

rng = np.random.default_rng(0)


def in_float64(layer):
    """Give a layer parameters in float64, and return it."""
    for name in ("k", "w", "b"):
        if hasattr(layer, name):
            setattr(layer, name, getattr(layer, name).astype(np.float64))
    return layer


def slope(f, array, step=1e-5):
    """Return the derivative of f() with respect to each element of array, by differences."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = f()
        array[index] = value - step
        gradient[index] = (above - f()) / (2 * step)
        array[index] = value
    return gradient


def assert_close(actual, expected):
    """Compare two gradients by the error relative to the largest element."""
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < 1e-7 * max(1, np.abs(expected).max())


LAYERS = [
    (lambda: MaxPoolingLayer(2, 3), (2, 3, 4, 6)),
    (lambda: ReLULayer(), (2, 3, 4)),
    (lambda: FlattenLayer(), (2, 3, 4, 5)),
    (lambda: FlattenLayer(0, 1), (2, 3, 4)),
    (lambda: LinearLayer(4, 3), (5, 4)),
    (lambda: ConvolutionLayer(1, 1, 1, 1), (1, 1, 1, 1)),
    (lambda: ConvolutionLayer(1, 2, 3, 2), (3, 1, 5, 6)),
    (lambda: ConvolutionLayer(2, 3, 2, 3), (2, 2, 5, 4)),
    (lambda: ConvolutionLayer(3, 2, 4, 5), (1, 3, 4, 5)),
]


@pytest.mark.parametrize("make, shape", LAYERS)
def test_gradients_are_the_slopes(make, shape):
    layer = in_float64(make())
    assert isinstance(layer, NetworkLayer)
    x = rng.permutation(np.prod(shape)).reshape(shape) / np.prod(shape) - 0.4  # no ties, no zeros
    last_x_grad = rng.standard_normal(layer.forward(x).shape)

    def loss():
        return np.sum(layer.forward(x) * last_x_grad)

    x_grad = layer.backward(x, last_x_grad)
    assert x_grad.dtype == np.float64
    assert_close(x_grad, slope(loss, x))
    for name in ("k", "w", "b"):
        if hasattr(layer, name):
            assert isinstance(layer, ParamLayer)
            gradient = getattr(layer, name + "_grad")
            assert_close(gradient, slope(loss, getattr(layer, name)))
            layer.backward(x, last_x_grad)
            np.testing.assert_array_equal(getattr(layer, name + "_grad"), gradient)


@pytest.mark.parametrize("make, shape", LAYERS)
def test_float32_stays_and_any_memory_order_gives_the_same(make, shape):
    layer = make()
    x = rng.standard_normal(shape, dtype=np.float32)
    y = layer.forward(x)
    last_x_grad = rng.standard_normal(y.shape, dtype=np.float32)
    x_grad = layer.backward(x, last_x_grad)
    assert y.dtype == x_grad.dtype == np.float32
    strided = np.zeros((*shape[:-1], 2 * shape[-1]), np.float32)[..., ::2]
    strided[...] = x
    for same in (np.asfortranarray(x), np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0), strided):
        same.flags.writeable = False
        np.testing.assert_allclose(layer.forward(same), y, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.backward(same, np.asfortranarray(last_x_grad)), x_grad,
                                   rtol=1e-5, atol=1e-6)
    if isinstance(layer, ParamLayer):
        for name in ("k", "w", "b"):
            if hasattr(layer, name):
                parameter = getattr(layer, name)
                expected = parameter - np.float32(0.5) * getattr(layer, name + "_grad")
                layer.update(0.5)
                assert getattr(layer, name) is parameter and parameter.dtype == np.float32
                np.testing.assert_allclose(parameter, expected, rtol=1e-6)
                layer.update(-0.5)


def test_convolution_is_scipys():
    layer = in_float64(ConvolutionLayer(3, 2, 4, 2))
    assert layer.k.shape == (2, 3, 4, 2) and layer.b.shape == (1, 2, 1, 1)
    x = rng.standard_normal((2, 3, 7, 5))
    y = layer.forward(x)
    assert y.shape == (2, 2, 4, 4)
    for n in range(2):
        for o in range(2):
            expected = correlate(x[n], layer.k[o], "valid")[0] + layer.b[0, o]
            np.testing.assert_allclose(y[n, o], expected)


def test_pooling_by_hand():
    layer = MaxPoolingLayer(2, 2)
    x = np.array([[[[0, 0, 1, 2], [0, 0, 2, 0], [5, 7, 3, 1], [7, 6, 1, 3]]]], np.float32)
    np.testing.assert_array_equal(layer.forward(x), [[[[0, 2], [7, 3]]]])
    x_grad = layer.backward(x, np.array([[[[1, 2], [3, 4]]]], np.float32))
    np.testing.assert_array_equal(  # of equal elements the first in row order
        x_grad, [[[[1, 0, 0, 2], [0, 0, 0, 0], [0, 3, 4, 0], [0, 0, 0, 0]]]])


def test_relu_has_no_slope_at_zero():
    np.testing.assert_array_equal(ReLULayer().backward(np.array([-1., 0, 1]), np.ones(3)),
                                  [0, 0, 1])


def test_linear_by_hand():
    layer = LinearLayer(2, 3)
    assert layer.w.shape == (2, 3) and layer.b.shape == (1, 3)
    layer.w, layer.b = np.arange(6.).reshape(2, 3), np.array([[1., 2, 3]])
    np.testing.assert_array_equal(layer.forward(np.array([[1., 10]])), [[31, 43, 55]])


@pytest.mark.parametrize("layer, name, fan_in", [
    (LinearLayer(400, 10), "w", 400), (ConvolutionLayer(4, 50, 3, 3), "k", 36)])
def test_first_parameters_fill_their_range(layer, name, fan_in):
    for values in (getattr(layer, name), layer.b):
        assert values.dtype == np.float32
        assert np.abs(values).max() <= np.float32(fan_in ** -0.5)
    values = getattr(layer, name)
    assert abs(values.std() * (3 * fan_in) ** 0.5 - 1) < 0.05 and values.min() < 0 < values.max()


def test_loss_is_scipys_and_never_overflows():
    loss_func = CrossEntropyLoss()
    x, y = rng.standard_normal((6, 4)), np.array([0, 3, 1, 1, 2, 0])
    loss = loss_func.forward(x, y)
    assert type(loss) is float
    assert loss == pytest.approx(-log_softmax(x, axis=1)[np.arange(6), y].mean(), rel=1e-12)
    assert_close(loss_func.backward(x, y), slope(lambda: loss_func.forward(x, y), x))
    assert loss_func.forward(np.zeros((3, 10)), y[:3]) == pytest.approx(np.log(10))
    far = np.array([[10000., -10000.]], np.float32)
    assert loss_func.forward(far, np.array([1])) == 20000
    gradient = loss_func.backward(far, np.array([1]))
    np.testing.assert_array_equal(gradient, [[1, -1]])
    assert gradient.dtype == np.float32


def test_network_gradients_are_the_slopes():
    np.random.seed(3)
    network = ConvolutionNeuralNetwork()
    for layer in network.layers:
        in_float64(layer)
    x, y = rng.random((2, 1, 28, 28)), np.array([3, 8])

    def loss():
        return network.loss_func.forward(network.forward(x), y)

    logits = network.forward(x, keepgrad=True)
    assert [a.shape for a in network.layer_inputs] == [
        (2, 1, 28, 28), (2, 4, 24, 24), (2, 4, 12, 12), (2, 4, 12, 12),
        (2, 16, 10, 10), (2, 16, 5, 5), (2, 16, 5, 5), (2, 400)]
    x_grad = network.backward(network.loss_func.backward(logits, y))
    rows = x[:, :, 9:11]
    assert_close(x_grad[:, :, 9:11], slope(loss, rows, 1e-6))
    count = 0
    for layer in network.layers:
        if isinstance(layer, ParamLayer):
            for name in ("k", "w", "b"):
                if hasattr(layer, name):
                    parameter, gradient = getattr(layer, name), getattr(layer, name + "_grad")
                    count += parameter.size
                    some = (slice(None),) * (parameter.ndim - 1) + (slice(0, 1),)
                    assert_close(gradient[some], slope(loss, parameter[some], 1e-6))
    assert count == 4706


def test_training_is_gradient_descent_on_the_mean_loss():
    np.random.seed(4)
    network = ConvolutionNeuralNetwork()
    np.random.seed(4)
    other = ConvolutionNeuralNetwork()
    x, y = rng.random((25, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, 25)
    losses = []
    for batch in (slice(0, 10), slice(10, 20), slice(20, 25)):
        logits = other.forward(x[batch], keepgrad=True)
        losses += [other.loss_func.forward(logits, y[batch])] * len(logits)
        other.backward(other.loss_func.backward(logits, y[batch]))
        other.update(0.1)
    assert network.train(x, y, 10, 1, 0.1) == pytest.approx(np.mean(losses), rel=1e-6)
    assert network.layer_inputs == []
    for layer, same in zip(network.layers, other.layers):
        for name in ("k", "w", "b"):
            if hasattr(layer, name):
                np.testing.assert_array_equal(getattr(layer, name), getattr(same, name))
                assert getattr(layer, name).dtype == np.float32
    logits = network.forward(x)
    assert network.test(x, y, 10) == pytest.approx(network.loss_func.forward(logits, y), rel=1e-6)
    many = np.concatenate([x] * 9)
    expected = np.exp(log_softmax(network.forward(many), axis=1))
    probabilities = network.predict(many)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)


def test_layers_with_forward_and_backward_alone_work_in_the_network():
    class Plain:
        def __init__(self, layer):
            self.forward, self.backward = layer.forward, layer.backward

    np.random.seed(5)
    network = ConvolutionNeuralNetwork()
    x, y = rng.random((10, 1, 28, 28), dtype=np.float32), rng.integers(0, 10, 10)
    network.layers = [Plain(layer) for layer in network.layers]
    assert network.train(x, y, 5, 1, 0.1) == pytest.approx(network.test(x, y, 5), rel=1e-5)


X4 = np.zeros((2, 3, 4, 4), np.float32)
IMAGES = np.zeros((2, 1, 28, 28), np.float32)
LABELS = np.array([1, 2])
LOGITS = np.zeros((2, 3))


def train(x=IMAGES, y=LABELS, batch_size=1, lr=0.1):
    return ConvolutionNeuralNetwork().train(x, y, batch_size, 1, lr)


@pytest.mark.parametrize("call, error, message", [
    (lambda: MaxPoolingLayer(0, 2), ValueError, "k1, k2 = 0, 2"),
    (lambda: MaxPoolingLayer(2, 0), ValueError, "k1, k2 = 2, 0"),
    (lambda: LinearLayer(0, 1), ValueError, "d1, d2 = 0, 1"),
    (lambda: ConvolutionLayer(1, 1, 1, 0), ValueError, "c1, c2, k1, k2 = 1, 1, 1, 0"),
    (lambda: MaxPoolingLayer(2, 2).forward(X4[0]), ValueError, r"x has shape \(3, 4, 4\)"),
    (lambda: MaxPoolingLayer(3, 2).forward(X4), ValueError, "multiple of 3"),
    (lambda: MaxPoolingLayer(2, 3).forward(X4), ValueError, "multiple of 3"),
    (lambda: MaxPoolingLayer(2, 2).backward(X4, X4), ValueError, "last_x_grad has shape"),
    (lambda: ReLULayer().backward(X4, X4[:1]), ValueError, "last_x_grad has shape"),
    (lambda: FlattenLayer(1, 4).forward(X4), ValueError, "axes 1 to 4"),
    (lambda: FlattenLayer(2, 1).forward(X4), ValueError, "axes 2 to 1"),
    (lambda: FlattenLayer().backward(X4, X4), ValueError, "last_x_grad has shape"),
    (lambda: LinearLayer(4, 1).forward(X4), ValueError, r"expected \(B, 4\)"),
    (lambda: LinearLayer(4, 1).forward(X4[0, 0, :, :3]), ValueError, r"expected \(B, 4\)"),
    (lambda: LinearLayer(4, 1).backward(X4[0, 0], X4[0, 0]), ValueError, "last_x_grad has shape"),
    (lambda: ConvolutionLayer(3, 1, 2, 2).forward(X4[0]), ValueError, r"expected \(B, 3, H, W\)"),
    (lambda: ConvolutionLayer(2, 1, 2, 2).forward(X4), ValueError, r"expected \(B, 2, H, W\)"),
    (lambda: ConvolutionLayer(3, 1, 5, 2).forward(X4), ValueError, "H at least 5"),
    (lambda: ConvolutionLayer(3, 1, 2, 5).forward(X4), ValueError, "W at least 5"),
    (lambda: ConvolutionLayer(3, 1, 2, 2).backward(X4, X4), ValueError, "last_x_grad has shape"),
    (lambda: CrossEntropyLoss().forward(LOGITS, np.array([0, -1])), ValueError, "labels from -1"),
    (lambda: CrossEntropyLoss().backward(LOGITS, np.array([0, 3])), ValueError, "expected 0 to 2"),
    (lambda: CrossEntropyLoss().forward(LOGITS, np.zeros(2)), TypeError, "y has dtype float64"),
    (lambda: CrossEntropyLoss().forward(LOGITS, LABELS[:1]), ValueError, r"y has shape \(1,\)"),
    (lambda: CrossEntropyLoss().forward(LOGITS[:0], LABELS[:0]), ValueError, "x has shape"),
    (lambda: ConvolutionNeuralNetwork().forward(IMAGES[:0]), ValueError, "B at least 1"),
    (lambda: ConvolutionNeuralNetwork().predict(IMAGES[:0]), ValueError, "B at least 1"),
    (lambda: ConvolutionNeuralNetwork().predict(IMAGES[..., 1:]), ValueError, r"1, 28, 27\)"),
    (lambda: ConvolutionNeuralNetwork().predict(IMAGES.astype(np.uint8)), TypeError, "uint8"),
    (lambda: ConvolutionNeuralNetwork().backward(np.zeros((2, 10))), RuntimeError, "keepgrad"),
    (lambda: train(x=IMAGES[:0], y=LABELS[:0]), ValueError, "B at least 1"),
    (lambda: train(y=LABELS[:1]), ValueError, "1 labels for 2 images"),
    (lambda: train(batch_size=0), ValueError, "batch_size = 0"),
    (lambda: train(batch_size=1.5), ValueError, "batch_size = 1.5"),
    (lambda: train(lr=0), ValueError, "lr = 0"),
    (lambda: train(lr=float("nan")), ValueError, "lr = nan"),
    (lambda: train(lr=float("inf")), ValueError, "lr = inf"),
    (lambda: train(lr="0.1"), ValueError, "lr = '0.1'"),
    (lambda: train(x=IMAGES + 1, lr=1e38), FloatingPointError,
     "batch 2 of 2 is .*smaller learning rate"),
    (lambda: ConvolutionNeuralNetwork().test(IMAGES, LABELS, 0), ValueError, "batch_size = 0"),
])
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
