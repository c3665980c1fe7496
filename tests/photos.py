"""Photos of handwritten digits as a telephone takes them, made by a program."""
import io

import numpy as np
from PIL import Image
from scipy import ndimage

KINDS = {  # what differs from a black pen on white paper in even light
    "plain": {},
    "light that falls by half": {"dark_side": 0.5},
    "the edge of a shadow": {"shadow": 0.5},
    "squared paper, light that falls": {"lines": 2, "dark_side": 0.5},
    "a table in a corner": {"table": "corner"},
    "a sheet on a table": {"table": "around"},
    "tilted": {"tilt": 0.3},
    "a thin pen": {"pen": 0.6},
    "a pencil, ruled paper": {"ink": (0.6, 0.6, 0.61), "lines": 1},
    "a blue pen, squared paper, tilted": {"ink": (0.15, 0.22, 0.6), "lines": 2, "tilt": 0.3},
    "a marker, ruled paper, shadow, tilted": {"pen": 0.2, "lines": 1, "shadow": 0.6, "tilt": 0.3},
    "cream paper, noise, turned": {"paper": (0.98, 0.93, 0.8), "noise": 0.04, "turned": True},
}


def photo_of(digit, size, rng, tall=0.4, ink=(0.13, 0.13, 0.15), paper=(0.95, 0.95, 0.95), pen=0.45,
             lines=0, table="", tilt=0.0, dark_side=1.0, shadow=1.0, noise=0.015, turned=False):
    """Return a JPEG file of a size (width, height) with digits, (28, any), white on black."""
    shape, shorter = np.array(size[::-1]), min(size)  # in which lengths on paper are measured
    y, x = ((np.arange(n, dtype=np.float32) - n / 2) / shorter for n in shape)

    def across(angle):  # how far each pixel is from a line through the middle
        return y[:, np.newaxis] * np.float32(np.cos(angle)) + x * np.float32(np.sin(angle))

    def darkened(photo, amount, colour):  # by an amount of 0 to 1 in each pixel
        amount = np.clip(amount, 0, 1).astype(np.float32)[..., np.newaxis]
        return photo * (1 - amount * (1 - np.array(colour, np.float32)))

    depth, turn = 1 + tilt * across(rng.uniform(0, 2 * np.pi)), rng.uniform(-0.1, 0.1)
    down, right = across(turn) / depth, across(turn + np.pi / 2) / depth
    photo = np.tile(np.array(paper, np.float32), (*shape, 1))
    spacing, thickness = rng.uniform(0.06, 0.15), rng.uniform(0.002, 0.005)
    for place in (down, right)[:lines]:
        distance = np.abs((place + rng.uniform()) % spacing - spacing / 2)
        photo = darkened(photo, (thickness / 2 - distance) * shorter + 0.5, (0.65, 0.75, 0.9))

    room = np.maximum(0, 0.4 * shape / shorter - 0.6 * tall * np.array(digit.shape) / 28)
    top, left = rng.uniform(-1, 1, 2) * room
    large = ndimage.gaussian_filter(np.kron(digit, np.ones((8, 8))), 6)  # a digit has 160 of 224
    pixels = [(place * 160 / tall + size / 2)
              for place, size in zip((down - top, right - left), large.shape)]
    stroke = ndimage.map_coordinates(large / max(large.max(), 1e-9), pixels, order=1)
    photo = darkened(photo, (stroke - pen) * 8 + 0.5, ink)  # a pen's edge is sharp
    bottom, side = 0.46 * shape / shorter
    outside = {"": down - np.inf, "corner": down + right - 0.8 * (bottom + side),
               "around": np.maximum(np.abs(down) - bottom, np.abs(right) - side)}[table] > 0
    photo[outside] = 0.3, 0.2, 0.13

    light, edge = across(rng.uniform(0, 2 * np.pi)), across(rng.uniform(0, 2 * np.pi))
    photo = darkened(photo, 0.5 + light / np.ptp(light), 3 * [dark_side])
    photo = darkened(photo, (edge + rng.uniform(-0.2, 0.2)) * 60 + 0.5, 3 * [shadow])
    photo += noise * rng.standard_normal(photo.shape, np.float32)
    photo = Image.fromarray((np.clip(photo, 0, 1) * 255).astype(np.uint8))
    file, exif = io.BytesIO(), Image.Exif()
    if turned:
        photo, exif[0x0112] = photo.transpose(Image.Transpose.ROTATE_90), 6
    photo.save(file, "JPEG", quality=70, exif=exif)
    return file
