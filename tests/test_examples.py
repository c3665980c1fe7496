"""The programs in tests/examples do what they say."""
import io
import runpy
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import photos
import pytest
from helpers import PROJECT
from matplotlib.backend_bases import MouseEvent
from PIL import Image

sys.path.insert(0, str(PROJECT / "tests" / "examples"))  # as for a program that is started there
import draw
import layers
import mistakes
import photo
from shared import cnn_numpy


@pytest.fixture(scope="module")
def network(digits):
    """Return a network that has learned a little."""
    images, labels = digits[0][:2500], digits[1][:2500]
    np.random.seed(1)
    network = cnn_numpy.ConvolutionNeuralNetwork()
    for _ in range(4):
        network.train(images, labels, batch_size=25, epochs=4, lr=0.1)
    return network


@pytest.fixture(scope="module")
def sure_digits(network, digits):
    """Return the images (28, 28) of which the network is surest to be a 0, a 2, a 4, a 6, an 8."""
    surest = network.predict(digits[0][:1000]).argmax(axis=0)
    return digits[0][surest[::2], 0]  # of 0, 2, 4, 6, 8


@pytest.fixture
def folder(network, tmp_path, monkeypatch):
    """Return a working folder that holds digits.npz, on a machine without a display."""
    network.save(tmp_path / "digits.npz")
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    yield tmp_path
    plt.close("all")


@pytest.fixture
def start(monkeypatch):
    """Return a function that starts a program as Python does, but in this process."""
    def start(name, *arguments):
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        runpy.run_path(str(PROJECT / "tests" / "examples" / name), run_name="__main__")

    return start


@pytest.fixture
def few_digits(network, digits, monkeypatch):
    """Let the programs load a hundred digits, each labelled one more than the network says."""
    images = digits[0][:100]
    labels = (network.predict(images).argmax(axis=1) + 1) % 10
    monkeypatch.setattr(cnn_numpy, "load_dataset", lambda folder: (images, labels))
    return images


# What all programs share

PROGRAMS = [("layers.py",), ("mistakes.py",), ("draw.py",), ("photo.py", "photo.jpg")]


def test_a_program_starts_in_the_project_folder_as_its_docstring_says():
    command = [sys.executable, "tests/examples/layers.py", "--help"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("program", PROGRAMS, ids=[name for name, *_ in PROGRAMS])
def test_without_a_network_a_program_ends_and_says_which_command_makes_it(program, folder, start):
    (folder / "digits.npz").unlink()
    with pytest.raises(SystemExit, match=r"python cnn_numpy\.py --save digits\.npz") as ending:
        start(*program)
    assert "\n" not in ending.value.code  # a string, which Python prints before it ends with 1


def test_another_network_is_taken_by_its_name(folder, few_digits, start):
    (folder / "digits.npz").rename("other.npz")
    start("layers.py", "--network", "other.npz", "--image", 0)
    assert (folder / "layers.png").is_file()


# layers.py


def test_layers_draws_what_each_layer_gets(network, digits):
    picture = layers.draw_layers(network, digits[0][:1])
    titles = [axes.get_title() for axes in picture.axes]
    assert titles == ["1 x 28 x 28", "4 x 24 x 24", "4 x 12 x 12", "4 x 12 x 12", "16 x 10 x 10",
                      "16 x 5 x 5", "16 x 5 x 5", "10"]


def test_layers_draws_the_probabilities_as_bars(network, digits):
    picture = layers.draw_layers(network, digits[0][:1])
    widths = [bar.get_width() for bar in picture.axes[-1].patches]
    np.testing.assert_array_equal(widths, network.predict(digits[0][:1])[0])


def test_channels_stand_in_rows_in_their_order():
    maps = np.arange(4 * 5 * 5).reshape(4, 5, 5).astype(float)
    picture = layers.in_rows(maps)
    np.testing.assert_array_equal(picture[6:11, :5], maps[2])  # second row, below a gap


# mistakes.py


def test_the_most_wrong_answer_comes_first():
    probabilities = np.array([[0.4, 0.6], [0.9, 0.1], [0.1, 0.9], [0.2, 0.8]])
    order = mistakes.find_mistakes(probabilities, np.array([0, 0, 0, 1]))
    assert list(order) == [2, 0]  # with 0.1 and 0.4 for the right digit


def test_forty_mistakes_stand_below_what_they_are_and_what_the_network_says(
        network, folder, few_digits, start, monkeypatch):
    pictures = {}
    monkeypatch.setattr("matplotlib.figure.Figure.savefig",
                        lambda figure, name: pictures.update({name: figure}))
    start("mistakes.py")
    places = [axes for axes in pictures["wrong.png"].axes if axes.images]
    assert len(places) == 40
    shown = np.stack([axes.images[0].get_array() for axes in places])[:, np.newaxis]
    answers = network.predict(shown).argmax(axis=1)
    titles = [axes.get_title() for axes in places]
    assert titles == [f"{(answer + 1) % 10}, not {answer}" for answer in answers]


# draw.py

STROKES = {  # how people draw, in pixels of a paper of 28 x 28
    0: [[(14, 5), (9, 8), (8, 15), (10, 21), (15, 23), (19, 19), (20, 11), (17, 6), (14, 5)]],
    3: [[(9, 6), (15, 4), (19, 8), (14, 13), (19, 18), (15, 23), (9, 22)]],
    4: [[(9, 5), (8, 14), (19, 14)], [(19, 4), (18, 24)]],
    7: [[(8, 5), (20, 5), (13, 24)]],
}


@pytest.fixture
def drawing(network, folder):
    """Return a drawing in a figure that is shown nowhere."""
    figure = plt.figure(figsize=(9, 4.8))
    drawing = draw.Drawing(figure, network)
    figure.canvas.draw()
    return drawing


def send(drawing, name, point, button):
    """Let a drawing get an event of the mouse, at a point in pixels of a paper of 28 x 28."""
    place = drawing.paper.transAxes.transform((point[0] / 28, 1 - point[1] / 28))
    event = MouseEvent(name, drawing.canvas, *place, button)
    drawing.canvas.callbacks.process(name, event)


def draw_stroke(drawing, points):
    """Press the left button at the first point, and move the mouse along the others."""
    send(drawing, "button_press_event", points[0], 1)
    for point in points[1:]:
        send(drawing, "motion_notify_event", point, 1)


def dots_of(drawing):
    """Return the dots of the ink, without the gaps between strokes."""
    dots = drawing.ink.get_xydata()
    return dots[~np.isnan(dots[:, 0])]


def heights_of(drawing):
    """Return the heights of the bars."""
    return [bar.get_height() for bar in drawing.bars]


@pytest.mark.parametrize("digit", STROKES)
def test_a_digit_drawn_with_the_mouse_is_known(drawing, digit):
    for points in STROKES[digit]:
        draw_stroke(drawing, points)
    drawing.show_answer()
    assert np.argmax(heights_of(drawing)) == digit


def test_all_points_that_the_mouse_reports_are_kept(drawing):
    points = [(5, 5), (5.5, 6), (20, 7), (20.1, 7), (8, 20)]
    draw_stroke(drawing, points)
    dots = dots_of(drawing)
    distances = [np.linalg.norm(dots - np.array(point) * 100 / 28, axis=1).min()
                 for point in points]
    assert max(distances) < 1e-9


def test_a_fast_mouse_leaves_no_gaps(drawing):
    draw_stroke(drawing, [(3, 3), (25, 20)])
    steps = np.diff(dots_of(drawing), axis=0)
    assert abs(steps).max() <= 1


@pytest.mark.parametrize("first", [(25, 3), (30, 3)], ids=["on the paper", "beside the paper"])
def test_between_two_strokes_there_is_no_ink(drawing, first):
    draw_stroke(drawing, [(3, 3), (3, 25)])
    draw_stroke(drawing, [first, (25, 3), (25, 25)])
    x = dots_of(drawing)[:, 0] * 28 / 100
    assert set(x.round()) == {3, 25}


def test_the_mouse_does_not_wait_for_the_window_or_the_network(drawing, monkeypatch):
    def wait(*arguments):
        pytest.fail("the mouse waits")

    monkeypatch.setattr(drawing.canvas, "draw", wait)
    monkeypatch.setattr(drawing.network, "forward", wait)
    draw_stroke(drawing, STROKES[3][0])


def test_a_right_click_clears_paper_and_bars(drawing):
    draw_stroke(drawing, STROKES[3][0])
    drawing.show_answer()
    draw_stroke(drawing, STROKES[3][0])
    send(drawing, "button_press_event", (14, 14), 3)
    drawing.show_answer()  # as the timer does soon after it
    assert len(dots_of(drawing)) == 0
    assert heights_of(drawing) == [0] * 10


def test_without_a_display_drawing_ends_and_says_what_to_install(folder, start):
    with pytest.raises(SystemExit, match=r"tkinter .*`pip install PySide6`") as ending:
        start("draw.py")
    assert "\n" not in ending.value.code  # a string, which Python prints before it ends with 1


# photo.py


@pytest.mark.parametrize("kind", photos.KINDS)
def test_photos_of_every_kind_are_known(network, sure_digits, kind):
    rng = np.random.default_rng(3)
    files = [photos.photo_of(digit, (160, 120), rng, **photos.KINDS[kind]) for digit in sure_digits]
    images = np.concatenate([photo.digit_image(file) for file in files])
    answers = network.predict(images).argmax(axis=1)
    assert np.sum(answers == [0, 2, 4, 6, 8]) >= 4, answers


@pytest.fixture
def plain_photo(sure_digits):
    """Return a photo of a 2."""
    return Image.open(photos.photo_of(sure_digits[1], (360, 270), np.random.default_rng(0)))


def file_of(image, kind="PNG", **settings):
    """Return an open file with an image."""
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file


def test_an_image_is_as_those_of_mnist(plain_photo):
    image = photo.digit_image(file_of(plain_photo))
    y, x = np.indices((28, 28))
    middle = [np.average(place, weights=image[0, 0]) for place in (y, x)]
    assert (image.shape, image.dtype) == ((1, 1, 28, 28), np.float32)
    assert (image.min(), image.max()) == (0, 1)
    np.testing.assert_allclose(middle, 14, atol=0.1)  # as in MNIST


def test_a_photo_is_seen_as_the_camera_was_held(plain_photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn the pixels right by a quarter
    turned = plain_photo.transpose(Image.Transpose.ROTATE_90)
    image = photo.digit_image(file_of(turned, exif=exif))
    np.testing.assert_array_equal(image, photo.digit_image(file_of(plain_photo)))


def test_transparent_pixels_are_paper(plain_photo):
    darkness = plain_photo.convert("L").point(lambda light: 255 - light)
    ink = Image.new("RGBA", plain_photo.size, "black")
    ink.putalpha(darkness)
    image = photo.digit_image(file_of(ink))
    on_paper = photo.digit_image(file_of(plain_photo))
    np.testing.assert_allclose(image, on_paper, atol=0.1)


def test_a_digit_may_touch_the_edge(plain_photo):
    image = photo.digit_image(file_of(plain_photo))
    dark = np.array(plain_photo.convert("L")) < 128
    first_column = np.flatnonzero(dark.any(axis=0))[0]
    cut = plain_photo.crop((first_column + 1, 0, *plain_photo.size))
    assert abs(photo.digit_image(file_of(cut)) - image).mean() < 0.1


@pytest.fixture
def pages(sure_digits):
    """Return files that show no dark digit on light paper, or two of them."""
    rng = np.random.default_rng(0)
    nothing, both = np.zeros((28, 28)), np.hstack(sure_digits[:2])
    chalk = Image.fromarray(np.uint8(40 + 200 * sure_digits[0]))
    return {
        "empty": photos.photo_of(nothing, (360, 270), rng, lines=2, table="around", shadow=0.5),
        "two digits": photos.photo_of(both, (360, 270), rng, tall=0.25),
        "chalk": file_of(chalk.resize((200, 200))),
        "black": file_of(Image.new("L", (360, 270))),
    }


@pytest.mark.parametrize("name, count", [
    ("empty", 0), ("two digits", 2), ("chalk", 0), ("black", 0)])
def test_what_is_not_one_dark_digit_is_refused(pages, name, count):
    with pytest.raises(ValueError, match=f"shows {count} dark shapes .*, expected one digit"):
        photo.digit_image(pages[name])


def test_more_than_8_bits_a_channel_are_refused():
    with pytest.raises(ValueError, match="more than 8 bits"):
        photo.digit_image(file_of(Image.new("I;16", (360, 270))))


def test_a_heic_photo_is_to_be_converted(folder):
    name = "photo.heic"
    (folder / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ValueError, match=f"^{name} .*convert it to JPEG"):
        photo.digit_image(name)


def test_the_answer_is_printed_with_its_probability(folder, network, plain_photo, start, capsys):
    plain_photo.save("photo.png")
    probability = network.predict(photo.digit_image("photo.png"))[0, 2]
    start("photo.py", "photo.png")  # which shows no window, because there is no display
    line = f"photo.png: this is a 2 with a probability of {probability:.2f}\n"
    assert capsys.readouterr().out == line


def test_a_refused_file_is_named_and_the_others_are_answered(folder, plain_photo, start, capsys):
    plain_photo.save("first.png")
    plain_photo.save("last.png")
    with pytest.raises(SystemExit) as ending:
        start("photo.py", "first.png", "missing.png", "last.png")
    output = capsys.readouterr()
    assert ending.value.code == 1
    assert [line.split(":")[0] for line in output.out.splitlines()] == ["first.png", "last.png"]
    assert len(output.err.splitlines()) == 1
    assert output.err.startswith("missing.png ")
