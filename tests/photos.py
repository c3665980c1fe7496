"""Photos of handwritten digits as a telephone takes them, made by a program."""
import io

import numpy as np
from PIL import Image
from scipy import ndimage

KINDS = {  # what differs from a black pen on white paper in even light
    "a black pen": {},
    "a thin pen": {"pen": 0.6},
    "a marker, ruled paper, a shadow": {"pen": 0.2, "lines": 1, "shadow": 0.6},
    "a pencil, ruled paper": {"ink": (0.6, 0.6, 0.61), "lines": 1},
    "a blue pen, squared paper": {"ink": (0.15, 0.22, 0.6), "lines": 2},
    "squared paper, light that falls": {"lines": 2, "dark_side": 0.5},
    "light that falls by half": {"dark_side": 0.5},
    "the edge of a shadow": {"shadow": 0.5},
    "a table in a corner": {"table": "corner"},
    "a sheet on a table": {"table": "around"},
    "much noise": {"noise": 0.04},
}
LINE, TABLE = (0.65, 0.75, 0.9), (0.3, 0.2, 0.13)  # colours, red, green and blue from 0 to 1


def photo_of(digit, size, rng, tall=0.4, pen=0.45, ink=(0.13, 0.13, 0.15), lines=0, table="",
             dark_side=1.0, shadow=1.0, noise=0.015):
    """Return a JPEG file of a size (width, height) with digits, (28, any), white on black.

    On paper, lengths are parts of the photo's shorter side, and (0, 0) is in the middle.
    """
    width, height = size
    y, x = (np.indices((height, width)) - np.reshape([height, width], (2, 1, 1)) / 2) / min(size)
    right, down = turned(x, y, rng.uniform(-0.1, 0.1))
    bottom, side = height / min(size) / 2, width / min(size) / 2  # where the photo ends

    photo = np.full((height, width, 3), 0.95)
    for place in (down, right)[:lines]:  # 1 is ruled paper, 2 squared
        photo = darkened(photo, line_amount(place, min(size), rng), LINE)
    photo = darkened(photo, pen_amount(digit, right, down, bottom, side, tall, pen, rng), ink)
    if table == "corner":
        photo[down + right > 0.75 * (bottom + side)] = TABLE
    if table == "around":
        photo[(abs(down) > 0.92 * bottom) | (abs(right) > 0.92 * side)] = TABLE

    across, _ = turned(x, y, rng.uniform(0, 2 * np.pi))  # light falls in any direction
    photo = darkened(photo, 0.5 + across / np.ptp(across), [dark_side] * 3)
    across, _ = turned(x, y, rng.uniform(0, 2 * np.pi))
    photo = darkened(photo, (across + rng.uniform(-0.2, 0.2)) * 60 + 0.5, [shadow] * 3)
    photo += noise * rng.standard_normal(photo.shape)
    file = io.BytesIO()
    Image.fromarray((np.clip(photo, 0, 1) * 255).astype(np.uint8)).save(file, "JPEG", quality=70)
    return file


def turned(x, y, angle):
    """Return the coordinates after a turn around (0, 0)."""
    return x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)


def darkened(photo, amount, colour):
    """Return the photo below a colour, by an amount of 0 to 1 for each pixel."""
    amount = np.clip(amount, 0, 1)[..., np.newaxis]
    return photo * (1 - amount * (1 - np.array(colour)))


def line_amount(place, shorter, rng):
    """Return where parallel lines are printed, which are half a pixel soft at their edges."""
    spacing, thickness = rng.uniform(0.06, 0.15), rng.uniform(0.002, 0.005)
    distance = abs((place + rng.uniform()) % spacing - spacing / 2)
    return (thickness / 2 - distance) * shorter + 0.5


def pen_amount(digit, right, down, bottom, side, tall, pen, rng):
    """Return where a pen wrote the digit, anywhere on the paper, its 20 pixels of 28 made tall."""
    large = ndimage.gaussian_filter(np.kron(digit, np.ones((8, 8))), 6)  # a digit has 160 of 224
    large /= max(large.max(), 1e-9)
    room = np.maximum(0, 0.8 * np.array([bottom, side]) - 0.6 * tall * np.array(digit.shape) / 28)
    top, left = room * rng.uniform(-1, 1, 2)
    rows = (down - top) * 160 / tall + large.shape[0] / 2
    columns = (right - left) * 160 / tall + large.shape[1] / 2
    stroke = ndimage.map_coordinates(large, [rows, columns], order=1)
    return (stroke - pen) * 8 + 0.5  # more pen is a thinner line, with a sharp edge
