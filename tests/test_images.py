"""Loading the images."""
import io
import re
import shutil

import numpy as np
import pytest
from helpers import assert_same, states
from matplotlib.image import imread
from PIL import Image

from cnn_numpy import load_dataset


def test_images_are_read_in_the_order_of_their_names(data):
    inputs, targets = load_dataset(folder=f"{data}/train")
    images, digits = [], []
    for digit in range(10):
        for path in sorted((data / "train" / str(digit)).glob("[0-9]*.png")):
            images.append([imread(path)])  # one channel
            digits.append(digit)
    assert_same("inputs", inputs, np.array(images), 1e-6)
    assert inputs.dtype == np.float32 and targets.dtype == np.int32
    assert targets.tolist() == digits


@pytest.mark.parametrize("seed", [1, 2])
def test_shuffle_mixes_images_and_targets_alike_as_the_seed_says(data, seed):
    inputs, targets = load_dataset(data / "train")
    np.random.seed(seed)
    mixed, mixed_targets = load_dataset(data / "train", shuffle=True)
    np.random.seed(seed)
    order = np.random.permutation(len(targets))
    assert_same("inputs", mixed, inputs[order])
    assert_same("targets", mixed_targets, targets[order])


def test_without_shuffle_it_changes_nothing_outside(data):
    before = states()
    load_dataset(data / "train")
    after = states()
    assert [name for name in before if after[name] != before[name]] == []


GREY = Image.fromarray(np.tile(np.uint8([0, 51, 102, 255]), (12, 7)))  # 28 wide, 12 high
BLACK = Image.new("L", GREY.size)
RED = Image.merge("RGB", [GREY, BLACK, BLACK])
COLOUR = [0, 0.06, 0.12, 0.3]  # 0.3 is the grey of red


def write_digits(folder, image, **options):
    """Save the same image for each digit."""
    for digit in "0123456789":
        (folder / digit).mkdir(parents=True, exist_ok=True)
        image.save(folder / digit / "image", **{"format": "PNG", **options})


@pytest.mark.parametrize("image, options, row", [
    (RED, {}, COLOUR),
    (RED.quantize(), {}, COLOUR),
    (RED.convert("CMYK"), {"format": "TIFF"}, COLOUR),
    (GREY, {"format": "BMP"}, [0, 0.2, 0.4, 1]),
    (GREY.convert("1", dither=0), {}, [0, 0, 0, 1]),
    (GREY.quantize(4), {"bits": 2}, [0, 0.2, 0.4, 1]),
    (Image.merge("LA", [GREY, GREY]), {}, [0, 0.2**2, 0.4**2, 1]),  # grey times opacity
    (Image.merge("RGBA", [GREY, BLACK, BLACK, GREY]), {}, [0, 0.06 * 0.2, 0.12 * 0.4, 0.3]),
    (GREY, {"transparency": 255}, [0, 0.2, 0.4, 0]),
    (RED, {"transparency": (255, 0, 0)}, [0, 0.06, 0.12, 0]),
    (GREY.convert("P"), {"transparency": 255}, [0, 0.2, 0.4, 0]),
    (GREY.convert("P"), {"transparency": bytes([*range(256)])}, [0, 0.2**2, 0.4**2, 1]),
    (GREY.convert("P"), {"transparency": 102, "format": "GIF"}, [0, 0.2, 0, 1]),
], ids=["RGB", "P", "CMYK", "BMP", "one bit", "two bits", "LA", "RGBA", "L with tRNS",
        "RGB with tRNS", "P with tRNS", "P with opacities", "GIF"])
def test_every_image_of_8_bits_becomes_grey_over_black(tmp_path, image, options, row):
    write_digits(tmp_path, image, **options)
    inputs, _ = load_dataset(tmp_path)
    np.testing.assert_allclose(inputs, np.tile(row, (10, 1, 12, 7)), atol=1 / 255)


DEEP = np.arange(12 * 28).reshape(12, 28)
PNG = io.BytesIO()
GREY.save(PNG, "PNG")


@pytest.mark.parametrize("image", [
    Image.fromarray(DEEP.astype(np.uint16)), Image.fromarray(DEEP.astype(np.int32)),
    Image.frombytes("I;16B", GREY.size, DEEP.astype(">u2").tobytes()),
    Image.fromarray(DEEP.astype(np.float32)), GREY.convert("F"),
    GREY.resize((28, 20)), GREY.resize((12, 28)), GREY.resize((14, 24)), b"no image",
    PNG.getvalue()[:50],
], ids=["I;16", "I", "I;16B", "F", "F from 0 to 255", "more lines", "turned", "as many pixels",
        "a text", "half an image"])
@pytest.mark.parametrize("digit", ["3", "9"])
def test_what_would_not_become_such_an_image_is_refused_by_name(tmp_path, image, digit):
    write_digits(tmp_path, GREY)
    wrong = tmp_path / digit / "wrong.tif"
    if isinstance(image, bytes):
        wrong.write_bytes(image)
    else:
        image.save(wrong)
    with pytest.raises(ValueError, match=rf"{digit}.wrong\.tif "):
        load_dataset(tmp_path)


@pytest.mark.parametrize("left", [None, [], [".DS_Store", "._3.png", "Thumbs.db", "DESKTOP.INI"]])
def test_a_digit_without_images_is_refused_by_name(tmp_path, left):
    write_digits(tmp_path, GREY)
    shutil.rmtree(tmp_path / "7")
    if left is not None:
        (tmp_path / "7").mkdir()
        for name in left:
            (tmp_path / "7" / name).write_bytes(b"no image")
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "7"))):
        load_dataset(tmp_path)


@pytest.mark.parametrize("shuffle", [False, True])
def test_each_call_reads_the_files_anew_into_arrays_of_its_own(tmp_path, shuffle):
    write_digits(tmp_path, GREY)
    inputs, targets = load_dataset(tmp_path, shuffle)
    older, older_targets = inputs.copy(), targets.copy()
    write_digits(tmp_path, BLACK)
    new, new_targets = load_dataset(tmp_path, shuffle)
    assert not new.any()
    new += 1  # arrays that cannot be written to would raise an error
    new_targets += 1
    assert_same("the older inputs", inputs, older)
    assert_same("the older targets", targets, older_targets)
    assert not load_dataset(tmp_path, shuffle)[0].any()
