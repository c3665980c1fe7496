"""Every layer beside its definition in loops, and beside slopes."""
import definitions
import numpy as np
import pytest
from helpers import as_dtype, assert_same, parameters
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

CASES = [  # a layer, the shape of its x, the shape of its y
    (MaxPoolingLayer, (2, 2), (2, 3, 4, 6), (2, 3, 2, 3)),
    (MaxPoolingLayer, (3, 2), (1, 2, 6, 4), (1, 2, 2, 2)),
    (MaxPoolingLayer, (1, 3), (2, 1, 2, 3), (2, 1, 2, 1)),
    (MaxPoolingLayer, (1, 1), (2, 1, 2, 3), (2, 1, 2, 3)),
    (ReLULayer, (), (2, 3, 4, 5), (2, 3, 4, 5)),
    (ReLULayer, (), (7,), (7,)),
    (FlattenLayer, (), (2, 3, 4, 5), (2, 60)),
    (FlattenLayer, (1, -2), (2, 3, 4, 5), (2, 12, 5)),
    (FlattenLayer, (2, 2), (2, 3, 4), (2, 3, 4)),
    (FlattenLayer, (-3, -1), (2, 3, 4), (24,)),
    (FlattenLayer, (0, -2), (2, 3, 4), (6, 4)),
    (LinearLayer, (4, 3), (5, 4), (5, 3)),
    (LinearLayer, (1, 1), (1, 1), (1, 1)),
    (LinearLayer, (2, 6), (1, 2), (1, 6)),
    (ConvolutionLayer, (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
    (ConvolutionLayer, (1, 2, 3, 2), (3, 1, 5, 6), (3, 2, 3, 5)),
    (ConvolutionLayer, (2, 3, 2, 3), (2, 2, 5, 4), (2, 3, 4, 2)),
    (ConvolutionLayer, (3, 1, 1, 2), (2, 3, 3, 4), (2, 1, 3, 3)),
    (ConvolutionLayer, (2, 2, 4, 5), (1, 2, 4, 5), (1, 2, 1, 1)),  # as large as the kernel
]


@pytest.fixture(params=CASES, ids=[f"{case[0].__name__}{case[1]}" for case in CASES])
def case(request):
    """Return a layer in float64, its name, an x without ties or zeros, and a y_grad."""
    kind, arguments, x_shape, y_shape = request.param
    rng = np.random.default_rng(len(x_shape) + sum(y_shape))
    np.random.seed(sum(x_shape))
    x = (rng.permutation(np.prod(x_shape)) - np.prod(x_shape) * 0.4 + 0.05).reshape(x_shape) / 7
    layer = as_dtype(kind(*arguments), np.float64)
    return layer, f"{kind.__name__}{arguments}", x, rng.standard_normal(y_shape)


def definition(layer, x, y_grad):
    """Return y and all gradients, by the definition of the layer."""
    if isinstance(layer, FlattenLayer):
        start, end = layer.start % x.ndim, layer.end % x.ndim
        flat = [x[(slice(None),) * start + index] for index in np.ndindex(x.shape[start:end + 1])]
        return np.stack(flat, axis=start), {"x": y_grad.reshape(x.shape)}
    name, arguments = {
        MaxPoolingLayer: ("max_pooling", ("k1", "k2")), ReLULayer: ("relu", ()),
        LinearLayer: ("linear", ("w", "b")), ConvolutionLayer: ("convolution", ("k", "b")),
    }[type(layer)]
    arguments = [getattr(layer, argument) for argument in arguments]
    return (getattr(definitions, name)(x, *arguments),
            getattr(definitions, f"{name}_backward")(x, *arguments, y_grad))


def results(layer, x, y_grad):
    """Return y and all gradients that the layer gives, by their names."""
    y, grads = layer.forward(x), {"x": layer.backward(x, y_grad)}
    return y, {**grads, **{name: getattr(layer, f"{name}_grad") for name in parameters(layer)}}


def assert_results(layer, what, x, y_grad, expected, error):
    """Check y and all gradients, each under the name that the code and the articles give it."""
    (y, grads), (expected_y, expected_grads) = results(layer, x, y_grad), expected
    assert_same(f"{what}: y of forward", y, expected_y, error)
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        symbol = "what backward returns, dL/dX" if name == "x" else f"{name}_grad, dL/d{name}"
        assert_same(f"{what}: {symbol},", grad, expected_grads[name], error)


def test_a_layer_does_what_its_definition_says(case):
    layer, what, x, y_grad = case
    assert isinstance(layer, ParamLayer if parameters(layer) else NetworkLayer)
    assert_results(layer, what, x, y_grad, definition(layer, x, y_grad), 1e-13)


def test_gradients_are_the_slopes(case):
    """A gradient says how much the loss changes with each number: change one, and look."""
    layer, what, x, y_grad = case
    y, grads = results(layer, x, y_grad)
    slopes = {}
    for name in grads:
        array = x if name == "x" else getattr(layer, name)
        slopes[name] = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            value, losses = array[index], []
            for step in (1e-5, -1e-5):
                array[index] = value + step
                losses.append(np.sum(layer.forward(x) * y_grad))
            array[index] = value
            slopes[name][index] = (losses[0] - losses[1]) / 2e-5
    assert_results(layer, what, x, y_grad, (y, slopes), 1e-7)


def test_nothing_is_kept_or_changed_and_grads_are_overwritten(case):
    layer, what, x, y_grad = case
    expected = results(layer, x, y_grad)
    names, values = set(vars(layer)), [getattr(layer, name).copy() for name in parameters(layer)]
    x_before, y_grad_before = x.copy(), y_grad.copy()
    results(layer, x[::-1] - 0.3, 3 * y_grad)  # another batch in between
    assert_results(layer, what, x, y_grad, expected, 0)
    assert vars(layer).keys() == names
    for name, value in zip(parameters(layer), values):
        np.testing.assert_array_equal(getattr(layer, name), value)
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(y_grad, y_grad_before)


def layouts(array):
    """Yield the array in other orders of memory, none of them writeable."""
    every_second = np.repeat(array, 2, axis=-1)[..., ::2]
    backwards = np.ascontiguousarray(array[::-1])[::-1]
    batch_last = np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0)
    for same in (np.asfortranarray(array), batch_last, every_second, backwards):
        same = same.view()
        same.flags.writeable = False
        yield same


def test_the_order_in_memory_changes_nothing(case):
    layer, what, x, y_grad = case
    expected = results(layer, x, y_grad)
    for same_x, same_y_grad in zip(layouts(x), list(layouts(y_grad))[::-1]):
        assert_results(layer, what, same_x, same_y_grad, expected, 1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_stays_and_update_is_a_step_in_place(case, dtype):
    layer, what, x, y_grad = case
    expected = definition(layer, x, y_grad)
    as_dtype(layer, dtype)
    y, grads = results(layer, x.astype(dtype), y_grad.astype(dtype))
    assert {array.dtype for array in (y, *grads.values())} == {np.dtype(dtype)}
    assert_results(layer, what, x.astype(dtype), y_grad.astype(dtype), expected, 1e-5)
    before = {name: (array, array - 0.25 * grads[name]) for name in parameters(layer)
              for array in [getattr(layer, name)]}
    if isinstance(layer, ParamLayer):
        layer.update(np.float64(0.25))
    for name, (array, stepped) in before.items():
        assert getattr(layer, name) is array and array.dtype == dtype
        assert_same(f"{what}: {name} after update(0.25)", array, stepped, 0)


def test_an_x_of_integers_does_too(case):
    layer, what, x, y_grad = case
    x = np.round(7 * x).astype(int)
    expected = definition(layer, x, y_grad)
    assert_results(layer, what, x, y_grad, expected, 1e-13)


@pytest.mark.parametrize("case", [case for case in CASES if case[0] is ConvolutionLayer],
                         ids=str, indirect=True)
def test_convolution_is_the_articles_second_form(case):
    layer, what, x, y_grad = case
    y, x_grad = definitions.convolution_second_form(x, layer.k, y_grad)
    assert_same(f"{what}: y beside Y'' = X'' K''^T", layer.forward(x), y + layer.b, 1e-13)
    assert_same(f"{what}: dL/dX beside dL/dX'' = dL/dY'' K''",
                layer.backward(x, y_grad), x_grad, 1e-13)


def test_the_base_classes_only_promise():
    for call in (lambda: NetworkLayer().forward(0), lambda: NetworkLayer().backward(0, 0),
                 lambda: ParamLayer().update(0)):
        pytest.raises(NotImplementedError, call)


def test_pooling_gives_a_tie_to_the_first_in_row_order():
    layer, y_grad = MaxPoolingLayer(2, 3), np.arange(1.0, 17).reshape(2, 1, 2, 4)
    for x in (np.zeros((2, 1, 4, 12)),  # the border of a digit: all equal
              np.random.default_rng(0).integers(-1, 2, (2, 1, 4, 12)).astype(float)):
        assert_results(layer, "MaxPoolingLayer with ties", x, y_grad,
                       definition(layer, x, y_grad), 0)


def test_relu_has_no_slope_at_zero():
    layer, x = ReLULayer(), np.array([-1.0, -0.0, 0, 1e-300, 1])
    np.testing.assert_array_equal(layer.forward(x), [0, 0, 0, 1e-300, 1])
    np.testing.assert_array_equal(layer.backward(x, np.ones(5)), [0, 0, 0, 1, 1])


@pytest.mark.parametrize("kind, arguments, fan_in, shapes", [
    (LinearLayer, (400, 50), 400, {"w": (400, 50), "b": (1, 50)}),
    (ConvolutionLayer, (4, 500, 3, 5), 60, {"k": (500, 4, 3, 5), "b": (1, 500, 1, 1)})])
def test_first_parameters_fill_their_range(kind, arguments, fan_in, shapes):
    np.random.seed(0)
    layer = kind(*arguments)
    assert {name: getattr(layer, name).shape for name in parameters(layer)} == shapes
    for name, shape in shapes.items():
        values, bound = getattr(layer, name), np.float32(fan_in ** -0.5)
        assert values.dtype == np.float32 and np.abs(values).max() <= bound
        assert values.max() > 0.85 * bound and values.min() < -0.85 * bound
        assert abs(values.mean()) < 0.15 * bound
        assert getattr(layer, f"{name}_grad").shape == shape
    np.random.seed(0)
    np.testing.assert_array_equal(kind(*arguments).b, layer.b)


@pytest.fixture
def logits():
    """Return six rows of logits and their labels."""
    return np.random.default_rng(8).standard_normal((6, 4)) * 3, np.array([0, 3, 1, 1, 2, 0])


def test_the_loss_is_its_definition_scipys_and_scikit_learns(logits):
    x, y = logits
    loss = CrossEntropyLoss().forward(x, y)
    assert type(loss) is float
    for expected in (definitions.cross_entropy(x, y), log_loss(y, CrossEntropyLoss.softmax(x)),
                     -log_softmax(x, axis=1)[np.arange(6), y].mean()):
        assert_same("CrossEntropyLoss: L of forward", np.array(loss), np.array(expected))
    assert_same("softmax", CrossEntropyLoss.softmax(x), definitions.softmax(x))
    assert_same("CrossEntropyLoss: what backward returns, dL/dx,",
                CrossEntropyLoss().backward(x, y), definitions.cross_entropy_backward(x, y)["x"])


def test_the_gradient_of_the_loss_is_its_slope(logits):
    x, y = logits
    slopes = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-5
        slopes[index] = (CrossEntropyLoss().forward(x + step, y)
                         - CrossEntropyLoss().forward(x - step, y)) / 2e-5
    assert_same("CrossEntropyLoss: dL/dx", CrossEntropyLoss().backward(x, y), slopes, 1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_loss_of_far_logits_is_exact(dtype):
    x, y = np.array([[10000, -10000], [-10000, 10000]], dtype), np.array([1, 1])
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        assert CrossEntropyLoss().forward(x, y) == 10000  # the mean of 20000 and 0
        x_grad = CrossEntropyLoss().backward(x, y.astype(np.uint8))
    np.testing.assert_array_equal(x_grad, [[0.5, -0.5], [0, 0]])
    assert x_grad.dtype == dtype


X4 = np.zeros((2, 3, 4, 4))
X2 = np.zeros((2, 3))
BAD_X = [  # a layer, an x that it cannot take, and what it says of it
    (MaxPoolingLayer, (2, 2), X4[0], "unpack"),
    (MaxPoolingLayer, (3, 2), X4, r"x has shape \(2, 3, 4, 4\), expected \(2, 3, 3, 4\)"),
    (MaxPoolingLayer, (2, 3), X4, r"x has shape \(2, 3, 4, 4\), expected \(2, 3, 4, 3\)"),
    (MaxPoolingLayer, (5, 4), X4, r"x has shape \(2, 3, 4, 4\), expected \(2, 3, 5, 4\)"),
    (FlattenLayer, (1, 4), X4, r"shape \(2, 3, 4, 4\), expected axes 1 to 4"),
    (FlattenLayer, (-5, 1), X4, "axes -5 to 1"),
    (FlattenLayer, (2, 1), X4, "axes 2 to 1"),
    (FlattenLayer, (1, -5), X4, "axes 1 to -5"),
    (LinearLayer, (4, 1), X4, r"x has shape \(2, 3, 4, 4\), expected \(2, 4\)"),
    (LinearLayer, (4, 1), X2, r"x has shape \(2, 3\), expected \(2, 4\)"),
    (ConvolutionLayer, (3, 1, 2, 2), X4[0], "unpack"),
    (ConvolutionLayer, (2, 1, 2, 2), X4, r"\(2, 3, 4, 4\), expected \(2, 2, 4, 4\)"),
    (ConvolutionLayer, (3, 1, 5, 2), X4, r"\(2, 3, 4, 4\), expected \(2, 3, 5, 4\)"),
    (ConvolutionLayer, (3, 1, 2, 5), X4, r"\(2, 3, 4, 4\), expected \(2, 3, 4, 5\)"),
]


@pytest.mark.parametrize("kind, arguments, x, message", BAD_X)
def test_an_x_of_another_shape_is_refused(kind, arguments, x, message):
    layer = kind(*arguments)
    for call in (layer.forward, lambda x: layer.backward(x, x)):
        with pytest.raises(ValueError, match=message):
            call(x)


def test_a_gradient_that_would_be_broadcast_is_refused(case):
    layer, _, x, y_grad = case
    for wrong in (y_grad[np.newaxis], y_grad[..., :0]):
        for call in (layer.backward, getattr(layer, "set_grads", layer.backward)):
            with pytest.raises(ValueError, match="last_x_grad has shape .* expected"):
                call(x, wrong)


@pytest.mark.parametrize("x, y, error, message", [
    (X2, np.array([0, -1]), ValueError, "y holds -1 to 0, expected 0 to 2"),
    (X2, np.array([0, 3]), ValueError, "y holds 0 to 3, expected 0 to 2"),
    (X2, np.zeros(2), TypeError, "y has dtype float64, expected integers"),
    (X2, np.ones(2, bool), TypeError, "y has dtype bool, expected integers"),
    (X2, np.array([0]), ValueError, r"shapes \(2, 3\), \(1,\), expected \(B, C\), \(B,\)"),
    (X2, np.zeros((2, 1), int), ValueError, r"shapes \(2, 3\), \(2, 1\)"),
    (X4, np.zeros(2, int), ValueError, r"shapes \(2, 3, 4, 4\), \(2,\)")])
def test_labels_that_do_not_fit_are_refused(x, y, error, message):
    for call in (CrossEntropyLoss().forward, CrossEntropyLoss().backward):
        with pytest.raises(error, match=message):
            call(x, y)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("logit", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_refused(logit):
    with pytest.raises(FloatingPointError, match="the loss is nan.*smaller learning rate"):
        CrossEntropyLoss().forward(X2 + logit, np.array([0, 1]))
