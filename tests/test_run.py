"""The data and the run, as a person starts it."""
import io
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from helpers import NAME
from PIL import Image

import cnn_numpy
from cnn_numpy import load_dataset

PROJECT = Path(__file__).parents[1]
SCRIPT = str(PROJECT / "cnn_numpy.py")


@pytest.fixture
def data(tmp_path):
    """Make a small copy of the digits: 6 images of each for training, 3 for the test."""
    for part, count in (("train", 6), ("test", 3)):
        for digit in range(10):
            folder = tmp_path / "cv-data" / part / str(digit)
            folder.mkdir(parents=True)
            for path in sorted((PROJECT / "cv-data" / part / str(digit)).iterdir())[:count]:
                shutil.copyfile(path, folder / path.name)
    return tmp_path / "cv-data"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that does in this process what the script does in its own."""
    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
        stdout = sys.stdout
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(SCRIPT, run_name="__main__")
        sys.stdout = stdout
        status, (out, err) = stop.value.code or 0, capsys.readouterr()
        if isinstance(status, str):  # which Python prints, and leaves with 1
            status, err = 1, f"{err}{status}\n"
        return subprocess.CompletedProcess(arguments, status, out, err)
    return run


def start(folder, *arguments):
    """Start the script in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    return subprocess.Popen([sys.executable, SCRIPT, *arguments], cwd=folder, encoding="utf-8",
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def assert_one_line(result, *words):
    """Check that a run ended with status 1 and one line on standard error."""
    assert result.returncode == 1 and "Classification" not in result.stdout
    assert result.stderr.startswith("cnn_numpy.py: error: ")
    assert len(result.stderr.splitlines()) == 1
    for word in words:
        assert word in result.stderr


def test_load_dataset(data):
    inputs, targets = load_dataset(data / "train")
    assert inputs.shape == (60, 1, 28, 28) and inputs.dtype == np.float32
    assert inputs.min() == 0 and 0.9 < inputs.max() <= 1
    np.testing.assert_array_equal(targets, np.repeat(np.arange(10), 6))
    assert targets.dtype.kind == "i"
    first = sorted((data / "train" / "0").iterdir())[0]
    np.testing.assert_array_equal(inputs[0, 0], matplotlib.image.imread(first))
    np.random.seed(1)
    mixed, mixed_targets = load_dataset(str(data / "train"), shuffle=True)
    np.random.seed(1)
    order = np.random.permutation(60)
    np.testing.assert_array_equal(mixed, inputs[order])
    np.testing.assert_array_equal(mixed_targets, targets[order])


def png(depth, colour_type, rows, **chunks):
    """Return a PNG file that Pillow itself does not write: any depth and colour type."""
    def chunk(kind, content):
        content = kind.encode() + content
        return ((len(content) - 4).to_bytes(4, "big") + content
                + zlib.crc32(content).to_bytes(4, "big"))
    header = b"".join(size.to_bytes(4, "big") for size in (28, 28))
    return b"".join([
        b"\x89PNG\r\n\x1a\n", chunk("IHDR", header + bytes([depth, colour_type, 0, 0, 0])),
        *(chunk(kind, content) for kind, content in chunks.items()),
        chunk("IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), chunk("IEND", b"")])


def saved(image, kind, **options):
    """Return what Pillow writes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey_png(depth):
    """Return a grey PNG of the images' levels in so many bits, with every level in every row."""
    levels = np.arange(28) % 2**depth if depth < 8 else np.arange(28) * 9
    bits = "".join(f"{level:0{depth}b}" for level in levels)
    row = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    return png(depth, 0, [row] * 28), levels / (2**depth - 1)


LEVELS = (np.arange(28) * 9).astype(np.uint8)
GREY = Image.fromarray(np.tile(LEVELS, (28, 1)))
WHITE = Image.new("L", (28, 28), 255)
TWO_LEVELS = Image.fromarray(np.tile(np.uint8([0, 255] * 14), (28, 1)))
BLUE = Image.merge("RGB", (Image.new("L", (28, 28)), Image.new("L", (28, 28)), GREY))
IMAGES = {  # what a file holds, and the grey of each of its rows
    **{f"grey, {depth} bits": grey_png(depth) for depth in (1, 2, 4, 8)},
    "colour": (saved(BLUE, "PNG"), LEVELS / 255 * 0.114),
    "colour of grey": (saved(GREY.convert("RGB"), "TIFF"), LEVELS / 255),
    "JPEG of four inks": (saved(GREY.convert("RGB").convert("CMYK"), "JPEG", quality=100),
                          LEVELS / 255),
    "palette": (saved(GREY.quantize(256), "GIF"), LEVELS / 255),
    "16-bit bitmap": (b"BM" + bytes([*(0).to_bytes(8, "little"), 54, 0, 0, 0, 40, 0, 0, 0])
                      + (28).to_bytes(4, "little") * 2 + bytes([1, 0, 16, 0]) + bytes(24)
                      + bytes([0, 0, 255, 127] * 14) * 28, np.arange(28) % 2),
    "opacity": (saved(Image.merge("LA", (WHITE, GREY)), "PNG"), LEVELS / 255),
    "opacity and colour": (saved(Image.merge("RGBA", (WHITE, WHITE, WHITE, GREY)), "PNG"),
                           LEVELS / 255),
    "transparent palette": (saved(TWO_LEVELS.convert("P"), "PNG", transparency=255), 0 * LEVELS),
}
REFUSED = {  # what a file holds, and what is said of it
    "grey, 16 bits": (png(16, 0, [bytes(56)] * 28), "8 bits"),
    "colour, 16 bits": (png(16, 2, [bytes(168)] * 28), "8 bits"),
    "opacity, 16 bits": (png(16, 6, [bytes(224)] * 28), "8 bits"),
    "one transparent grey": (saved(WHITE, "PNG", transparency=255), "greys is transparent"),
    "floats": (saved(Image.new("F", (28, 28)), "TIFF"), "8 bits"),
    "integers": (saved(Image.new("I", (28, 28)), "TIFF"), "8 bits"),
    "text": (b"no image", "cannot identify"), "nothing": (b"", "cannot identify"),
    "half an image": (saved(GREY, "BMP")[:600], "truncated"),
    "half a PNG": (saved(GREY, "PNG")[:55], ""),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_any_kind_become_grey(data, kind):
    content, row = IMAGES[kind]
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (data / "train" / "0" / name).write_bytes(b"no image")
    (data / "train" / "0" / "!first.png").write_bytes(content)
    inputs, _ = load_dataset(data / "train")
    assert len(inputs) == 61 and inputs.dtype == np.float32
    np.testing.assert_allclose(inputs[0, 0], np.tile(row, (28, 1)), atol=0.0021)


@pytest.mark.filterwarnings("error")  # a file that stays open warns
@pytest.mark.parametrize("kind", [*REFUSED, "folder", "pipe", "dangling link"])
def test_what_cannot_be_read_right_is_refused_by_name(data, kind):
    path, words = data / "test" / "3" / "9.png", "regular file"
    if kind in REFUSED:
        content, words = REFUSED[kind]
        path.write_bytes(content)
    elif kind == "folder":
        path.mkdir()
    elif sys.platform == "win32":
        pytest.skip("no such files")
    else:
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("nowhere")
    with pytest.raises(ValueError, match=f"9.png is not a readable image: .*{words}"):
        load_dataset(data / "test")


def test_the_images_of_a_folder_must_be_of_one_size(data, run):
    Image.new("L", (28, 20)).save(data / "test" / "3" / "9.png")
    assert_one_line(run(), "9.png has (height, width) (20, 28), expected (28, 28)")


@pytest.mark.parametrize("part", ["train", "test"])
def test_images_that_the_network_cannot_take_are_refused_before_training(data, run, part):
    for path in (data / part).glob("*/*"):
        Image.new("L", (28, 20)).save(path)
    result = run()
    assert_one_line(result, ", 1, 20, 28)", "(B, 1, 28, 28)")
    assert "Begin Train" not in result.stdout


@pytest.mark.parametrize("missing", [".", "train", "test/7"])
def test_a_missing_folder_is_named_with_its_whole_path(data, run, missing):
    shutil.rmtree(data / missing)
    assert_one_line(run(), str(data / missing))


def test_a_folder_without_images(data, run):
    shutil.rmtree(data / "train" / "7")
    (data / "train" / "7").write_text("no folder", encoding="utf-8")
    assert_one_line(run(), str(data / "train" / "7"))
    (data / "train" / "7").unlink()
    (data / "train" / "7").mkdir()
    (data / "train" / "7" / ".DS_Store").write_bytes(b"")
    assert_one_line(run(), f"{data / 'train' / '7'} is empty, expected at least one image")


@pytest.mark.parametrize("name, value, expected", [
    ("--epochs", "0", "0, expected at least 1"), ("--epochs", "1.5", "invalid int"),
    ("--batch-size", "0", "0, expected at least 1"), ("--lr", "x", "invalid float"),
    ("--lr", "0", "0.0, expected a finite number above 0"), ("--lr", "nan", "nan, expected"),
    ("--lr", "inf", "inf, expected"), ("--seed", "-1", "-1, expected 0 to 4294967295"),
    ("--seed", "4294967296", "4294967296, expected"), ("--save", "", ", expected FILE.npz"),
    ("--save", "digits", "digits, expected FILE.npz")])
def test_a_wrong_argument_is_refused_before_anything_is_read(run, name, value, expected):
    result = run(name, value)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.startswith("usage: ")
    assert f"argument {name}: {expected}" in result.stderr


def test_the_run_prints_and_draws_what_was_learned(data, run):
    """The seed fixes the order of the training images first and the parameters then."""
    named = data.parent / NAME
    data.rename(named)
    process = start(data.parent, "--epochs", "3", "--batch-size", "16", "--seed", "7", "--lr",
                    "0.2", "--data", str(named))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and err == "" and out.isascii()

    np.random.seed(7)
    train_x, train_y = load_dataset(named / "train", shuffle=True)
    test_x, test_y = load_dataset(named / "test")
    network, line = cnn_numpy.ConvolutionNeuralNetwork(), "=" * 15
    expected = [f"(60, 1, 28, 28) (60,)\n(30, 1, 28, 28) (30,)\n{line} Begin Train {line}\n"]
    for epoch in range(1, 4):
        train_loss = network.train(train_x, train_y, 16, 3, 0.2)
        expected.append(f"Epoch:   {epoch} Train Loss: {train_loss:.4f} "
                        f"Test Loss: {network.test(test_x, test_y, 16):.4f}\n")
    expected = re.escape("".join(expected)) + rf"{line} End Train: \d\.\d\d min {line}\n"
    for part, x, y in (("Train", train_x, train_y), ("Test", test_x, test_y)):
        accuracy = np.mean(network.predict(x).argmax(axis=1) == y)
        expected += (rf"{line} Classification Report: {part} {line}\n\s+precision[\s\S]+"
                     rf"accuracy +{accuracy:.4f} +{len(x)}\n[^=]+")
    assert re.fullmatch(expected, out)
    again = run("--epochs", "3", "--batch-size", "16", "--data", str(named))
    assert again.stdout.splitlines()[3:6] != out.splitlines()[3:6]  # another seed
    image = matplotlib.image.imread(data.parent / "loss.png")
    assert image.shape[:2] == (750, 1200)
    for colour in ((31, 119, 180), (255, 127, 14)):  # the two curves
        assert np.sum(np.all(np.round(image[..., :3] * 255) == colour, axis=2)) > 300


def test_the_curve_leaves_out_the_first_epoch(tmp_path, monkeypatch):
    figures, savefig = [], cnn_numpy.Figure.savefig
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cnn_numpy.Figure, "savefig", lambda figure, *arguments, **options: (
        figures.append(figure), savefig(figure, *arguments, **options)))
    cnn_numpy._save_curve([(9.0, 8.0), (3.0, 4.0), (1.0, 2.0)])
    cnn_numpy._save_curve([(9.0, 8.0)])
    axes, single = (figure.axes[0] for figure in figures)
    assert axes.get_title() and axes.get_xlabel() == "epoch" and "loss" in axes.get_ylabel()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "training images", "test images"]
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[2, 3], [3, 1]], [[2, 4], [3, 2]]]
    assert [line.get_xydata().tolist() for line in single.lines] == [[[1, 9]], [[1, 8]]]
    assert all(tick == round(tick) for tick in axes.get_xticks())
    assert os.listdir(tmp_path) == ["loss.png"]


def test_a_curve_that_cannot_be_written_costs_no_report(data, run):
    (data.parent / "loss.png").mkdir()
    result = run("--epochs", "1", "--lr", "1e-9", "--seed", "4294967295", "--batch-size", "999")
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert "loss.png cannot be written" in result.stderr
    # digits that an untrained network never answers have no precision, and say so as 0
    assert re.search(r"Report: Test [\s\S]* 0\.0000 +0\.0000 +0\.0000 ", result.stdout)
    assert not re.search(r" 1\.0000 +0\.0000 +0\.0000 ", result.stdout)
    assert sorted(os.listdir(data.parent)) == ["cv-data", "loss.png"]


def test_the_network_of_the_last_whole_epoch_is_saved(data, run):
    result = run("--epochs", "2", "--save", "digits.npz")
    assert result.returncode == 0 and result.stderr == ""
    last = re.findall(r"Test Loss: (.*)", result.stdout)[-1]
    assert f"{loss_of(data):.4f}" == last
    assert sorted(os.listdir(data.parent)) == ["cv-data", "digits.npz", "loss.png"]


def loss_of(data):
    """Return the test loss of the network in digits.npz."""
    network = cnn_numpy.ConvolutionNeuralNetwork()
    network.load(data.parent / "digits.npz")
    return network.test(*load_dataset(data / "test"), 100)


def test_a_network_that_cannot_be_written_ends_the_run_in_its_first_epoch(data, run):
    result = run("--epochs", "2", "--save", "nowhere/digits.npz")
    assert_one_line(result, str(Path("nowhere") / "digits.npz") + " cannot be written")
    assert "Begin Train" in result.stdout and "Epoch" not in result.stdout


def test_divergence_names_the_epoch_and_keeps_an_older_file(data, run):
    (data.parent / "digits.npz").write_bytes(b"older")
    result = run("--lr", "1e30", "--batch-size", "20", "--seed", "0", "--save", "digits.npz")
    assert_one_line(result, "epoch 1: the loss is ", "smaller learning rate")
    assert (data.parent / "digits.npz").read_bytes() == b"older"


@pytest.mark.parametrize("module, name", [(np, "stack"), (Image, "open")])
def test_too_little_memory_is_one_line_that_says_so(data, run, monkeypatch, module, name):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(module, name, fail)
    assert_one_line(run(), "error: not enough memory\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signal to a child alone")
@pytest.mark.parametrize("end", ["Ctrl-C", "kill", "closed pipe"])
def test_however_a_run_ends_the_last_whole_epoch_is_saved(data, end):
    process = start(data.parent, "--epochs", "1000000", "--save", "digits.npz")
    losses = []
    for line in process.stdout:
        losses += re.findall(r"Test Loss: (.*)", line)
        if len(losses) == 3:
            break
    if end == "closed pipe":
        process.stdout.close()
        err, out = process.stderr.read(), ""
        process.wait(60)
    else:
        process.send_signal(signal.SIGINT if end == "Ctrl-C" else signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    process.stderr.close()
    assert process.returncode == {"Ctrl-C": 130, "kill": -signal.SIGKILL, "closed pipe": 1}[end]
    assert len(err.splitlines()) == (0 if end == "kill" else 1) and "Traceback" not in err
    losses = [float(loss) for loss in losses + re.findall(r"Test Loss: (.*)", out)]
    assert len(losses) >= 3 and loss_of(data) < losses[0]
    if end == "Ctrl-C":
        assert "interrupted" in err and "End Train" in out and "Classification Report: Test" in out
        assert (data.parent / "loss.png").is_file()
    if end != "kill":
        assert not list(data.parent.glob("unfinished*"))


def interrupted(*_):
    """Behave like a call during which Ctrl-C is pressed."""
    raise KeyboardInterrupt


def test_ctrl_c_in_the_first_epoch_leaves_older_files(data, monkeypatch, capsys):
    monkeypatch.chdir(data.parent)
    monkeypatch.setattr(sys, "argv", [SCRIPT, "--save", "digits.npz"])
    monkeypatch.setattr(cnn_numpy.ConvolutionNeuralNetwork, "test", interrupted)
    assert cnn_numpy.main() == 130
    assert "Classification Report: Test" in capsys.readouterr().out
    assert os.listdir(data.parent) == ["cv-data"]


def test_ctrl_c_before_training(data, run, monkeypatch):
    monkeypatch.setattr(np.random, "permutation", interrupted)
    result = run()
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")
