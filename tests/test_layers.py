"""Every layer beside its definition in loops, and beside slopes."""
import definitions
import numpy as np
import pytest
from helpers import as_dtype, assert_same, definition, parameters

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
    (MaxPoolingLayer, (3, 2), (2, 3, 6, 4), (2, 3, 2, 2)),
    (ReLULayer, (), (2, 3, 4, 5), (2, 3, 4, 5)),
    (ReLULayer, (), (7,), (7,)),
    (FlattenLayer, (), (2, 3, 4, 5), (2, 60)),
    (FlattenLayer, (1, -2), (2, 3, 4, 5), (2, 12, 5)),
    (FlattenLayer, (-3, 0), (2, 3, 4), (2, 3, 4)),
    (LinearLayer, (4, 3), (5, 4), (5, 3)),
    (LinearLayer, (2, 6), (1, 2), (1, 6)),
    (ConvolutionLayer, (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
    (ConvolutionLayer, (1, 2, 3, 2), (3, 1, 5, 6), (3, 2, 3, 5)),
    (ConvolutionLayer, (2, 3, 2, 3), (2, 2, 5, 4), (2, 3, 4, 2)),
    (ConvolutionLayer, (2, 2, 4, 5), (1, 2, 4, 5), (1, 2, 1, 1)),  # as large as the kernel
]


@pytest.fixture(params=CASES, ids=[f"{case[0].__name__}{case[1]}" for case in CASES])
def case(request):
    """Return a layer in float64, its name, an x and a y_grad."""
    kind, arguments, x_shape, y_shape = request.param
    rng, size = np.random.default_rng(len(x_shape) + sum(y_shape)), np.prod(x_shape)
    np.random.seed(sum(x_shape))
    odd = 2 * rng.permutation(size) - (size | 1)  # no two are equal, none is 0
    layer = as_dtype(kind(*arguments), np.float64)
    return (layer, f"{kind.__name__}{arguments}", odd.reshape(x_shape).astype(np.float64),
            rng.standard_normal(y_shape))


def defined(layer, x, y_grad):
    """Return y and all gradients, as the layer is defined."""
    y, backward = definition(layer, x)
    return y, backward(y_grad)


def results(layer, x, y_grad):
    """Return y and all gradients that the layer gives, by their names."""
    y, grads = layer.forward(x), {"x": layer.backward(x, y_grad)}
    return y, {**grads, **{name: getattr(layer, f"{name}_grad") for name in parameters(layer)}}


def assert_results(layer, what, x, y_grad, expected, error=1e-13):
    """Check y and all gradients, each under the name that the code and the articles give it."""
    (y, grads), (expected_y, expected_grads) = results(layer, x, y_grad), expected
    assert_same(f"{what}: y of forward", y, expected_y, error)
    for name, grad in grads.items():
        symbol = "what backward returns, dL/dX" if name == "x" else f"{name}_grad, dL/d{name}"
        assert_same(f"{what}: {symbol},", grad, expected_grads[name], error)


def slopes(array, loss):
    """Return how much the loss changes with each number: change one, and look."""
    result = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value, losses = array[index], []
        for step in (1e-5, -1e-5):
            array[index] = value + step
            losses.append(loss())
        array[index] = value
        result[index] = (losses[0] - losses[1]) / 2e-5
    return result


def test_a_layer_does_what_its_definition_says(case):
    layer, what, x, y_grad = case
    assert isinstance(layer, ParamLayer if parameters(layer) else NetworkLayer)
    assert_results(layer, what, x, y_grad, defined(layer, x, y_grad))


def test_gradients_are_the_slopes(case):
    layer, what, x, y_grad = case
    arrays = {"x": x, **{name: getattr(layer, name) for name in parameters(layer)}}
    expected = {name: slopes(array, lambda: np.sum(layer.forward(x) * y_grad))
                for name, array in arrays.items()}
    assert_results(layer, what, x, y_grad, (layer.forward(x), expected), 1e-7)


def test_nothing_is_kept_and_grads_are_overwritten(case):
    layer, what, x, y_grad = case
    names, expected = set(vars(layer)), defined(layer, x, y_grad)
    results(layer, x[::-1] - 4, 3 * y_grad)  # another batch before
    assert_results(layer, what, x, y_grad, expected)
    assert vars(layer).keys() == names


def test_neither_the_order_in_memory_nor_integers_change_anything(case):
    layer, what, x, y_grad = case
    expected = defined(layer, x, y_grad)
    assert_results(layer, what, x.astype(int), y_grad, expected)
    x, y_grad = np.asfortranarray(x), np.repeat(y_grad, 2, axis=-1)[..., ::2]
    x.flags.writeable = y_grad.flags.writeable = False
    assert_results(layer, what, x, y_grad, expected)


def test_float32_stays_and_update_is_a_step_in_place(case):
    layer, what, x, y_grad = case
    expected, x, y_grad = defined(layer, x, y_grad), np.float32(x), np.float32(y_grad)
    as_dtype(layer, np.float32)
    y, grads = results(layer, x, y_grad)
    assert {array.dtype for array in (y, *grads.values())} == {np.dtype(np.float32)}
    assert_results(layer, what, x, y_grad, expected, 1e-5)
    before = {name: getattr(layer, name) for name in parameters(layer)}
    stepped = {name: array - 0.25 * grads[name] for name, array in before.items()}
    if before:
        layer.update(np.float64(0.25))
    for name, array in before.items():
        assert getattr(layer, name) is array and array.dtype == np.float32
        assert_same(f"{what}: {name} after update(0.25)", array, stepped[name], 0)


@pytest.mark.parametrize("case", [case for case in CASES if case[0] is ConvolutionLayer],
                         ids=str, indirect=True)
def test_convolution_is_the_articles_second_form(case):
    layer, what, x, y_grad = case
    y, x_grad = definitions.convolution_second_form(x, layer.k, y_grad)
    assert_same(f"{what}: y beside Y'' = X'' K''^T", layer.forward(x), y + layer.b, 1e-13)
    assert_same(f"{what}: dL/dX beside dL/dX'' = dL/dY'' K''",
                layer.backward(x, y_grad), x_grad, 1e-13)


def test_a_tie_goes_to_the_first_in_row_order_and_a_zero_has_no_slope():
    rng = np.random.default_rng(0)
    x = rng.integers(-1, 2, (2, 1, 4, 12)).astype(float)
    x[0] = 0  # the border of a digit
    for layer in (MaxPoolingLayer(2, 3), ReLULayer()):
        y_grad = rng.standard_normal(layer.forward(x).shape)
        assert_results(layer, f"{type(layer).__name__} with ties and zeros", x, y_grad,
                       defined(layer, x, y_grad), 0)


def test_the_base_classes_only_promise():
    for call in (lambda: NetworkLayer().forward(0), lambda: NetworkLayer().backward(0, 0),
                 lambda: ParamLayer().update(0)):
        pytest.raises(NotImplementedError, call)


@pytest.mark.parametrize("kind, arguments, n", [
    (LinearLayer, (400, 50), 400), (ConvolutionLayer, (4, 500, 3, 5), 60)])
def test_first_parameters_fill_their_range(kind, arguments, n):
    np.random.seed(0)
    layer = kind(*arguments)
    for name in parameters(layer):
        values, bound = getattr(layer, name), np.float32(n ** -0.5)
        assert values.dtype == np.float32 and not getattr(layer, f"{name}_grad").any()
        assert 0.85 * bound < values.max() <= bound and -bound <= values.min() < -0.85 * bound
        assert abs(values.mean()) < 0.15 * bound


def test_the_loss_and_its_gradient_are_those_of_the_definition_and_of_slopes():
    x, y = np.random.default_rng(8).standard_normal((6, 4)) * 3, np.array([0, 3, 1, 1, 2, 0])
    loss, x_grad = CrossEntropyLoss().forward(x, y), CrossEntropyLoss().backward(x, y)
    assert type(loss) is float
    assert_same("CrossEntropyLoss: L", np.array(loss), np.array(definitions.cross_entropy(x, y)))
    assert_same("CrossEntropyLoss: what backward returns, dL/dx,", x_grad,
                definitions.cross_entropy_backward(x, y)["x"])
    assert_same("CrossEntropyLoss: dL/dx beside the slopes", x_grad,
                slopes(x, lambda: CrossEntropyLoss().forward(x, y)), 1e-7)


def test_the_loss_of_far_logits_is_exact():
    x, y = np.array([[10000, -10000], [-10000, 10000]], np.float32), np.array([1, 1], np.uint8)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        assert CrossEntropyLoss().forward(x, y) == 10000  # the mean of 20000 and 0
        x_grad = CrossEntropyLoss().backward(x, y)
    np.testing.assert_array_equal(x_grad, [[0.5, -0.5], [0, 0]])
    assert x_grad.dtype == np.float32


X4 = np.zeros((2, 3, 4, 4))
X2 = np.zeros((2, 3))


@pytest.mark.parametrize("kind, arguments, x, message", [
    (MaxPoolingLayer, (3, 2), X4, r"x has shape \(2, 3, 4, 4\), expected \(2, 3, 3, 4\)"),
    (MaxPoolingLayer, (5, 6), X4, r"x has shape \(2, 3, 4, 4\), expected \(2, 3, 5, 6\)"),
    (FlattenLayer, (1, 4), X4, r"shape \(2, 3, 4, 4\), expected axes 1 to 4"),
    (FlattenLayer, (-5, 1), X4, "axes -5 to 1"), (FlattenLayer, (2, 1), X4, "axes 2 to 1"),
    (LinearLayer, (4, 1), X2, r"x has shape \(2, 3\), expected \(2, 4\)"),
    (ConvolutionLayer, (3, 1, 2, 2), X4[0], "unpack"),
    (ConvolutionLayer, (2, 1, 2, 2), X4, r"\(2, 3, 4, 4\), expected \(2, 2, 4, 4\)"),
    (ConvolutionLayer, (3, 1, 5, 6), X4, r"\(2, 3, 4, 4\), expected \(2, 3, 5, 6\)")])
def test_an_x_of_another_shape_is_refused(kind, arguments, x, message):
    layer = kind(*arguments)
    for call in (layer.forward, lambda x: layer.backward(x, x)):
        with pytest.raises(ValueError, match=message):
            call(x)


def test_a_gradient_that_would_be_broadcast_is_refused(case):
    layer, _, x, y_grad = case
    for call in (layer.backward, getattr(layer, "set_grads", layer.backward)):
        with pytest.raises(ValueError, match="last_x_grad has shape .* expected"):
            call(x, y_grad[np.newaxis])


@pytest.mark.parametrize("x, y, error, message", [
    (X2, np.array([0, -1]), ValueError, "y holds -1 to 0, expected 0 to 2"),
    (X2, np.array([0, 3]), ValueError, "y holds 0 to 3, expected 0 to 2"),
    (X2, np.zeros(2), TypeError, "y has dtype float64, expected integers"),
    (X2, np.array([0]), ValueError, r"shapes \(2, 3\), \(1,\), expected \(B, C\), \(B,\)"),
    (X4, np.zeros(2, int), ValueError, r"shapes \(2, 3, 4, 4\), \(2,\)")])
def test_labels_that_do_not_fit_are_refused(x, y, error, message):
    for call in (CrossEntropyLoss().forward, CrossEntropyLoss().backward):
        with pytest.raises(error, match=message):
            call(x, y)
