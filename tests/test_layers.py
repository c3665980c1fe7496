"""What every layer is: its definition in loops, its gradients as slopes, and what SciPy says.

The references are written to be read, one number at a time. Everything is float64 here, so that a
difference is a mistake and not rounding, except where a test is about float32.
"""
import numpy as np
import pytest
from scipy.signal import convolve, correlate
from scipy.special import log_softmax
from sklearn.metrics import log_loss

from cnn_numpy import (
    ConvolutionLayer,
    CrossEntropyLoss,
    FlattenLayer,
    LinearLayer,
    MaxPoolingLayer,
    NetworkLayer,
    ParamLayer,
    ReLULayer,
)

# The first parameters come from NumPy's global generator:
# ruff: noqa: NPY002


def parameters(layer):
    """Return the names of the parameters that a layer has."""
    return [name for name in ("k", "w", "b") if hasattr(layer, name)]


def in_float64(layer):
    """Return the layer with parameters in float64."""
    for name in parameters(layer):
        setattr(layer, name, getattr(layer, name).astype(np.float64))
    return layer


def slopes(f, array, step=1e-5):
    """Return the derivative of f() with respect to every element of array, by differences."""
    result = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = f()
        array[index] = value - step
        result[index] = (above - f()) / (2 * step)
        array[index] = value
    return result


def assert_same(actual, expected, error=1e-7):
    """Check the shape and the error relative to the whole array."""
    assert actual.shape == expected.shape
    assert np.linalg.norm(actual - expected) <= error * np.linalg.norm(expected)


# The definitions, one output at a time


def max_pooling(x, k1, k2, y_grad):
    """Return the largest of each window, and x_grad with y_grad at the first that is largest."""
    y, x_grad = np.zeros_like(y_grad), np.zeros_like(x)
    for n, c, i, j in np.ndindex(y.shape):
        rows, columns = slice(i * k1, (i + 1) * k1), slice(j * k2, (j + 1) * k2)
        window = x[n, c, rows, columns]
        y[n, c, i, j] = window.max()
        winner = np.unravel_index(window.argmax(), window.shape)
        x_grad[n, c, rows, columns][winner] = y_grad[n, c, i, j]
    return y, x_grad


def relu(x, y_grad):
    """Return x where it is above zero, and y_grad there."""
    y, x_grad = np.zeros_like(x), np.zeros_like(x)
    for index in np.ndindex(x.shape):
        if x[index] > 0:
            y[index], x_grad[index] = x[index], y_grad[index]
    return y, x_grad


def linear(x, w, b, y_grad):
    """Return x w + b, and y_grad's share for every x[n, i], w[i, o] and b[0, o]."""
    y = np.zeros_like(y_grad)
    x_grad, w_grad, b_grad = np.zeros_like(x), np.zeros_like(w), np.zeros_like(b)
    for n, o in np.ndindex(y.shape):
        y[n, o] = b[0, o]
        b_grad[0, o] += y_grad[n, o]
        for i in range(x.shape[1]):
            y[n, o] += x[n, i] * w[i, o]
            x_grad[n, i] += w[i, o] * y_grad[n, o]
            w_grad[i, o] += x[n, i] * y_grad[n, o]
    return y, x_grad, w_grad, b_grad


def convolution(x, k, b, y_grad):
    """Return the sums of kernel times patch, and y_grad's share for every x, k and b."""
    y = np.zeros_like(y_grad)
    x_grad, k_grad, b_grad = np.zeros_like(x), np.zeros_like(k), np.zeros_like(b)
    _, _, k1, k2 = k.shape
    for n, o, i, j in np.ndindex(y.shape):
        patch = np.s_[n, :, i:i + k1, j:j + k2]
        y[n, o, i, j] = np.sum(x[patch] * k[o]) + b[0, o, 0, 0]
        x_grad[patch] += k[o] * y_grad[n, o, i, j]
        k_grad[o] += x[patch] * y_grad[n, o, i, j]
        b_grad[0, o] += y_grad[n, o, i, j]
    return y, x_grad, k_grad, b_grad


def reference(layer, x, y_grad):
    """Return y, x_grad and the gradients of the parameters, by the definition of the layer."""
    if isinstance(layer, MaxPoolingLayer):
        return max_pooling(x, layer.k1, layer.k2, y_grad)
    if isinstance(layer, ReLULayer):
        return relu(x, y_grad)
    if isinstance(layer, LinearLayer):
        return linear(x, layer.w, layer.b, y_grad)
    if isinstance(layer, ConvolutionLayer):
        return convolution(x, layer.k, layer.b, y_grad)
    start, end = layer.start % x.ndim, layer.end % x.ndim
    flat = [x[(slice(None),) * start + index] for index in np.ndindex(x.shape[start:end + 1])]
    return np.stack(flat, axis=start), y_grad.reshape(x.shape)


CASES = [  # a layer, the shape of its x, the shape of its y
    (MaxPoolingLayer, (2, 2), (2, 3, 4, 6), (2, 3, 2, 3)),
    (MaxPoolingLayer, (3, 2), (1, 2, 6, 4), (1, 2, 2, 2)),
    (MaxPoolingLayer, (1, 3), (2, 1, 2, 3), (2, 1, 2, 1)),
    (MaxPoolingLayer, (4, 5), (2, 2, 4, 5), (2, 2, 1, 1)),
    (MaxPoolingLayer, (1, 1), (2, 1, 2, 3), (2, 1, 2, 3)),
    (ReLULayer, (), (2, 3, 4, 5), (2, 3, 4, 5)),
    (ReLULayer, (), (7,), (7,)),
    (FlattenLayer, (), (2, 3, 4, 5), (2, 60)),
    (FlattenLayer, (), (1, 1, 1, 1), (1, 1)),
    (FlattenLayer, (0, 1), (2, 3, 4), (6, 4)),
    (FlattenLayer, (1, 2), (2, 3, 4, 5), (2, 12, 5)),
    (FlattenLayer, (1, -2), (2, 3, 4, 5), (2, 12, 5)),
    (FlattenLayer, (2, 2), (2, 3, 4), (2, 3, 4)),
    (FlattenLayer, (-3, -1), (2, 3, 4), (24,)),
    (FlattenLayer, (0, -3), (2, 3, 4), (2, 3, 4)),
    (LinearLayer, (4, 3), (5, 4), (5, 3)),
    (LinearLayer, (1, 1), (1, 1), (1, 1)),
    (LinearLayer, (2, 6), (1, 2), (1, 6)),
    (ConvolutionLayer, (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
    (ConvolutionLayer, (1, 2, 3, 3), (2, 1, 5, 5), (2, 2, 3, 3)),
    (ConvolutionLayer, (1, 2, 3, 2), (3, 1, 5, 6), (3, 2, 3, 5)),
    (ConvolutionLayer, (2, 3, 2, 3), (2, 2, 5, 4), (2, 3, 4, 2)),
    (ConvolutionLayer, (3, 1, 1, 2), (2, 3, 3, 4), (2, 1, 3, 3)),
    (ConvolutionLayer, (2, 2, 4, 5), (1, 2, 4, 5), (1, 2, 1, 1)),  # as large as the kernel
]
IDS = [f"{kind.__name__}{arguments}-{shape}" for kind, arguments, shape, _ in CASES]


@pytest.fixture(params=CASES, ids=IDS)
def case(request):
    """Return a layer in float64, an x without ties and zeros, and a gradient of its y."""
    kind, arguments, x_shape, y_shape = request.param
    rng = np.random.default_rng(len(x_shape) + sum(y_shape))
    x = (rng.permutation(np.prod(x_shape)) - np.prod(x_shape) * 0.4 + 0.05).reshape(x_shape) / 7
    return in_float64(kind(*arguments)), x, rng.standard_normal(y_shape)


def test_a_layer_does_what_its_definition_says(case):
    layer, x, y_grad = case
    assert isinstance(layer, NetworkLayer)
    assert isinstance(layer, ParamLayer) == bool(parameters(layer))
    y, x_grad, *grads = reference(layer, x, y_grad)
    assert_same(layer.forward(x), y, 1e-13)
    assert_same(layer.backward(x, y_grad), x_grad, 1e-13)
    for name, grad in zip(parameters(layer), grads):
        assert_same(getattr(layer, name + "_grad"), grad, 1e-13)


def test_gradients_are_the_slopes(case):
    layer, x, y_grad = case

    def loss():
        return np.sum(layer.forward(x) * y_grad)

    assert_same(layer.backward(x, y_grad), slopes(loss, x))
    for name in parameters(layer):
        assert_same(getattr(layer, name + "_grad"), slopes(loss, getattr(layer, name)))


def test_backward_overwrites_what_the_last_batch_left(case):
    layer, x, y_grad = case
    layer.backward(x, y_grad)
    grads = [getattr(layer, name + "_grad").copy() for name in parameters(layer)]
    layer.backward(2 * x, 3 * y_grad)
    layer.backward(x, y_grad)
    for name, grad in zip(parameters(layer), grads):
        np.testing.assert_array_equal(getattr(layer, name + "_grad"), grad)


def test_two_batches_in_turn_do_not_mix(case):
    layer, x, y_grad = case
    other_x, other_grad = x[::-1] - 0.3, -y_grad
    y, other_y = layer.forward(x), layer.forward(other_x)
    x_grad, other_x_grad = layer.backward(x, y_grad), layer.backward(other_x, other_grad)
    alone = type(layer).__new__(type(layer))
    vars(alone).update(vars(layer))
    np.testing.assert_array_equal(alone.forward(other_x), other_y)
    np.testing.assert_array_equal(alone.backward(other_x, other_grad), other_x_grad)
    np.testing.assert_array_equal(alone.forward(x), y)
    np.testing.assert_array_equal(alone.backward(x, y_grad), x_grad)


def test_nothing_is_changed_and_nothing_kept(case):
    layer, x, y_grad = case
    before = {name: np.copy(value) for name, value in vars(layer).items()}
    x_before, y_grad_before = x.copy(), y_grad.copy()
    y = layer.forward(x)
    for name, value in vars(layer).items():
        np.testing.assert_array_equal(value, before[name])
    x_grad = layer.backward(x, y_grad)
    assert vars(layer).keys() == before.keys()
    for name, value in vars(layer).items():
        assert np.shape(value) == before[name].shape
        if not name.endswith("_grad"):
            np.testing.assert_array_equal(value, before[name])
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(y_grad, y_grad_before)
    if not isinstance(layer, FlattenLayer):  # whose y is x in another shape
        assert not np.shares_memory(y, x) and not np.shares_memory(x_grad, y_grad)


def layouts(array):
    """Yield the array in other orders of memory, none of them writeable."""
    every_second = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2]
    every_second[...] = array
    backwards = np.ascontiguousarray(array[::-1])[::-1]
    batch_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0)
    for same in (array.copy(), np.asfortranarray(array), batch_last, every_second, backwards):
        same = same.view()
        same.flags.writeable = False
        yield same


def test_the_order_in_memory_changes_nothing(case):
    layer, x, y_grad = case
    y, x_grad = layer.forward(x), layer.backward(x, y_grad)
    grads = [getattr(layer, name + "_grad") for name in parameters(layer)]
    for same_x, same_y_grad in zip(layouts(x), list(layouts(y_grad))[::-1]):
        assert_same(layer.forward(same_x), y, 1e-14)
        assert_same(layer.backward(same_x, same_y_grad), x_grad, 1e-14)
        for name, grad in zip(parameters(layer), grads):
            assert_same(getattr(layer, name + "_grad"), grad, 1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_stays(case, dtype):
    layer, x, y_grad = case
    for name in parameters(layer):
        setattr(layer, name, getattr(layer, name).astype(dtype))
    x, y_grad = x.astype(dtype), y_grad.astype(dtype)
    y, x_grad, *grads = reference(layer, x.astype(np.float64), y_grad.astype(np.float64))
    assert layer.forward(x).dtype == layer.backward(x, y_grad).dtype == dtype
    assert_same(layer.forward(x), y, 1e-5)
    assert_same(layer.backward(x, y_grad), x_grad, 1e-5)
    for name, grad in zip(parameters(layer), grads):
        assert getattr(layer, name + "_grad").dtype == dtype
        assert_same(getattr(layer, name + "_grad"), grad, 1e-5)
    if isinstance(layer, ParamLayer):
        layer.update(np.float64(0.1))
        for name in parameters(layer):
            assert getattr(layer, name).dtype == dtype


@pytest.mark.parametrize("case", [case for case in CASES if issubclass(case[0], ParamLayer)],
                         ids=str, indirect=True)
def test_update_is_a_step_against_the_gradient_in_place(case):
    layer, x, y_grad = case
    layer.backward(x, y_grad)
    arrays = [getattr(layer, name) for name in parameters(layer)]
    expected = [array - 0.25 * getattr(layer, name + "_grad")
                for name, array in zip(parameters(layer), arrays)]
    layer.update(0.25)
    for name, array, value in zip(parameters(layer), arrays, expected):
        assert getattr(layer, name) is array
        np.testing.assert_array_equal(array, value)


@pytest.mark.parametrize("layer, shape", [
    (MaxPoolingLayer(2, 2), (0, 2, 4, 6)), (ReLULayer(), (0, 3)), (FlattenLayer(), (0, 2, 3)),
    (LinearLayer(4, 3), (0, 4)), (ConvolutionLayer(2, 3, 3, 2), (0, 2, 6, 5))], ids=str)
def test_no_images_give_no_outputs(layer, shape):
    x = np.zeros(shape)
    y = layer.forward(x)
    assert len(y) == 0 and layer.backward(x, y).shape == shape
    for name in parameters(layer):
        np.testing.assert_array_equal(getattr(layer, name + "_grad"), 0 * getattr(layer, name))


def test_the_base_classes_only_promise():
    for call in (lambda: NetworkLayer().forward(0), lambda: NetworkLayer().backward(0, 0),
                 lambda: ParamLayer().update(0)):
        pytest.raises(NotImplementedError, call)


# Max pooling


def test_pooling_gives_a_tie_to_the_first_in_row_order():
    layer, y_grad = MaxPoolingLayer(2, 3), np.arange(1.0, 17).reshape(2, 1, 2, 4)
    x = np.zeros((2, 1, 4, 12))  # the border of a digit: all equal
    np.testing.assert_array_equal(layer.backward(x, y_grad), max_pooling(x, 2, 3, y_grad)[1])
    x = np.random.default_rng(0).integers(-1, 2, x.shape).astype(float)
    np.testing.assert_array_equal(layer.backward(x, y_grad), max_pooling(x, 2, 3, y_grad)[1])


def test_pooling_by_hand():
    layer = MaxPoolingLayer(2, 2)
    x = np.array([[[[0, 0, 1, 2], [0, 0, 2, 0], [5, 7, 3, 1], [7, 6, 1, 3]]]], np.float32)
    np.testing.assert_array_equal(layer.forward(x), [[[[0, 2], [7, 3]]]])
    x_grad = layer.backward(x, np.array([[[[1, 2], [3, 4]]]], np.float32))
    np.testing.assert_array_equal(
        x_grad, [[[[1, 0, 0, 2], [0, 0, 0, 0], [0, 3, 4, 0], [0, 0, 0, 0]]]])


# ReLU and linear


def test_relu_has_no_slope_at_zero():
    layer, x = ReLULayer(), np.array([-1.0, -0.0, 0, 1e-300, 1])
    np.testing.assert_array_equal(layer.forward(x), [0, 0, 0, 1e-300, 1])
    np.testing.assert_array_equal(layer.backward(x, np.ones(5)), [0, 0, 0, 1, 1])


def test_linear_by_hand():
    layer = LinearLayer(2, 3)
    layer.w, layer.b = np.arange(6.0).reshape(2, 3), np.array([[1.0, 2, 3]])
    np.testing.assert_array_equal(layer.forward(np.array([[1.0, 10]])), [[31, 43, 55]])


# Convolution

CONVOLUTIONS = [((1, 2, 3, 3), (2, 1, 6, 7)), ((3, 2, 2, 4), (2, 3, 5, 6)),
                ((2, 3, 4, 5), (3, 2, 4, 5))]


@pytest.fixture(params=CONVOLUTIONS, ids=str)
def convolution_case(request):
    """Return a convolution in float64, an x and a gradient of its y."""
    arguments, shape = request.param
    rng = np.random.default_rng(5)
    layer, x = in_float64(ConvolutionLayer(*arguments)), rng.standard_normal(shape)
    return layer, x, rng.standard_normal(layer.forward(x).shape)


def test_convolution_is_scipys(convolution_case):
    layer, x, y_grad = convolution_case
    y, x_grad = layer.forward(x), layer.backward(x, y_grad)
    for n in range(len(x)):
        for o, k in enumerate(layer.k):
            expected = correlate(x[n], k, "valid")[0] + layer.b[0, o]
            np.testing.assert_allclose(y[n, o], expected, atol=1e-12)
        for c in range(x.shape[1]):
            expected = sum(convolve(y_grad[n, o], k[c]) for o, k in enumerate(layer.k))
            np.testing.assert_allclose(x_grad[n, c], expected, atol=1e-12)


def test_convolution_is_the_series_second_form(convolution_case):
    """Y'' = X'' K''^T and dL/dX'' = dL/dY'' K'', K'' being the kernel spread over the image."""
    layer, x, y_grad = convolution_case
    B, c1, H, W = x.shape
    _, c2, o1, o2 = y_grad.shape
    k1, k2 = layer.k.shape[2:]
    spread = np.zeros((c2, o1, o2, c1, H, W))  # a row for each output, a column for each pixel
    for i, j in np.ndindex(o1, o2):
        spread[:, i, j, :, i:i + k1, j:j + k2] = layer.k
    spread = spread.reshape(c2 * o1 * o2, c1 * H * W)
    y = (x.reshape(B, -1) @ spread.T).reshape(y_grad.shape) + layer.b
    x_grad = (y_grad.reshape(B, -1) @ spread).reshape(x.shape)
    assert_same(layer.forward(x), y, 1e-13)
    assert_same(layer.backward(x, y_grad), x_grad, 1e-13)


def test_set_grads_is_backward_without_the_gradient_of_x(convolution_case):
    layer, x, y_grad = convolution_case
    layer.backward(x, y_grad)
    k_grad, b_grad = layer.k_grad, layer.b_grad
    layer.set_grads(0 * x, y_grad)
    assert layer.set_grads(x, y_grad) is None
    np.testing.assert_array_equal(layer.k_grad, k_grad)
    np.testing.assert_array_equal(layer.b_grad, b_grad)


def test_a_row_longer_than_a_piece_of_it_gives_the_same():
    layer = in_float64(ConvolutionLayer(3, 2, 5, 5))  # 800 patches at a time
    rng = np.random.default_rng(6)
    x, y_grad = rng.standard_normal((170, 3, 6, 16)), rng.standard_normal((170, 2, 2, 12))
    y, x_grad, k_grad = layer.forward(x), layer.backward(x, y_grad), layer.k_grad
    parts = [slice(0, 60), slice(60, 170)]
    assert_same(y, np.concatenate([layer.forward(x[part]) for part in parts]), 1e-13)
    k_grads, x_grads = 0, []
    for part in parts:
        x_grads.append(layer.backward(x[part], y_grad[part]))
        k_grads += layer.k_grad
    assert_same(x_grad, np.concatenate(x_grads), 1e-13)
    assert_same(k_grad, k_grads, 1e-13)


def test_a_kernel_larger_than_a_piece():
    layer = in_float64(ConvolutionLayer(1, 1, 301, 200))
    x = np.random.default_rng(6).standard_normal((1, 1, 301, 202))
    y_grad = np.array([[[[1.0, 2.0, 3.0]]]])
    y, x_grad, k_grad, _ = convolution(x, layer.k, layer.b, y_grad)
    assert_same(layer.forward(x), y, 1e-12)
    assert_same(layer.backward(x, y_grad), x_grad, 1e-12)
    assert_same(layer.k_grad, k_grad, 1e-12)


def test_pieces_stay_small_and_rows_of_usual_batches_whole():
    for shape, pieces in (((100, 1, 28, 28), 24), ((1000, 1, 28, 28), 240)):
        layer = ConvolutionLayer(1, 4, 5, 5)
        sizes = [patches.size for _, _, patches in
                 layer._patches(layer._strips(np.zeros(shape, np.float32)))]
        assert max(sizes) == 60_000 and len(sizes) == pieces


def test_a_shifted_image_gives_shifted_feature_maps(convolution_case):
    layer, x, _ = convolution_case
    _, _, k1, k2 = layer.k.shape
    paper = np.zeros((*x.shape[:2], 12, 13))
    paper[:, :, 3:3 + x.shape[2], 2:2 + x.shape[3]] = x
    y = layer.forward(paper)
    shifted = layer.forward(np.roll(paper, (2, 3), axis=(2, 3)))
    assert_same(shifted[:, :, 2:, 3:], y[:, :, :-2, :-3], 1e-13)


@pytest.mark.parametrize("layer", [MaxPoolingLayer(2, 2), ConvolutionLayer(2, 3, 3, 2)])
def test_images_of_a_batch_do_not_meet(layer):
    rng = np.random.default_rng(7)
    x, order = rng.standard_normal((5, 2, 6, 4)), rng.permutation(5)
    y = layer.forward(x)
    y_grad = rng.standard_normal(y.shape)
    assert_same(layer.forward(x[order]), y[order], 1e-14)
    assert_same(layer.backward(x[order], y_grad[order]), layer.backward(x, y_grad)[order], 1e-14)
    assert_same(layer.forward(x[2:3]), y[2:3], 1e-14)


# The first parameters


@pytest.mark.parametrize("make, fan_in", [
    (lambda: LinearLayer(400, 50), 400), (lambda: ConvolutionLayer(4, 500, 3, 5), 60)])
def test_first_parameters_fill_their_range(make, fan_in):
    np.random.seed(0)
    layer = make()
    for name in parameters(layer):
        values, bound = getattr(layer, name), np.float32(fan_in ** -0.5)
        assert values.dtype == np.float32 and np.abs(values).max() <= bound
        assert values.max() > 0.85 * bound and values.min() < -0.85 * bound
        assert abs(values.mean()) < 0.15 * bound
        assert np.shape(getattr(layer, name + "_grad")) == values.shape
    np.random.seed(0)
    np.testing.assert_array_equal(make().b, layer.b)


def test_shapes_of_the_parameters():
    layer = LinearLayer(2, 3)
    assert layer.w.shape == layer.w_grad.shape == (2, 3)
    assert layer.b.shape == layer.b_grad.shape == (1, 3)
    layer = ConvolutionLayer(2, 3, 4, 5)
    assert layer.k.shape == layer.k_grad.shape == (3, 2, 4, 5)
    assert layer.b.shape == layer.b_grad.shape == (1, 3, 1, 1)


# The loss


@pytest.fixture
def logits():
    """Return six rows of logits and their labels."""
    return np.random.default_rng(8).standard_normal((6, 4)) * 3, np.array([0, 3, 1, 1, 2, 0])


def test_loss_is_that_of_scipy_and_scikit_learn(logits):
    x, y = logits
    loss = CrossEntropyLoss().forward(x, y)
    assert type(loss) is float
    assert loss == pytest.approx(-log_softmax(x, axis=1)[np.arange(6), y].mean(), rel=1e-14)
    assert loss == pytest.approx(log_loss(y, CrossEntropyLoss.softmax(x)), rel=1e-14)
    assert_same(CrossEntropyLoss.softmax(x), np.exp(log_softmax(x, axis=1)), 1e-14)


def test_gradient_of_the_loss_is_its_slope(logits):
    x, y = logits
    loss_func = CrossEntropyLoss()
    x_grad = loss_func.backward(x, y)
    assert_same(x_grad, slopes(lambda: loss_func.forward(x, y), x))
    np.testing.assert_allclose(x_grad.sum(axis=1), 0, atol=1e-16)
    np.testing.assert_allclose(CrossEntropyLoss.softmax(x).sum(axis=1), 1, rtol=1e-14)


def test_loss_of_a_guess_is_log_10():
    y = np.arange(10)
    assert CrossEntropyLoss().forward(np.full((10, 10), 5.0), y) == pytest.approx(np.log(10))


def test_loss_and_its_inputs_in_any_form(logits):
    x, y = logits
    loss, x_grad = CrossEntropyLoss().forward(x, y), CrossEntropyLoss().backward(x, y)
    for same_x in layouts(x):
        for same_y in (y.astype(np.uint8), y.astype(np.int32), np.repeat(y, 2)[::2]):
            same_y.flags.writeable = False
            assert CrossEntropyLoss().forward(same_x, same_y) == pytest.approx(loss, rel=1e-14)
            assert_same(CrossEntropyLoss().backward(same_x, same_y), x_grad, 1e-14)
    assert CrossEntropyLoss().backward(x.astype(np.float32), y).dtype == np.float32
    assert vars(CrossEntropyLoss()) == {}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loss_of_far_logits_is_exact(dtype):
    x, y = np.array([[10000, -10000], [-10000, 10000]], dtype), np.array([1, 1])
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        assert CrossEntropyLoss().forward(x, y) == 10000  # the mean of 20000 and 0
        np.testing.assert_array_equal(CrossEntropyLoss().backward(x, y), [[0.5, -0.5], [0, 0]])


# What is refused

X4 = np.zeros((2, 3, 4, 4))
LOGITS = np.zeros((2, 3))


@pytest.mark.parametrize("call, error, message", [
    (lambda: MaxPoolingLayer(0, 2), ValueError, "k1, k2 = 0, 2"),
    (lambda: MaxPoolingLayer(2, 0), ValueError, "k1, k2 = 2, 0"),
    (lambda: LinearLayer(0, 1), ValueError, "d1, d2 = 0, 1"),
    (lambda: LinearLayer(1, 0), ValueError, "d1, d2 = 1, 0"),
    (lambda: ConvolutionLayer(0, 1, 1, 1), ValueError, "c1, c2, k1, k2 = 0, 1, 1, 1"),
    (lambda: ConvolutionLayer(1, 0, 1, 1), ValueError, "c1, c2, k1, k2 = 1, 0, 1, 1"),
    (lambda: ConvolutionLayer(1, 1, 0, 1), ValueError, "c1, c2, k1, k2 = 1, 1, 0, 1"),
    (lambda: ConvolutionLayer(1, 1, 1, 0), ValueError, "c1, c2, k1, k2 = 1, 1, 1, 0"),
    (lambda: MaxPoolingLayer(2, 2).forward(X4[0]), ValueError, r"x has shape \(3, 4, 4\)"),
    (lambda: MaxPoolingLayer(3, 2).forward(X4), ValueError, "multiple of 3"),
    (lambda: MaxPoolingLayer(2, 3).forward(X4), ValueError, "multiple of 3"),
    (lambda: MaxPoolingLayer(2, 2).backward(X4, X4), ValueError, "last_x_grad has shape"),
    (lambda: MaxPoolingLayer(2, 2).backward(X4, X4[:, :1, :2, :2]), ValueError, "last_x_grad"),
    (lambda: ReLULayer().backward(X4, X4[:1]), ValueError, "last_x_grad has shape"),
    (lambda: FlattenLayer(1, 4).forward(X4), ValueError, "axes 1 to 4"),
    (lambda: FlattenLayer(1, -5).forward(X4), ValueError, "axes 1 to -5"),
    (lambda: FlattenLayer(4, 3).forward(X4), ValueError, "axes 4 to 3"),
    (lambda: FlattenLayer(-5, 1).forward(X4), ValueError, "axes -5 to 1"),
    (lambda: FlattenLayer(2, 1).forward(X4), ValueError, "axes 2 to 1"),
    (lambda: FlattenLayer().backward(X4, X4), ValueError, "last_x_grad has shape"),
    (lambda: LinearLayer(4, 1).forward(X4), ValueError, r"expected \(B, 4\)"),
    (lambda: LinearLayer(4, 1).forward(X4[0, 0, :, :3]), ValueError, r"expected \(B, 4\)"),
    (lambda: LinearLayer(4, 2).backward(X4[0, 0], X4[0, 0]), ValueError, "last_x_grad has shape"),
    (lambda: LinearLayer(3, 4).backward(X4[0, 0], X4[0, 0]), ValueError, r"expected \(B, 3\)"),
    (lambda: LinearLayer(4, 4).backward(X4[0, 0], X4[0, 0, :1]), ValueError, "last_x_grad"),
    (lambda: ConvolutionLayer(3, 1, 2, 2).forward(X4[0]), ValueError, r"expected \(B, 3, H, W\)"),
    (lambda: ConvolutionLayer(2, 1, 2, 2).forward(X4), ValueError, r"expected \(B, 2, H, W\)"),
    (lambda: ConvolutionLayer(3, 1, 5, 2).forward(X4), ValueError, "H at least 5"),
    (lambda: ConvolutionLayer(3, 1, 2, 5).forward(X4), ValueError, "W at least 5"),
    (lambda: ConvolutionLayer(3, 1, 2, 2).backward(X4, X4), ValueError, "last_x_grad has shape"),
    (lambda: ConvolutionLayer(3, 3, 2, 2).backward(X4, X4[:1, :, :3, :3]), ValueError, "last_x_"),
    (lambda: ConvolutionLayer(3, 3, 2, 2).set_grads(X4, X4), ValueError, "last_x_grad has shape"),
    (lambda: CrossEntropyLoss().forward(LOGITS, np.array([0, -1])), ValueError, "labels from -1"),
    (lambda: CrossEntropyLoss().forward(LOGITS, np.array([0, 3])), ValueError, "expected 0 to 2"),
    (lambda: CrossEntropyLoss().backward(LOGITS, np.array([0, 3])), ValueError, "expected 0 to 2"),
    (lambda: CrossEntropyLoss().forward(LOGITS, np.zeros(2)), TypeError, "y has dtype float64"),
    (lambda: CrossEntropyLoss().forward(LOGITS, np.array([0])), ValueError, r"y has shape \(1,\)"),
    (lambda: CrossEntropyLoss().backward(LOGITS, np.zeros((2, 1), int)), ValueError, "y has shape"),
    (lambda: CrossEntropyLoss().forward(LOGITS[0], np.array(0)), ValueError, "x has shape"),
    (lambda: CrossEntropyLoss().forward(LOGITS[:0], np.array([], int)), ValueError, "x has shape"),
])
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
