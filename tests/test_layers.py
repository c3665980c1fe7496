"""Every layer beside its definition in loops and beside slopes; the articles' signatures."""
import inspect
import re

import definitions
import numpy as np
import pytest
from helpers import CASES, as_dtype, assert_as_defined, assert_same, parameters, results
from scipy.optimize import approx_fprime  # which scikit-learn brings

import cnn_numpy
from cnn_numpy import CrossEntropyLoss, MaxPoolingLayer, NetworkLayer, ParamLayer, ReLULayer

FIXED = "NetworkLayer MaxPoolingLayer ReLULayer FlattenLayer"  # they have no parameters
SIGNATURES = [  # of the articles; need_x_grad, save and load are added
    (f"{FIXED} LinearLayer ConvolutionLayer", "forward(self, x: ndarray) -> ndarray"),
    (f"{FIXED} LinearLayer", "backward(self, x: ndarray, last_x_grad: ndarray) -> ndarray"),
    ("ConvolutionLayer",
     "backward(self, x: ndarray, last_x_grad: ndarray, need_x_grad: bool = True) -> ndarray"),
    ("ParamLayer LinearLayer ConvolutionLayer ConvolutionNeuralNetwork",
     "update(self, lr: float) -> None"),
    ("MaxPoolingLayer", "__init__(self, k1: int, k2: int) -> None"),
    ("FlattenLayer", "__init__(self, start: int = 1, end: int = -1) -> None"),
    ("LinearLayer", "__init__(self, d1: int, d2: int) -> None"),
    ("ConvolutionLayer", "__init__(self, c1: int, c2: int, k1: int, k2: int) -> None"),
    ("CrossEntropyLoss", "forward(self, x: ndarray, y: ndarray) -> float"),
    ("CrossEntropyLoss", "backward(self, x: ndarray, y: ndarray) -> ndarray"),
    *[("ConvolutionNeuralNetwork", text) for text in (
        "__init__(self) -> None", "predict(self, x: ndarray) -> ndarray",
        "forward(self, x: ndarray, keepgrad: bool = False) -> ndarray",
        "backward(self, last_x_grad: ndarray, need_x_grad: bool = True) -> ndarray",
        "train(self, train_x: ndarray, train_y: ndarray, batch_size: int, epochs: int, lr: float)"
        " -> float",
        "test(self, test_x: ndarray, test_y: ndarray, batch_size: int) -> float",
        "save(self, path: str) -> None", "load(self, path: str) -> None")]]


@pytest.fixture(params=CASES, ids=[f"{case[0]}{case[1]}" for case in CASES])
def case(request):
    """Return a layer in float64, an x and a y_grad."""
    kind, arguments, x_shape, y_shape = request.param
    rng, size = np.random.default_rng(len(x_shape) + sum(y_shape)), np.prod(x_shape)
    np.random.seed(sum(x_shape))
    odd = 2 * rng.permutation(size) - (size | 1)  # no two are equal, none is 0
    layer = as_dtype(getattr(cnn_numpy, kind)(*arguments), np.float64)
    x, y_grad = odd.reshape(x_shape).astype(np.float64), rng.standard_normal(y_shape)
    x.flags.writeable = y_grad.flags.writeable = False  # what belongs to the caller stays
    return layer, x, y_grad


@pytest.mark.parametrize("expected", [
    "load_dataset(folder: str, shuffle: bool = False) -> tuple[ndarray, ndarray]",
    *[f"{kind}.{text}" for kinds, text in SIGNATURES for kind in kinds.split()]])
def test_signatures_are_the_articles(expected):
    name, function = expected.split("(")[0], cnn_numpy
    for each in name.split("."):
        function = getattr(function, each)
    assert name + re.sub(r"'|numpy\.|np\.", "", str(inspect.signature(function))) == expected


def test_a_layer_does_what_its_definition_says_in_any_order_of_memory(case):
    layer, x, y_grad = case
    assert isinstance(layer, NetworkLayer)
    assert isinstance(layer, ParamLayer) == bool(parameters(layer))
    strided = np.repeat(y_grad, 2, axis=-1)[..., ::2]
    for each in (x, x.astype(int), np.asfortranarray(x)):
        each.flags.writeable = strided.flags.writeable = False
        assert_as_defined(layer, each, strided)
    if hasattr(layer, "k"):
        y, x_grad = definitions.convolution_second_form(x, layer.k, y_grad)
        assert_same("y beside Y'' = X'' K''^T", layer.forward(x), y + layer.b, 1e-13)
        assert_same("dL/dX beside dL/dY'' K''", layer.backward(x, y_grad), x_grad, 1e-13)


def test_gradients_are_the_slopes(case, check_gradients):
    layer, x, _ = case
    check_gradients(layer, x)


def test_float32_stays_and_update_is_a_step_in_place(case):
    layer, x, y_grad = case
    layer.forward(x)  # with the parameters of before
    layer, x, y_grad = as_dtype(layer, np.float32), np.float32(x), np.float32(y_grad)
    x.flags.writeable = y_grad.flags.writeable = False
    assert_as_defined(layer, x, y_grad, 1e-5)
    arrays = results(layer, x, y_grad)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    before = {name: getattr(layer, name) for name in parameters(layer)}
    for lr in (np.float64(0.25), 0, -0.5):
        stepped = {name: array - lr * arrays[name] for name, array in before.items()}
        if before:
            layer.update(lr)
        for name, array in before.items():
            assert getattr(layer, name) is array and array.dtype == np.float32
            assert_same(f"{name} after update({lr})", array, stepped[name], 1e-7)


def test_a_tie_goes_to_the_first_in_row_order_and_a_zero_has_no_slope():
    rng = np.random.default_rng(0)
    x = rng.integers(-1, 2, (2, 1, 4, 12)).astype(float)
    x[0] = 0  # the border of a digit
    for layer in (MaxPoolingLayer(2, 3), ReLULayer()):
        assert_as_defined(layer, x, rng.standard_normal(layer.forward(x).shape), 0)


def test_the_base_classes_only_promise():
    pytest.raises(NotImplementedError, NetworkLayer().forward, 0)
    pytest.raises(NotImplementedError, NetworkLayer().backward, 0, 0)
    pytest.raises(NotImplementedError, ParamLayer().update, 0)


@pytest.mark.parametrize("kind, arguments, n, shapes", [
    ("LinearLayer", (400, 50), 400, {"w": (400, 50), "b": (1, 50)}),
    ("ConvolutionLayer", (4, 500, 3, 5), 60, {"k": (500, 4, 3, 5), "b": (1, 500, 1, 1)})])
def test_first_parameters_fill_their_range_and_follow_the_seed(kind, arguments, n, shapes):
    np.random.seed(7)
    layer = getattr(cnn_numpy, kind)(*arguments)
    np.random.seed(7)
    for name, shape in shapes.items():  # in the order in which they are drawn
        values, grad = getattr(layer, name), getattr(layer, f"{name}_grad")
        np.testing.assert_allclose(values, np.random.uniform(-n ** -0.5, n ** -0.5, shape), 1e-5)
        assert values.dtype == np.float32 and grad.shape == shape and not grad.any()


def test_the_loss_and_its_gradient_are_those_of_the_definition_and_of_slopes():
    x, y = np.random.default_rng(8).standard_normal((6, 12)) * 3, np.array([0, 11, 1, 1, 2, 0])
    x.flags.writeable = y.flags.writeable = False
    loss_func, expected = CrossEntropyLoss(), definitions.cross_entropy_backward(x, y)["x"]
    slopes = approx_fprime(x.ravel(), lambda flat: loss_func.forward(flat.reshape(6, 12), y))
    assert isinstance(loss_func, NetworkLayer) and type(loss_func.forward(x, y)) is float
    for labels in (y, y.astype(np.uint8), y.tolist()):
        loss, x_grad = loss_func.forward(x, labels), loss_func.backward(x, labels)
        assert loss == pytest.approx(definitions.cross_entropy(x, y), 1e-12)
        assert not np.shares_memory(x_grad, loss_func.backward(x, labels))
        assert_same("what backward returns, dL/dx,", x_grad, expected)
        assert_same("dL/dx beside the slopes", x_grad.ravel(), slopes, 1e-6)
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
    ("MaxPoolingLayer", (3, 2), X4), ("MaxPoolingLayer", (2, 3), X4),
    ("MaxPoolingLayer", (4, 5), X4), ("MaxPoolingLayer", (2, 1), X4[:, :, :3]),
    ("LinearLayer", (4, 1), X2), ("ConvolutionLayer", (3, 1, 2, 2), X4[0]),
    ("ConvolutionLayer", (2, 1, 2, 2), X4), ("ConvolutionLayer", (3, 1, 2, 2), X4[:, :1]),
    ("ConvolutionLayer", (3, 1, 5, 4), X4), ("ConvolutionLayer", (3, 1, 4, 5), X4)])
def test_an_x_of_another_shape_is_refused(kind, arguments, x):
    with pytest.raises(ValueError):
        getattr(cnn_numpy, kind)(*arguments).forward(x)


def test_a_gradient_that_would_be_broadcast_is_refused(case):
    layer, x, y_grad = case
    for wrong in (y_grad[np.newaxis], np.ones(y_grad.ndim * [1]), np.swapaxes(y_grad, 0, -1),
                  y_grad.repeat(2, axis=0)):
        if wrong.shape != y_grad.shape:
            with pytest.raises(ValueError, match=r"\blast_x_grad\b") as error:
                layer.backward(x, wrong)
            assert str(wrong.shape) in str(error.value) and str(y_grad.shape) in str(error.value)


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
    with pytest.raises((ArithmeticError, ValueError), match="nan|inf"):
        CrossEntropyLoss().forward(np.array([[0.5, 0.5], [logit, 0]]), np.array([0, 0]))
