"""The programs in tests/examples do what they say."""
import runpy
import shutil

import draw
import matplotlib.pyplot as plt
import numpy as np
import photo
import pytest
from check_gradients import check_gradients
from helpers import PROJECT
from matplotlib.backend_bases import MouseEvent
from scipy import ndimage

import cnn_numpy

plt.switch_backend("agg")  # without a display


@pytest.fixture(scope="module")
def network(data):
    """Return a network that has learned a little."""
    np.random.seed(1)
    digits = cnn_numpy.load_dataset(data / "train", shuffle=True)
    network = cnn_numpy.ConvolutionNeuralNetwork()
    for _ in range(20):
        network.train(*digits, batch_size=7, epochs=20, lr=0.1)
    return network


@pytest.fixture
def start(network, tmp_path, monkeypatch):
    """Return a function that starts a program beside digits.npz."""
    def start_program(name, *arguments):
        monkeypatch.setattr("sys.argv", [name, *arguments])
        runpy.run_path(str(PROJECT / "tests" / "examples" / name), run_name="__main__")

    monkeypatch.chdir(tmp_path)
    network.save("digits.npz")
    return start_program


@pytest.mark.parametrize("picture, command", [
    ("layers.png", ["layers.py", "--image", "0"]), ("wrong.png", ["mistakes.py"])])
def test_a_program_draws_its_picture(start, data, picture, command):
    shutil.copytree(data, "cv-data")  # of its 50 test images, some are mistaken
    start(*command)
    assert np.ptp(plt.imread(picture)[..., :3]) == 1  # from black to white


def test_a_seven_drawn_with_the_mouse_is_known(network):
    canvas = plt.figure(figsize=(9, 4.8)).canvas
    drawing = draw.Drawing(canvas.figure, network)
    canvas.draw()  # calls keep_chart
    for name, point in [("button_press_event", (30, 20)), ("motion_notify_event", (70, 20)),
                        ("motion_notify_event", (45, 85))]:
        place = drawing.paper.transData.transform(point)
        canvas.callbacks.process(name, MouseEvent(name, canvas, *place, button=1))
    drawing.show_answer()
    assert np.argmax([bar.get_height() for bar in drawing.bars]) == 7


def save_photo(path, digit, ink=30, lines=255, table=255, light=1.0, inverted=False):
    """Save a photo; ink, lines and table are grey levels, light is that at the left side."""
    pixels = np.full((280, 360), 255)
    pixels[9::30] = pixels[:, 9::30] = lines  # squared paper
    has_ink = ndimage.zoom(digit, 5, order=1) > 0.5
    pixels[80:220, 120:260][has_ink] = ink  # 140 x 140 pixels
    pixels[:, 340:] = table  # beside the paper
    pixels = pixels * np.linspace(light, 1, 360)  # from the left side to the right
    if inverted:
        pixels = 255 - pixels
    plt.imsave(path, pixels, cmap="gray", vmin=0, vmax=255)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("kind", [
    {}, {"ink": 150}, {"lines": 180}, {"table": 60}, {"light": 0.5}], ids=str)
def test_a_photo_of_a_digit_is_known(start, data, capsys, kind, inverted):
    digit = plt.imread(min((data / "train" / "2").iterdir()))
    save_photo("photo.png", digit, inverted=inverted, **kind)
    start("photo.py", "photo.png")
    assert "photo.png: this is a 2 " in capsys.readouterr().out


@pytest.mark.parametrize("name, message", [
    ("blank.png", "shows 0 shapes .*, expected one digit"), (".", "^. is a folder"),
    ("nothing.heic", "^there is no nothing.heic$"), ("digits.npz", "is no photo .* can read$"),
    ("digits.HEIC", "convert it to JPEG$")])
def test_what_shows_no_digit_is_called_what_it_is(start, name, message):
    save_photo("blank.png", np.zeros((28, 28)))
    shutil.copy("digits.npz", "digits.HEIC")  # what Pillow cannot read
    with pytest.raises(ValueError, match=message):
        photo.digit_image(name)


def test_the_gradient_check_names_the_number_whose_gradient_is_wrong():
    class AddingLayer(cnn_numpy.LinearLayer):
        def backward(self, x, last_x_grad):
            earlier = self.b_grad  # a common fault: gradients of earlier batches stay in it
            x_grad = super().backward(x, last_x_grad)
            self.b_grad += earlier
            return x_grad

    with pytest.raises(AssertionError, match=r"^dL/db at \(0, 0\) is \S+, the slope is \S+$"):
        check_gradients(AddingLayer(4, 3), np.ones((5, 4)))


def test_the_gradient_check_says_what_it_has_not_looked_at(capsys):
    layer = cnn_numpy.ReLULayer()
    layer.parameters = {"slope": 1}  # where the check cannot see it
    layer.update = print
    check_gradients(layer, np.ones(3))
    printed = capsys.readouterr().out
    assert "not looked at: parameters update (" in printed
    assert "update has no parameter" in printed
