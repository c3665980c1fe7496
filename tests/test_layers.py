"""Every layer beside its definition in loops, and beside slopes; the articles' signatures."""
import inspect
import re

import definitions
import numpy as np
import pytest
from helpers import as_dtype, assert_same, definition, parameters

import cnn_numpy
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

SIGNATURES = {  # of the articles; need_x_grad, save and load are added
    "NetworkLayer": "forward(x) backward(x, last_x_grad)",
    "MaxPoolingLayer": "__init__(k1, k2) forward(x) backward(x, last_x_grad)",
    "ReLULayer": "forward(x) backward(x, last_x_grad)",
    "FlattenLayer": "__init__(start=1, end=-1) forward(x) backward(x, last_x_grad)",
    "ParamLayer": "update(lr)",
    "LinearLayer": "__init__(d1, d2) forward(x) backward(x, last_x_grad) update(lr)",
    "ConvolutionLayer": "__init__(c1, c2, k1, k2) forward(x) update(lr) "
                        "backward(x, last_x_grad, need_x_grad=True)",
    "CrossEntropyLoss": "forward(x, y) backward(x, y)",
    "ConvolutionNeuralNetwork": "__init__() forward(x, keepgrad=False) update(lr) predict(x) "
                                "backward(last_x_grad, need_x_grad=True) save(path) load(path) "
                                "train(train_x, train_y, batch_size, epochs, lr) "
                                "test(test_x, test_y, batch_size)",
}
TYPES = {**dict.fromkeys("k1 k2 c1 c2 d1 d2 start end batch_size epochs".split(), int),
         **dict.fromkeys("shuffle keepgrad need_x_grad".split(), bool), "lr": float,
         **dict.fromkeys("x y last_x_grad train_x train_y test_x test_y".split(), np.ndarray)}
RETURNS = {**dict.fromkeys("__init__ update save load".split()), "train": float, "test": float,
           "load_dataset": tuple[np.ndarray, np.ndarray]}
CASES = [  # a layer, the shape of its x, the shape of its y
    (MaxPoolingLayer, (3, 2), (2, 3, 6, 4), (2, 3, 2, 2)),
    (ReLULayer, (), (2, 3, 4, 5), (2, 3, 4, 5)),
    (ReLULayer, (), (7,), (7,)),
    (FlattenLayer, (), (2, 3, 4, 5), (2, 60)),
    (FlattenLayer, (-3, 2), (2, 3, 4, 5), (2, 12, 5)),
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
    x, y_grad = odd.reshape(x_shape).astype(np.float64), rng.standard_normal(y_shape)
    x.flags.writeable = y_grad.flags.writeable = False  # what belongs to the caller stays
    return layer, f"{kind.__name__}{arguments}", x, y_grad


def defined(layer, x, y_grad):
    """Return y and all gradients, as the layer is defined."""
    y, backward = definition(layer, x)
    return y, backward(y_grad)


def results(layer, x, y_grad):
    """Return y and all gradients that the layer gives, by their names."""
    y, _ = layer.forward(x), layer.forward(x - 1)  # which backward must not go by
    layer.backward(x, 3 * y_grad)  # whose gradients are overwritten
    grads = {"x": layer.backward(x, y_grad)}
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


@pytest.mark.parametrize("kind, name, expected", [
    (kind, *method) for kind, text in SIGNATURES.items()
    for method in re.findall(r"(\w+)\((.*?)\)", text)] + [
    (None, "load_dataset", "folder, shuffle=False")])
def test_signatures_are_the_articles(kind, name, expected):
    function = getattr(getattr(cnn_numpy, kind) if kind else cnn_numpy, name)
    signature = inspect.signature(function)
    given = [each for each in signature.parameters.values() if each.name != "self"]
    bare = [each.replace(annotation=each.empty) for each in given]
    assert str(inspect.Signature(bare)) == f"({expected})"
    for each in given:
        assert each.annotation is not each.empty
        assert TYPES.get(each.name, each.annotation) is each.annotation
    returned = float if expected == "x, y" and name == "forward" else RETURNS.get(name, np.ndarray)
    assert signature.return_annotation == returned


def test_a_layer_does_what_its_definition_says_in_any_order_of_memory(case):
    layer, what, x, y_grad = case
    assert isinstance(layer, ParamLayer if parameters(layer) else NetworkLayer)
    strided = np.repeat(y_grad, 2, axis=-1)[..., ::2]
    for each in (x, x.astype(int), np.asfortranarray(x)):
        each.flags.writeable = strided.flags.writeable = False
        assert_results(layer, what, each, strided, defined(layer, x, y_grad))


def test_gradients_are_the_slopes(case):
    layer, what, x, y_grad = case
    x = x.copy()
    arrays = {"x": x, **{name: getattr(layer, name) for name in parameters(layer)}}
    expected = {name: slopes(array, lambda: np.sum(layer.forward(x) * y_grad))
                for name, array in arrays.items()}
    assert_results(layer, what, x, y_grad, (layer.forward(x), expected), 1e-7)


def test_float32_stays_and_update_is_a_step_in_place(case):
    layer, what, x, y_grad = case
    expected, x, y_grad = defined(layer, x, y_grad), np.float32(x), np.float32(y_grad)
    layer.forward(x)  # with the parameters of before
    as_dtype(layer, np.float32)
    x.flags.writeable = y_grad.flags.writeable = False
    y, grads = results(layer, x, y_grad)
    assert {array.dtype for array in (y, *grads.values())} == {np.dtype(np.float32)}
    assert_results(layer, what, x, y_grad, expected, 1e-5)
    before = {name: getattr(layer, name) for name in parameters(layer)}
    for lr in (np.float64(0.25), 0, -0.5):
        stepped = {name: array - lr * grads[name] for name, array in before.items()}
        if before:
            layer.update(lr)
        for name, array in before.items():
            assert getattr(layer, name) is array and array.dtype == np.float32
            assert_same(f"{what}: {name} after update({lr})", array, stepped[name], 1e-7)


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


@pytest.mark.parametrize("kind, arguments, n, shapes", [
    (LinearLayer, (400, 50), 400, {"w": (400, 50), "b": (1, 50)}),
    (ConvolutionLayer, (4, 500, 3, 5), 60, {"k": (500, 4, 3, 5), "b": (1, 500, 1, 1)})])
def test_first_parameters_fill_their_range_and_follow_the_seed(kind, arguments, n, shapes):
    np.random.seed(7)
    layer = kind(*arguments)
    np.random.seed(7)
    for name, shape in shapes.items():  # in the order in which they are drawn
        values, grad = getattr(layer, name), getattr(layer, f"{name}_grad")
        np.testing.assert_allclose(values, np.random.uniform(-n ** -0.5, n ** -0.5, shape), 1e-5)
        assert values.dtype == np.float32 and grad.shape == shape and not grad.any()


def test_the_loss_and_its_gradient_are_those_of_the_definition_and_of_slopes():
    x, y = np.random.default_rng(8).standard_normal((6, 4)) * 3, np.array([0, 3, 1, 1, 2, 0])
    loss_func, expected = CrossEntropyLoss(), definitions.cross_entropy_backward(x, y)["x"]
    expected_slopes = slopes(x, lambda: loss_func.forward(x, y))
    x.flags.writeable = y.flags.writeable = False
    assert isinstance(loss_func, NetworkLayer) and type(loss_func.forward(x, y)) is float
    for labels in (y, y.astype(np.uint8), y.tolist()):
        loss, x_grad = loss_func.forward(x, labels), loss_func.backward(x, labels)
        assert_same("CrossEntropyLoss: L", np.array(loss),
                    np.array(definitions.cross_entropy(x, y)))
        assert_same("CrossEntropyLoss: what backward returns, dL/dx,", x_grad, expected)
        assert_same("CrossEntropyLoss: dL/dx beside the slopes", x_grad, expected_slopes, 1e-7)
    assert_same("softmax", loss_func.softmax(x), definitions.softmax(x))


@pytest.mark.filterwarnings("error")
def test_each_row_of_far_logits_has_its_own_largest_and_stays_exact():
    x = np.array([[10000, -10000], [-30000, -20000], [1, 0]], np.float32)
    y = np.array([1, 1, 0], np.uint8)
    x.flags.writeable = False
    loss = CrossEntropyLoss().forward(x, y)  # the mean of 20000, 0 and log(1 + 1/e)
    assert loss == pytest.approx((20000 + np.log1p(np.exp(-1))) / 3, rel=1e-6)
    x_grad, p = CrossEntropyLoss().backward(x, y), 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(x_grad, np.array([[1, -1], [0, 0], [p - 1, 1 - p]]) / 3, rtol=1e-6)
    np.testing.assert_allclose(CrossEntropyLoss.softmax(x), [[1, 0], [0, 1], [p, 1 - p]], 1e-6)
    assert x_grad.dtype == CrossEntropyLoss.softmax(x).dtype == np.float32


X4 = np.zeros((2, 3, 4, 4))
X2 = np.zeros((2, 3))


@pytest.mark.parametrize("kind, arguments, x", [
    (MaxPoolingLayer, (3, 2), X4), (MaxPoolingLayer, (2, 3), X4), (MaxPoolingLayer, (4, 5), X4),
    (MaxPoolingLayer, (2, 1), X4[:, :, :3]), (LinearLayer, (4, 1), X2),
    (ConvolutionLayer, (3, 1, 2, 2), X4[0]), (ConvolutionLayer, (2, 1, 2, 2), X4),
    (ConvolutionLayer, (3, 1, 2, 2), X4[:, :1]), (ConvolutionLayer, (3, 1, 5, 4), X4),
    (ConvolutionLayer, (3, 1, 4, 5), X4)])
def test_an_x_of_another_shape_is_refused(kind, arguments, x):
    with pytest.raises(ValueError):
        kind(*arguments).forward(x)


def test_a_gradient_that_would_be_broadcast_is_refused(case):
    layer, _, x, y_grad = case
    for wrong in (y_grad[np.newaxis], np.ones(y_grad.ndim * [1]), np.swapaxes(y_grad, 0, -1),
                  y_grad.repeat(2, axis=0)):
        if wrong.shape != y_grad.shape:
            with pytest.raises(ValueError) as error:
                layer.backward(x, wrong)
            assert str(wrong.shape) in str(error.value) and str(y_grad.shape) in str(error.value)
            assert "last_x_grad" in str(error.value).split()


@pytest.mark.parametrize("x, y, words", [
    (X2, np.array([0, -1]), "-1"), (X2, np.array([3, 0]), "3"),
    (X2, np.zeros(2), ""), (X2, np.array([True, True]), ""),
    (X2, np.array([0]), "(1,)"), (X2, np.zeros((2, 1), int), "(2, 1)"), (X2, 0, "()"),
    (X2[:0], np.zeros(0, int), ""), (X4, np.zeros(2, int), "(2, 3, 4, 4)")])
def test_labels_that_do_not_fit_are_refused(x, y, words):
    for call in (CrossEntropyLoss().forward, CrossEntropyLoss().backward):
        with pytest.raises((ValueError, TypeError)) as error:
            call(x, y)
        assert words in str(error.value)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("logit", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_is_an_error(logit):
    with pytest.raises(FloatingPointError, match="nan|inf"):
        CrossEntropyLoss().forward(np.array([[0.5, 0.5], [logit, 0]]), np.array([0, 0]))
