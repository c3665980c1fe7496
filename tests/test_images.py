"""Loading the images."""
import re

import numpy as np
import pytest
from helpers import assert_same
from matplotlib.image import imread
from PIL import Image

from cnn_numpy import load_dataset


def test_images_are_read_in_the_order_of_their_names(data):
    inputs, targets = load_dataset(folder=f"{data}/train")
    images, digits = [], []
    for path in sorted((data / "train").glob("[0-9]/[0-9]*.png")):
        images.append([imread(path)])  # one channel
        digits.append(int(path.parent.name))
    assert_same("inputs", inputs, np.array(images), 1e-6)
    assert inputs.dtype == np.float32 and targets.dtype == np.int32
    assert targets.tolist() == digits


def test_shuffle_mixes_images_and_targets_alike_as_the_seed_says(data):
    np.random.seed(1)
    inputs, targets = load_dataset(data / "train")  # which draws no random numbers
    mixed, mixed_targets = load_dataset(data / "train", shuffle=True)
    np.random.seed(1)
    order = np.random.permutation(len(targets))
    assert_same("inputs", mixed, inputs[order])
    assert_same("targets", mixed_targets, targets[order])


GREY = Image.fromarray(np.tile(np.uint8([0, 51, 102, 255]), (12, 7)))  # 28 wide, 12 high
BLACK = Image.new("L", GREY.size)
RED = Image.merge("RGB", [GREY, BLACK, BLACK])
COLOUR = [0, 0.06, 0.12, 0.3]  # 0.3 is the grey of red
KINDS = {
    "RGB": (RED, {}, COLOUR),
    "P": (RED.quantize(), {}, COLOUR),
    "CMYK": (RED.convert("CMYK"), {"format": "TIFF"}, COLOUR),
    "one bit": (GREY.convert("1", dither=0), {}, [0, 0, 0, 1]),
    "LA": (Image.merge("LA", [GREY, GREY]), {}, [0, 0.2**2, 0.4**2, 1]),  # grey times opacity
    "RGBA": (Image.merge("RGBA", [GREY, BLACK, BLACK, GREY]), {}, [0, 0.06 * 0.2, 0.12 * 0.4, 0.3]),
    "L with tRNS": (GREY, {"transparency": 255}, [0, 0.2, 0.4, 0]),
    "RGB with tRNS": (RED, {"transparency": (255, 0, 0)}, [0, 0.06, 0.12, 0]),
    "P with tRNS": (GREY.convert("P"), {"transparency": bytes(range(256))}, [0, 0.04, 0.16, 1]),
    "GIF": (GREY.convert("P"), {"transparency": 102, "format": "GIF"}, [0, 0.2, 0, 1]),
}


def write_digits(folder, image, format="PNG", **options):
    """Save the same image for each digit."""
    for digit in "0123456789":
        (folder / digit).mkdir(parents=True, exist_ok=True)
        image.save(folder / digit / "image", format, **options)


@pytest.mark.parametrize("image, options, row", KINDS.values(), ids=KINDS)
def test_every_image_of_8_bits_becomes_grey_over_black(tmp_path, image, options, row):
    write_digits(tmp_path, image, **options)
    inputs, _ = load_dataset(tmp_path)
    np.testing.assert_allclose(inputs, np.tile(row, (10, 1, 12, 7)), atol=1 / 255)


DEEP = np.arange(12 * 28).reshape(12, 28)
WRONG = {  # images, and how many bytes there are of them
    "I;16": (Image.fromarray(DEEP.astype(np.uint16)), None),
    "I;16B": (Image.frombytes("I;16B", GREY.size, DEEP.astype(">u2").tobytes()), None),
    "I": (Image.fromarray(DEEP.astype(np.int32)), None),
    "F": (Image.fromarray(DEEP.astype(np.float32)), None),
    "more lines": (GREY.resize((28, 20)), None),
    "turned": (GREY.resize((12, 28)), None),
    "half": (GREY, 200),
}


@pytest.mark.parametrize("image, size", WRONG.values(), ids=WRONG)
def test_what_would_not_become_such_an_image_is_refused_by_name(tmp_path, image, size):
    write_digits(tmp_path, GREY)
    wrong = tmp_path / "9" / "wrong.tif"
    image.save(wrong)
    wrong.write_bytes(wrong.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"9.wrong\.tif "):
        load_dataset(tmp_path)


@pytest.mark.parametrize("left", [[], [".DS_Store", "._3.png", "Thumbs.db", "DESKTOP.INI"]])
def test_a_digit_without_images_is_refused_by_name(tmp_path, left):
    write_digits(tmp_path, GREY)
    (tmp_path / "7" / "image").unlink()
    for name in left:
        (tmp_path / "7" / name).write_bytes(b"no image")
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "7"))):
        load_dataset(tmp_path)


def test_each_call_reads_the_files_anew_into_arrays_of_its_own(tmp_path):
    write_digits(tmp_path, GREY)
    inputs, targets = load_dataset(tmp_path)
    inputs += 1  # arrays that cannot be written to would raise an error
    targets += 10
    write_digits(tmp_path, BLACK)
    new, new_targets = load_dataset(tmp_path)
    assert inputs.min() == 1 and new.max() == 0
    assert targets.min() == 10 and new_targets.max() == 9
