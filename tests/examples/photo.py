"""Recognise the digit on a photo: one digit, darker or lighter than the ground all round it.

    python tests/examples/photo.py photo.jpg

Each file gets a line with the answer. With one file, a window shows what the network gets of it.
"""
import sys
from argparse import ArgumentParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError  # of Pillow, which matplotlib brings
from scipy import ndimage  # SciPy, which is installed with scikit-learn
from shared import open_window, parse_arguments


def digit_image(path):
    """Return the digit on a photo as the network knows digits, float32 (1, 1, 28, 28)."""
    ink = ink_of(read_photo(path))
    for part in ink, ink_off_the_edge(ink):  # first all ink, because a digit may touch the edge
        dark = part > max(0.15, 0.3 * part.max())  # a pencil is light, but much darker than paper
        shapes = large_shapes(dark)
        dark_on_edge = dark.sum() - dark[1:-1, 1:-1].sum()
        if len(shapes) == 1 and dark_on_edge < 120:  # more is a table, or the edge of a shadow
            image = centred(shapes[0])
            return image[np.newaxis, np.newaxis]
    raise ValueError(f"{path} shows {len(shapes)} shapes that differ from their ground, "
                     "expected one digit with the same ground all round")


def read_photo(path):
    """Return a photo in colour, as the camera was held, its longer side made 300 pixels."""
    if not Path(path).exists():
        raise ValueError(f"there is no {path}")
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder, expected a photo")
    try:
        with Image.open(path) as photo:
            mode = photo.mode
            photo = ImageOps.exif_transpose(photo).convert("RGBA")
    except UnidentifiedImageError:
        hint = ": convert it to JPEG" if str(path).lower().endswith((".heic", ".heif")) else ""
        raise ValueError(f"{path} is no photo that Pillow can read{hint}") from None
    except Exception as error:  # Pillow raises many kinds of errors
        raise ValueError(f"{path} cannot be read: {error}") from error
    if mode.startswith(("I", "F")):  # 16 or 32 bits: convert has clipped them
        raise ValueError(f"{path} cannot be read: more than 8 bits a channel, expected 8 or fewer")
    photo = ImageOps.contain(photo, (300, 300))  # every length below is for this size
    if 0 in photo.size:
        raise ValueError(f"{path} is a thin line of pixels, expected a photo")
    white = Image.new("RGBA", photo.size, "white")
    return Image.alpha_composite(white, photo)  # transparent pixels become paper


def ink_of(photo):
    """Return how much darker than the paper each pixel is, float32 (H, W), 1 for black on white.

    A light digit on dark ground is turned over first: it becomes a dark one on light paper.
    """
    light = np.asarray(photo.convert("L"), np.float32)
    light = ndimage.gaussian_filter(light, 1)  # without the noise of the camera
    if 2 * np.median(light) < light.max() + light.min():  # most pixels are dark
        light = light.max() + light.min() - light
    paper = np.median(light)  # because most pixels are paper
    return (paper - light) / (light.max() + 1)


def ink_off_the_edge(ink):
    """Return the ink without what leads to the edge, as a table, a shadow and ruled lines do.

    A pixel loses the highest level at which a way of darker pixels leads from it to the edge.
    A stroke across a ruled line stays, because it is darker than the line.
    """
    framed = np.pad(ink, 1, constant_values=1)  # a frame of ink, from which all ways start
    reached = np.zeros(framed.shape)
    for level in np.arange(0, 1, 0.05):
        shapes, _ = ndimage.label(framed > level)
        reached += shapes == shapes[0, 0]  # the shape that the frame belongs to
    framed -= 0.05 * reached
    return framed[1:-1, 1:-1]


def large_shapes(dark):
    """Return the shapes of dark pixels that are no specks, each bool (H, W).

    Strokes with less than 17 pixels between them are one shape, because pens leave gaps.
    """
    shapes, _ = ndimage.label(ndimage.maximum_filter(dark, 17))
    areas = np.bincount(shapes[dark], minlength=1)  # of shape 0, 1, 2 ...
    large = np.flatnonzero(areas > max(60, areas.max() / 20))
    return [dark & (shapes == number) for number in large]


def centred(digit):
    """Return a digit as MNIST has it, 20 pixels long, with its centre of mass in the middle."""
    height, width = np.ptp(np.nonzero(digit), axis=1) + 1
    scale = 20 / max(height, width)
    digit = ndimage.gaussian_filter(digit.astype(np.float32), 0.4 / scale)  # for grey edges
    corner = np.array(ndimage.center_of_mass(digit)) - 14 / scale  # 14 pixels from the middle
    image = ndimage.affine_transform(digit, np.eye(2) / scale, corner, (28, 28), order=1)
    return image / image.max()


def recognise(path, network):
    """Print what digit a photo shows; return the image that the network got, None for no photo."""
    try:
        image = digit_image(path)
    except ValueError as error:
        print(error, file=sys.stderr)
        return None
    probabilities = network.predict(image)[0]
    answer = probabilities.argmax()
    print(f"{path}: this is a {answer} with a probability of {probabilities[answer]:.2f}")
    return image


def draw_photo(figure, photo, image):
    """Draw a photo beside the image, (1, 1, 28, 28), that the network gets of it."""
    left, right = figure.subplots(1, 2)
    left.set(title="the photo", xticks=[], yticks=[])
    left.imshow(photo)
    right.set(title="what the network gets", xticks=[], yticks=[])
    right.imshow(image[0, 0], cmap="gray")


def main():
    """Recognise each photo, and show a single one in a window."""
    parser = ArgumentParser(description="Recognise the digit on each photo.")
    parser.add_argument("files", metavar="FILE", nargs="+", help="a photo of one digit")
    args, network = parse_arguments(parser)
    if hasattr(sys.stdout, "reconfigure"):  # consoles have it, notebooks do not need it
        sys.stdout.reconfigure(errors="backslashreplace")  # a console may not know all letters
    images = [recognise(path, network) for path in args.files]
    if any(image is None for image in images):
        sys.exit(1)
    if len(images) == 1:
        figure = open_window(7, 4)
        if figure:  # there is none without a display
            draw_photo(figure, read_photo(args.files[0]), images[0])
            plt.show()


if __name__ == "__main__":
    main()
