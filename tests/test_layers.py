"""Each layer and the loss, alone as they are pasted, beside their definitions in loops."""
import copy
import re

import definitions
import numpy as np
import pytest
from check_gradients import check_gradients
from helpers import MEMORY, alone, assert_all_same, assert_same

import cnn_numpy

CASES = {  # a layer's class, its arguments by the articles' names, the shape of its x
    "pooling": ("MaxPoolingLayer", {"k1": 3, "k2": 2}, (2, 3, 6, 4)),
    "ReLU": ("ReLULayer", {}, (2, 3, 4, 5)),
    "flatten": ("FlattenLayer", {"start": 1, "end": -1}, (2, 3, 2, 5)),
    "linear": ("LinearLayer", {"d1": 4, "d2": 3}, (5, 4)),
    "convolution": ("ConvolutionLayer", {"c1": 2, "c2": 3, "k1": 2, "k2": 3}, (2, 2, 5, 4)),
    "one channel": ("ConvolutionLayer", {"c1": 1, "c2": 2, "k1": 2, "k2": 1}, (2, 1, 3, 4)),
}


def numbers(shape):
    """Return float64 numbers, all different, and none is 0: there pooling and ReLU have a slope."""
    size = np.prod(shape)
    x = (np.random.permutation(size) - size / 2 + 0.25) / size
    return x.reshape(shape)


@pytest.fixture(params=CASES)
def case(request):
    """Return a layer, x and dL/dY. x and dL/dY are float64, in which rounding hides nothing."""
    name, arguments, shape = CASES[request.param]
    np.random.seed(1)
    layer, x = alone(name)(**arguments), numbers(shape)
    y_grad = np.random.standard_normal(layer.forward(x).shape)
    x.flags.writeable = y_grad.flags.writeable = False  # a layer must not change them
    return layer, x, y_grad


DEFINITIONS = {
    "MaxPoolingLayer": (definitions.max_pooling, definitions.max_pooling_backward, ["k1", "k2"]),
    "ReLULayer": (definitions.relu, definitions.relu_backward, []),
    "FlattenLayer": (lambda x: x.reshape(len(x), -1),
                     lambda x, y_grad: {"x": y_grad.reshape(x.shape)}, []),
    "LinearLayer": (definitions.linear, definitions.linear_backward, ["w", "b"]),
    "ConvolutionLayer": (definitions.convolution, definitions.convolution_backward, ["k", "b"]),
}


def by_definition(layer, x, y_grad):
    """Return y, dL/dX and the gradients of the parameters, by their names."""
    definition, backward_definition, names = DEFINITIONS[type(layer).__name__]
    attributes = [getattr(layer, name) for name in names]
    return {"y": definition(x, *attributes), **backward_definition(x, *attributes, y_grad)}


def by_layer(layer, x, y_grad):
    """Return the same as the layer computes it."""
    results = {"y": layer.forward(x=x), "x": layer.backward(x=x, last_x_grad=y_grad)}
    for name, array in vars(layer).items():
        if name.endswith("_grad"):
            results[name.replace("_grad", "")] = array
    return results


def parameters_of(layer):
    """Return the layer's parameters by their names."""
    return {name: array for name, array in vars(layer).items() if name in ("w", "k", "b")}


# What all layers promise


@pytest.mark.parametrize("B, change", [
    (1, lambda x: x), (2, lambda x: 1e6 * x), (5, lambda x: 1e-9 * x),
    (3, lambda x: 1e6 * (x - 2)), (3, lambda x: x + 2),
    (3, lambda x: np.round(3 * x)),  # pooling meets equal numbers, and ReLU meets 0
    (3, lambda x: 1e-12 * x + 1),  # nearly equal numbers
], ids=range(7))
def test_a_layer_is_what_its_definition_says(case, B, change):
    layer, x, y_grad = case
    x, y_grad = numbers((B, *x.shape[1:])), np.random.standard_normal((B, *y_grad.shape[1:]))
    by_layer(layer, x, y_grad)
    x[...], y_grad[...] = change(x), change(y_grad)  # in place: a layer must read them anew
    for parameter in parameters_of(layer).values():
        parameter *= 100
    y = layer.forward(x)
    layer.forward(x - 1)  # must not overwrite y, and backward must not use this x
    expected = by_definition(layer, x, y_grad)
    assert_same("y", y, expected["y"], 1e-13)
    assert_all_same(by_layer(layer, x, y_grad), expected, 1e-13)


def test_the_gradients_are_the_slopes(case):
    layer, x, _ = case
    check_gradients(layer, x)


def test_float32_stays_float32(case):
    layer, x, y_grad = case
    results = by_layer(layer, np.float32(x), np.float32(y_grad))
    assert {array.dtype for array in results.values()} == {np.dtype(np.float32)}
    assert_all_same(results, by_layer(layer, x, y_grad), 1e-6)


def test_a_batch_of_any_size_is_the_sum_of_its_parts(case):
    layer, x, y_grad = case
    x = numbers((3000, *x.shape[1:]))
    y_grad = np.random.standard_normal((3000, *y_grad.shape[1:]))
    ends = np.cumsum([*range(1, 34), 64, 64, 100, 129, 257, 1000])  # the last part has 825 images
    parts = []
    for part in zip(np.split(x, ends), np.split(y_grad, ends)):
        parts.append(by_layer(layer, *part))  # the second 64 must not overwrite the first
    for name, array in by_layer(layer, x, y_grad).items():
        arrays = [part[name] for part in parts]
        together = np.concatenate(arrays) if name in ("y", "x") else sum(arrays)
        assert_same(name, together, array)


@pytest.mark.parametrize("memory", MEMORY)
def test_the_same_numbers_in_other_memory_give_the_same(case, memory):
    layer, x, y_grad = case
    expected = by_definition(layer, x, y_grad)
    new = {name: array - 0.5 * expected[name] for name, array in parameters_of(layer).items()}
    for name, array in parameters_of(layer).items():
        setattr(layer, name, MEMORY[memory](np.float64(array)))
    parameters = parameters_of(layer)  # no copies: update must change them in place
    results = by_layer(layer, MEMORY[memory](x), MEMORY[memory](y_grad))
    if new:
        layer.update(0.5)
    assert_all_same(results, expected, 1e-13)
    assert_all_same(parameters, new, 1e-13)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # some processors warn of infinity
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_shown_by_forward_and_backward(case, value):
    layer, x, y_grad = case
    for index in np.ndindex(x.shape):
        broken = x.copy()
        broken[index] = value
        assert not np.isfinite(layer.forward(broken)).all(), f"the {value} at {index} is hidden"
    results = by_layer(layer, x, np.full_like(y_grad, value))
    for name in results.keys() - {"y"}:
        assert not np.isfinite(results[name]).all(), name


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 4, 5, 3)])  # NumPy would repeat or reshape it
@pytest.mark.parametrize("name, arguments", [  # layers whose y has the shape of x
    ("MaxPoolingLayer", (1, 1)), ("ReLULayer", ()), ("ConvolutionLayer", (3, 3, 1, 1))])
def test_a_gradient_of_another_shape_is_refused(name, arguments, shape):
    with pytest.raises(ValueError, match=rf"{re.escape(str(shape))}, expected \(2, 3, 4, 5\)"):
        alone(name)(*arguments).backward(np.ones((2, 3, 4, 5)), np.ones(shape))


SIZES = np.random.default_rng(6).integers(1, 6, (25, 7)).tolist() + [  # B, c1, c2, k1, k2, o1, o2
    (2, 70, 2, 1, 2, 2, 3), (2, 2, 70, 2, 1, 3, 2), (2, 2, 2, 17, 18, 2, 3),
    (2, 1, 2, 2, 1, 1, 300), (2, 1, 2, 1, 2, 300, 1), (1, 1, 1, 1, 1, 70, 70),
    (1, 1, 4, 5, 5, 24, 24), (1, 4, 16, 3, 3, 10, 10)]  # these two are the network's


@pytest.mark.parametrize("name", ["MaxPoolingLayer", "LinearLayer", "ConvolutionLayer"])
def test_layers_of_all_sizes_are_what_their_definitions_say(name):
    for B, c1, c2, k1, k2, o1, o2 in SIZES:
        arguments, shape = {
            "MaxPoolingLayer": ((k1, k2), (B, c1, k1 * o1, k2 * o2)),
            "LinearLayer": ((c1 * k1 * k2, c2 * o1), (B, c1 * k1 * k2)),
            "ConvolutionLayer": ((c1, c2, k1, k2), (B, c1, o1 + k1 - 1, o2 + k2 - 1)),
        }[name]
        layer, x = alone(name)(*arguments), np.random.standard_normal(shape)
        y_grad = np.random.standard_normal(layer.forward(x).shape)
        assert_all_same(by_layer(layer, x, y_grad), by_definition(layer, x, y_grad), 1e-13)


# What single layers promise


@pytest.mark.parametrize("k1, k2", [(3, 2), (2, 3), (8, 6)])
def test_windows_that_do_not_fill_the_image_are_refused(k1, k2):
    with pytest.raises(ValueError, match=rf"\(2, 3, 4, 4\).*{k1} x {k2}"):
        alone("MaxPoolingLayer")(k1, k2).forward(np.zeros((2, 3, 4, 4)))


@pytest.mark.parametrize("start_end, shape, flat", [
    ((), (2, 3), (2, 3)), ((), (2, 3, 4), (2, 12)), ((), (2, 3, 2, 2, 2), (2, 24)),
    ((2,), (2, 3, 4, 5), (2, 3, 20)), ((1, 3), (2, 3, 2, 2, 5), (2, 12, 5)),
    ((-3, 2), (2, 3, 4, 5), (2, 12, 5)), ((0, -1), (2, 3, 4, 5), (120,)),
    ((0, 1), (2, 3, 4), (6, 4))])
def test_flatten_makes_one_axis_of_those_from_start_to_end(start_end, shape, flat):
    x, layer = np.random.random(shape), alone("FlattenLayer")(*start_end)
    y = layer.forward(x)
    assert_same("y", y, x.reshape(flat))
    assert_same("x_grad", layer.backward(x, y), x)  # dL/dY = y comes back as x


def test_the_convolution_is_the_second_form_too():
    layer = alone("ConvolutionLayer")(2, 3, 2, 3)
    x, y_grad = np.random.random((2, 2, 5, 4)), np.random.random((2, 3, 4, 2))
    y, x_grad = definitions.convolution_second_form(x, layer.k, y_grad)
    assert_same("y", layer.forward(x), y + layer.b)
    assert_same("x_grad", layer.backward(x, y_grad), x_grad)


@pytest.mark.parametrize("case", ["linear", "convolution"], indirect=True)
def test_each_update_subtracts_lr_times_the_gradient(case):
    layer, x, y_grad = case
    for name, array in parameters_of(layer).items():
        setattr(layer, name, np.float64(array))
    expected = copy.deepcopy(parameters_of(layer))
    layer.update(lr=0.5)  # before any backward, whose gradients are then 0
    assert_all_same(parameters_of(layer), expected, 0)
    for scale, lr in 10 ** np.random.uniform(-6, 2, (1000, 2)):
        by_layer(layer, x, scale * y_grad)
        for name, array in parameters_of(layer).items():
            expected[name] = array - lr * getattr(layer, f"{name}_grad")
        layer.update(lr)
        assert_all_same(parameters_of(layer), expected, 1e-15)
    assert_all_same(by_layer(layer, x, y_grad), by_definition(layer, x, y_grad))  # after all steps


@pytest.mark.parametrize("shape", [
    (3, 4, 4), (2, 48), (2, 4, 4, 3), (2, 1, 4, 4), (2, 3, 1, 4), (2, 3, 4, 2)])  # not (2, 3, 4, 4)
@pytest.mark.parametrize("name, arguments, expected", [
    ("ConvolutionLayer", (3, 1, 2, 3), "(B, 3, >= 2, >= 3)"), ("LinearLayer", (4, 2), "(B, 4)")])
def test_a_wrong_shape_of_x_is_shown_with_the_expected_one(name, arguments, expected, shape):
    with pytest.raises(ValueError, match=re.escape(f"{shape}, expected {expected}")):
        alone(name)(*arguments).forward(np.zeros(shape))


# The base classes


def test_the_base_classes_are_those_of_the_series():
    for name in ("MaxPoolingLayer", "ReLULayer", "FlattenLayer", "CrossEntropyLoss", "ParamLayer"):
        layer = getattr(cnn_numpy, name)
        assert issubclass(layer, cnn_numpy.NetworkLayer)
        assert hasattr(layer, "update") == (name == "ParamLayer")
    assert issubclass(cnn_numpy.LinearLayer, cnn_numpy.ParamLayer)
    assert issubclass(cnn_numpy.ConvolutionLayer, cnn_numpy.ParamLayer)


@pytest.mark.parametrize("name, arguments", [
    ("forward", {"x": 0}), ("backward", {"x": 0, "last_x_grad": 0}), ("update", {"lr": 0.1})])
def test_the_methods_of_the_base_classes_are_not_implemented(name, arguments):
    with pytest.raises(NotImplementedError):
        getattr(cnn_numpy.ParamLayer(), name)(**arguments)


# The loss

LOSS_FUNC = alone("CrossEntropyLoss")()
X = np.random.default_rng(8).standard_normal((300, 12)) * 3
Y = np.arange(300) * 7 % 12
X.flags.writeable = Y.flags.writeable = False
LOSS, LOSS_GRAD = definitions.cross_entropy(X, Y), definitions.cross_entropy_backward(X, Y)["x"]


@pytest.mark.parametrize("x, y", [
    (X, Y.tolist()), (X, np.repeat(Y, 2)[::2]), (X, Y.astype(">i4")),
    *((X, Y.astype(typecode)) for typecode in "bBhHiIlLqQ"),  # NumPy's types of integers
    *((memory(X), Y) for memory in MEMORY.values())])
def test_the_loss_is_what_its_definition_says(x, y):
    loss, x_grad = LOSS_FUNC.forward(x=x, y=y), LOSS_FUNC.backward(x=x, y=y)
    again = LOSS_FUNC.backward(x, y)
    LOSS_FUNC.backward(-x, y)  # must not overwrite x_grad
    assert type(loss) is float and loss == pytest.approx(LOSS, rel=2e-14, abs=0)
    assert_same("x_grad", x_grad, LOSS_GRAD, 1e-14)
    assert_same("x_grad of a second call", again, LOSS_GRAD, 1e-14)


@pytest.mark.parametrize("C", [1, 2, 130])
def test_the_loss_of_any_number_of_rows_is_their_mean(C):
    x = 300 * np.random.standard_normal((3000, C))  # exp(x) overflows, and many p round to 0
    y = np.random.randint(0, C, 3000)
    log_p = x - np.logaddexp.reduce(x, axis=1)[:, np.newaxis]
    q = np.eye(C)[y]
    losses = -(q * log_p).sum(axis=1)
    for B in [*range(1, 34), 64, 100, 129, 257, 1000, 3000]:
        loss = LOSS_FUNC.forward(x[:B], y[:B])
        assert loss == pytest.approx(losses[:B].mean(), rel=1e-11, abs=1e-11)
        p_minus_q = B * LOSS_FUNC.backward(x[:B], y[:B])
        assert abs(p_minus_q - (np.exp(log_p[:B]) - q[:B])).max() < 1e-11


@pytest.mark.parametrize("logit, shown", [(-np.inf, "inf"), (np.nan, "nan")])
def test_a_loss_that_is_not_finite_is_an_error(logit, shown):
    with pytest.raises(FloatingPointError, match=shown):
        LOSS_FUNC.forward(np.array([[0, logit]]), [1])


@pytest.mark.parametrize("y, shown", [
    ([0, -1], "[-1  0]"), ([3, 0], "[0 3]"), ([0.0, 1.0], "[0. 1.]"),
    ([True, False], "[False  True]"), ([0], "(1,)"), ([[0], [1]], "(2, 1)"), (0, "()")], ids=str)
def test_labels_that_do_not_fit_are_refused_and_shown(y, shown):
    for call in (LOSS_FUNC.forward, LOSS_FUNC.backward):
        with pytest.raises(ValueError, match=re.escape(shown)):
            call(np.zeros((2, 3)), np.array(y))
