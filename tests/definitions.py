"""What every layer is: its definition, one number at a time, in the symbols of the articles.

Read it beside cnn_numpy.py, which computes the same with whole arrays. np.ndindex(2, 3) gives all
pairs i, j with i below 2 and j below 3, so a loop over it is a loop in a loop. The indices are
those of cnn_numpy.py: n is an image, c a channel, i, j an output line and column, r, s a kernel
line and column. Besides, o is a channel or a feature of the output, f is a feature of x, and in
the loss c is a class. (Images and kernels have lines, and matrices have rows.)

Every backward of a layer takes dL/dY and returns the gradients of x and of the parameters by their
names: how much L grows with each of these numbers. Where a number is used several times, the
gradients of its uses add up, with += (in the linear layer and the convolution).
"""
import math

import numpy as np

# Part 1: layers without parameters


def max_pooling(x, k1, k2):
    """Return y: each window's largest element."""
    B, C, H, W = x.shape
    y = np.full((B, C, H // k1, W // k2), -math.inf)
    for n, c, i, j in np.ndindex(y.shape):
        for r, s in np.ndindex(k1, k2):
            y[n, c, i, j] = max(y[n, c, i, j], x[n, c, i * k1 + r, j * k2 + s])
    return y


def max_pooling_backward(x, k1, k2, y_grad):
    """Return dL/dX: y_grad at the first element of its window that is the largest, else 0."""
    y, x_grad = max_pooling(x, k1, k2), np.zeros(x.shape)
    for n, c, i, j in np.ndindex(y.shape):
        for r, s in np.ndindex(k1, k2):
            if x[n, c, i * k1 + r, j * k2 + s] == y[n, c, i, j]:
                x_grad[n, c, i * k1 + r, j * k2 + s] = y_grad[n, c, i, j]
                break
    return {"x": x_grad}


def relu(x):
    """Return y: x where it is above 0, else 0."""
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        y[index] = max(x[index], 0)
    return y


def relu_backward(x, y_grad):
    """Return dL/dx: y_grad where x is above 0, else 0."""
    x_grad = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        if x[index] > 0:
            x_grad[index] = y_grad[index]
    return {"x": x_grad}


# Part 2: layers with parameters, and the loss


def linear(x, w, b):
    """Return z = x w + b."""
    (B, d1), d2 = x.shape, w.shape[1]
    z = np.zeros((B, d2))
    for n, o in np.ndindex(B, d2):
        z[n, o] = b[0, o]
        for f in range(d1):
            z[n, o] += x[n, f] * w[f, o]
    return z


def linear_backward(x, w, b, z_grad):
    """Return dL/dX, dL/dW and dL/db: a product passes its gradient to both of its factors."""
    x_grad, w_grad, b_grad = np.zeros(x.shape), np.zeros(w.shape), np.zeros(b.shape)
    for n, o in np.ndindex(z_grad.shape):
        b_grad[0, o] += z_grad[n, o]
        for f in range(x.shape[1]):
            x_grad[n, f] += w[f, o] * z_grad[n, o]
            w_grad[f, o] += x[n, f] * z_grad[n, o]
    return {"x": x_grad, "w": w_grad, "b": b_grad}


def convolution(x, k, b):
    """Return y: at each place the kernel times the patch of the image under it, and b."""
    (B, c1, H, W), (c2, _, k1, k2) = x.shape, k.shape
    y = np.zeros((B, c2, H - k1 + 1, W - k2 + 1))
    for n, o, i, j in np.ndindex(y.shape):
        y[n, o, i, j] = b[0, o, 0, 0]
        for c, r, s in np.ndindex(c1, k1, k2):
            y[n, o, i, j] += x[n, c, i + r, j + s] * k[o, c, r, s]
    return y


def convolution_backward(x, k, b, y_grad):
    """Return dL/dX, dL/dK and dL/db, as in linear_backward."""
    x_grad, k_grad, b_grad = np.zeros(x.shape), np.zeros(k.shape), np.zeros(b.shape)
    for n, o, i, j in np.ndindex(y_grad.shape):
        b_grad[0, o, 0, 0] += y_grad[n, o, i, j]
        for c, r, s in np.ndindex(k.shape[1:]):
            x_grad[n, c, i + r, j + s] += k[o, c, r, s] * y_grad[n, o, i, j]
            k_grad[o, c, r, s] += x[n, c, i + r, j + s] * y_grad[n, o, i, j]
    return {"x": x_grad, "k": k_grad, "b": b_grad}


def unfold_k(k, H, W):
    """Return K'' (c2*o1*o2, c1*H*W): a row for each number of y, a column for each number of x.

    In its row stands the kernel of this number, where it lies on the image; the rest is 0.
    """
    c2, c1, k1, k2 = k.shape
    o1, o2 = H - k1 + 1, W - k2 + 1
    rows = np.zeros((c2, o1, o2, c1, H, W))
    for o, i, j, c, r, s in np.ndindex(c2, o1, o2, c1, k1, k2):
        rows[o, i, j, c, i + r, j + s] = k[o, c, r, s]
    return rows.reshape(c2 * o1 * o2, c1 * H * W)


def convolution_second_form(x, k, y_grad):
    """Return Y'' = X'' K''^T, still without b, and dL/dX'' = dL/dY'' K''.

    The articles' code does so, too; their formula of dL/dX'' prints K''^T for K''.
    """
    k_rows = unfold_k(k, *x.shape[2:])  # K''
    y = x.reshape(len(x), -1) @ k_rows.T
    x_grad = y_grad.reshape(len(x), -1) @ k_rows
    return y.reshape(y_grad.shape), x_grad.reshape(x.shape)


def softmax(x):
    """Return the probability of each class: exp(x) as a share of its row's sum."""
    p = np.zeros(x.shape)
    for n, c in np.ndindex(x.shape):
        p[n, c] = math.exp(x[n, c]) / sum(math.exp(logit) for logit in x[n])
    return p


def cross_entropy(x, y):
    """Return L: minus the logarithm of the label's probability, on average over the batch."""
    p = softmax(x)
    return sum(-math.log(p[n, y[n]]) for n in range(len(y))) / len(y)


def cross_entropy_backward(x, y):
    """Return dL/dx = (p - q) / B, where q is 1 at the label, else 0."""
    p, x_grad = softmax(x), np.zeros(x.shape)
    for n, c in np.ndindex(x.shape):
        x_grad[n, c] = (p[n, c] - (c == y[n])) / len(y)
    return {"x": x_grad}
