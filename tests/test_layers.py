"""Each layer and the loss, alone as a reader pastes it, beside its definition in loops."""
import inspect
import re

import definitions
import numpy as np
import pytest
from helpers import assert_all_same, assert_same

import cnn_numpy


def alone(name):
    """Run the source of a class in a file that has only NumPy and the base classes; return it."""
    bases = "import numpy as np\nclass NetworkLayer: pass\nclass ParamLayer(NetworkLayer): pass\n"
    names = {}
    exec(bases + inspect.getsource(getattr(cnn_numpy, name)), names)
    return names[name]


CASES = {  # a layer's class, its arguments by the articles' names, the shape of its x
    "pooling": ("MaxPoolingLayer", {"k1": 3, "k2": 2}, (2, 3, 6, 4)),
    "ReLU": ("ReLULayer", {}, (2, 3, 4, 5)),
    "linear": ("LinearLayer", {"d1": 4, "d2": 3}, (5, 4)),
    "convolution": ("ConvolutionLayer", {"c1": 2, "c2": 3, "k1": 2, "k2": 3}, (2, 2, 5, 4)),
    "a wide kernel": ("ConvolutionLayer", {"c1": 2, "c2": 2, "k1": 1, "k2": 5}, (3, 2, 3, 6)),
    "a large kernel": ("ConvolutionLayer", {"c1": 2, "c2": 2, "k1": 4, "k2": 5}, (2, 2, 4, 5)),
}


@pytest.fixture(params=CASES)
def case(request):
    """Return a layer, x and dL/dY. x and dL/dY are float64, in which rounding hides nothing."""
    name, arguments, shape = CASES[request.param]
    np.random.seed(1)
    layer = alone(name)(**arguments)
    size = np.prod(shape)
    x = (np.random.permutation(size) - size / 2 + 0.25) / size  # all different, and none is 0:
    x = x.reshape(shape)  # elsewhere pooling and ReLU have no slope
    y_grad = np.random.standard_normal(layer.forward(x).shape)
    x.flags.writeable = y_grad.flags.writeable = False  # a layer must not change them
    return layer, x, y_grad


def gradients(layer, x, y_grad):
    """Return dL/dX and the gradients of the parameters, by their names."""
    grads = {"x": layer.backward(x=x, last_x_grad=y_grad)}
    for name, array in vars(layer).items():
        if name.endswith("_grad"):
            grads[name.replace("_grad", "")] = array
    return grads


DEFINITIONS = {
    "MaxPoolingLayer": (definitions.max_pooling, definitions.max_pooling_backward, ["k1", "k2"]),
    "ReLULayer": (definitions.relu, definitions.relu_backward, []),
    "LinearLayer": (definitions.linear, definitions.linear_backward, ["w", "b"]),
    "ConvolutionLayer": (definitions.convolution, definitions.convolution_backward, ["k", "b"]),
}


# What all layers promise


def test_a_layer_is_what_its_definition_says(case):
    layer, x, y_grad = case
    definition, backward_definition, names = DEFINITIONS[type(layer).__name__]
    attributes = [getattr(layer, name) for name in names]
    y = layer.forward(x=x)
    layer.forward(x - 1)  # must not overwrite y, and backward must not use this x
    assert_same("y", y, definition(x, *attributes), 1e-13)
    expected = backward_definition(x, *attributes, y_grad)
    assert_all_same(gradients(layer, x, y_grad), expected, 1e-13)


def test_the_gradients_are_the_slopes(case, check_gradients):
    layer, x, _ = case
    check_gradients(layer, x)


def test_float32_stays_float32(case):
    layer, x, y_grad = case
    y = layer.forward(np.float32(x))
    grads = gradients(layer, np.float32(x), np.float32(y_grad))
    assert {array.dtype for array in [y, *grads.values()]} == {np.dtype(np.float32)}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_forward_shows_each_nan_and_infinity_in_x(case, value):
    layer, x, _ = case
    for index in np.ndindex(x.shape):
        broken = x.copy()
        broken[index] = value
        assert not np.isfinite(layer.forward(broken)).all(), f"the {value} at {index} is hidden"


def test_backward_shows_nan(case):
    layer, x, y_grad = case
    grads = gradients(layer, x, np.full_like(y_grad, np.nan))
    for name, grad in grads.items():
        assert np.isnan(grad).any(), name


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 4, 5, 3)])  # NumPy would repeat or reshape it
@pytest.mark.parametrize("name, arguments", [  # layers whose y has the shape of x
    ("MaxPoolingLayer", (1, 1)), ("ReLULayer", ()), ("ConvolutionLayer", (3, 3, 1, 1))])
def test_a_gradient_of_another_shape_is_refused(name, arguments, shape):
    with pytest.raises(ValueError, match=rf"{re.escape(str(shape))}, expected \(2, 3, 4, 5\)"):
        alone(name)(*arguments).backward(np.ones((2, 3, 4, 5)), np.ones(shape))


# Max pooling, ReLU, flatten


def test_the_gradient_goes_to_the_first_of_equal_elements_and_nearly_equal_is_not_equal():
    x = np.array([[0, 5, 0, 0, 1, 1 - 1e-15],  # three windows: two equal, all equal, none equal
                  [5, 5, 0, 0, 1 + 1e-15, 1]])
    x_grad = alone("MaxPoolingLayer")(2, 2).backward(x[None, None], np.array([[[[7.0, 8, 9]]]]))
    assert x_grad[0, 0].tolist() == [[0, 7, 8, 0, 0, 0],
                                     [0, 0, 0, 0, 9, 0]]


@pytest.mark.parametrize("k1, k2", [(3, 2), (2, 3), (8, 6)])
def test_windows_that_do_not_fill_the_image_are_refused(k1, k2):
    with pytest.raises(ValueError, match=rf"\(2, 3, 4, 4\).*{k1} x {k2}"):
        alone("MaxPoolingLayer")(k1, k2).forward(np.zeros((2, 3, 4, 4)))


def test_relu_passes_no_gradient_at_zero():
    x_grad = alone("ReLULayer")().backward(np.array([-1.0, 0, 1e-30]), np.array([3.0, 3, 3]))
    assert x_grad.tolist() == [0, 0, 3]


@pytest.mark.parametrize("arguments, shape", [
    ((), (2, 60)), ((-3, 2), (2, 12, 5)), ((0, -1), (120,)), ((0, 1), (6, 4, 5))])
def test_flatten_makes_one_axis_of_those_from_start_to_end(arguments, shape):
    x, layer = np.random.random((2, 3, 4, 5)), alone("FlattenLayer")(*arguments)
    y = layer.forward(x)
    assert_same("y", y, x.reshape(shape))
    assert_same("x_grad", layer.backward(x, y), x)  # dL/dY = y comes back as x


# Linear, convolution


@pytest.mark.parametrize("name, arguments, weights, bound", [
    ("LinearLayer", (4, 3), "w", 4 ** -0.5), ("ConvolutionLayer", (1, 3, 2, 3), "k", 6 ** -0.5)])
def test_weights_and_then_biases_are_uniform_within_1_over_the_root_of_m(
        name, arguments, weights, bound):
    np.random.seed(7)
    layer = alone(name)(*arguments)
    np.random.seed(7)
    for parameter in (getattr(layer, weights), layer.b):
        drawn = np.random.uniform(-bound, bound, parameter.shape)
        assert_same("a parameter", parameter, drawn.astype(np.float32), 0)


def test_the_convolution_is_the_second_form_too():
    layer = alone("ConvolutionLayer")(2, 3, 2, 3)
    x, y_grad = np.random.random((2, 2, 5, 4)), np.random.random((2, 3, 4, 2))
    y, x_grad = definitions.convolution_second_form(x, layer.k, y_grad)
    assert_same("y", layer.forward(x), y + layer.b)
    assert_same("x_grad", layer.backward(x, y_grad), x_grad)


def test_a_kernel_of_another_size_can_be_assigned():
    layer = alone("ConvolutionLayer")(1, 2, 3, 3)
    layer.k, layer.b = np.random.random((4, 2, 1, 3)), np.random.random((1, 4, 1, 1))
    x, y_grad = np.random.random((3, 2, 5, 5)), np.random.random((3, 4, 5, 3))
    assert_same("y", layer.forward(x), definitions.convolution(x, layer.k, layer.b))
    grads = definitions.convolution_backward(x, layer.k, layer.b, y_grad)
    assert_all_same(gradients(layer, x, y_grad), grads)


@pytest.mark.parametrize("shape", [
    (3, 4, 4), (2, 48), (2, 4, 4, 3), (2, 1, 4, 4), (2, 3, 1, 4), (2, 3, 4, 2)])  # not (2, 3, 4, 4)
def test_the_convolution_names_the_shape_found_and_expected(shape):
    found = re.escape(str(shape))
    with pytest.raises(ValueError, match=rf"{found}, expected \(B, 3, >= 2, >= 3\)"):
        alone("ConvolutionLayer")(3, 1, 2, 3).forward(np.zeros(shape))


# The loss

LOSS_FUNC = alone("CrossEntropyLoss")()
X = np.random.default_rng(8).standard_normal((6, 12)) * 3
Y = np.array([0, 11, 1, 1, 2, 0])
X.flags.writeable = Y.flags.writeable = False


@pytest.mark.parametrize("y", [Y, Y.astype(np.uint8), Y.tolist()], ids=["int", "uint8", "list"])
def test_the_loss_is_what_its_definition_says(y):
    loss = LOSS_FUNC.forward(x=X, y=y)
    x_grad = LOSS_FUNC.backward(x=X, y=y)
    assert type(loss) is float
    assert loss == pytest.approx(definitions.cross_entropy(X, Y), rel=1e-12)
    assert_same("x_grad", x_grad, definitions.cross_entropy_backward(X, Y)["x"])


def test_logits_far_apart_give_exact_losses_and_gradients():
    x, y = np.float32([[10000, -10000], [-30000, -20000]]), np.array([1, 1])
    assert LOSS_FUNC.forward(x, y) == (20000 + 0) / 2  # the mean of two losses
    x_grad = LOSS_FUNC.backward(x, y)
    assert x_grad.tolist() == [[0.5, -0.5], [0, 0]]
    assert x_grad.dtype == np.float32


def test_an_infinite_loss_is_an_error():
    with pytest.raises(FloatingPointError, match="inf"):
        LOSS_FUNC.forward(np.array([[0, -np.inf]]), [1])


@pytest.mark.parametrize("y, shown", [
    ([0, -1], "[-1  0]"), ([3, 0], "[0 3]"), ([0.0, 1.0], "[0. 1.]"),
    ([True, False], "[False  True]"), ([0], "(1,)"), ([[0], [1]], "(2, 1)"), (0, "()")], ids=str)
def test_labels_that_do_not_fit_are_refused_and_shown(y, shown):
    for call in (LOSS_FUNC.forward, LOSS_FUNC.backward):
        with pytest.raises(ValueError, match=re.escape(shown)):
            call(np.zeros((2, 3)), np.array(y))
