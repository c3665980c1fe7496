"""Compare a layer's gradients with slopes, which need no formula but only the layer's forward.

    python tests/examples/check_gradients.py

checks the layers of cnn_numpy.py, and an average pooling as an example of a layer of your own.
Copy this file, or its two functions, to wherever your layer is.
"""
import numpy as np


def slope_of(layer, x, last_x_grad, array, index):
    """Return how fast L = sum(y * dL/dy) grows with the number that an array has at an index."""
    number, losses = array[index], []
    for step in 1e-5, -1e-5:
        array[index] = number + step
        losses.append(np.sum(layer.forward(x) * last_x_grad))
    array[index] = number
    return (losses[0] - losses[1]) / 2e-5


def check_gradients(layer, x):
    """Compare dL/dx, and dL/dp of each parameter p, with the slopes of L.

    Take np.random.randn for x. Max pooling has no slope where two elements are equal, and ReLU has
    none at 0: with real images, or with zeros, layers fail that are right. After the check the
    layer computes in float64, so make a new one.
    """
    for name, value in vars(layer).items():
        if isinstance(value, np.ndarray):
            setattr(layer, name, value.astype(np.float64))  # slopes need its precision
    x = x.astype(np.float64)
    last_x_grad = np.random.randn(*layer.forward(x).shape)
    layer.backward(2 * x, last_x_grad)  # another batch, of which nothing may remain
    values = {"x": x, "x_grad": layer.backward(x, last_x_grad), **vars(layer)}
    checked, others = [], []
    for name, array in values.items():
        if name.endswith("_grad") or isinstance(array, int):  # an int is a size, or True or False
            continue
        if not isinstance(array, np.ndarray) or f"{name}_grad" not in values:
            others.append(name)
            continue
        grad = values[f"{name}_grad"]
        assert np.shape(grad) == array.shape, \
            f"dL/d{name} has shape {np.shape(grad)}, {name} has {array.shape}"
        for index in np.ndindex(array.shape):
            slope = slope_of(layer, x, last_x_grad, array, index)
            if abs(grad[index] - slope) < 1e-6:
                continue
            message = f"dL/d{name} at {index} is {grad[index]:.6g}, the slope is {slope:.6g}"
            again = slope_of(layer, x, last_x_grad, array, index)
            if abs(again - slope) > 1e-6:
                message += f", and then {again:.6g}: reseed a random layer in its forward"
            raise AssertionError(message)
        checked.append(name)
    print("the gradients agree:", *checked)
    if others:
        print("not looked at:", *others, "(a parameter w is an array, and has a w_grad; "
              "a running mean needs none)")
    if hasattr(layer, "update") and checked == ["x"]:
        print("update has no parameter: expected an array self.w, and self.w_grad of its shape")


class AveragePoolingLayer:
    """The mean of each 2 x 2 window."""

    def forward(self, x):
        B, C, H, W = x.shape
        return x.reshape(B, C, H // 2, 2, W // 2, 2).mean(axis=(3, 5))  # (B, C, H/2, W/2)

    def backward(self, x, last_x_grad):
        return last_x_grad.repeat(2, axis=2).repeat(2, axis=3) / 4  # (B, C, H, W)


def main():
    """Check layers, each with what the layer before it returns."""
    import shared  # noqa: F401 - after it, Python finds cnn_numpy.py

    from cnn_numpy import (
        ConvolutionLayer,
        FlattenLayer,
        LinearLayer,
        MaxPoolingLayer,
        ReLULayer,
    )
    np.random.seed(0)
    x = np.random.randn(2, 1, 10, 10)
    for layer in [ConvolutionLayer(1, 3, 3, 3), MaxPoolingLayer(2, 2), ReLULayer(),
                  AveragePoolingLayer(), FlattenLayer(), LinearLayer(12, 5)]:
        print(type(layer).__name__, end=": ")
        check_gradients(layer, x)
        x = layer.forward(x)


if __name__ == "__main__":
    main()
