"""What the programs in this folder share: the network, the test digits, and a window."""
import sys
from pathlib import Path

import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[2]))  # the project's folder, which has cnn_numpy.py
from cnn_numpy import ConvolutionNeuralNetwork, load_dataset


def here_or_in_project(name):
    """Return the path of a file or a folder in the working folder, or else beside cnn_numpy.py."""
    return Path(name) if Path(name).exists() else Path(__file__).parents[2] / name


def parse_arguments(parser):
    """Add the option --network; return the arguments, and the network that they name."""
    parser.add_argument("--network", metavar="FILE", default=here_or_in_project("digits.npz"),
                        help="a network that cnn_numpy.py saved (default: %(default)s)")
    args = parser.parse_args()
    if not Path(args.network).is_file():
        sys.exit(f"there is no {args.network}: python cnn_numpy.py --save {args.network} makes it")
    network = ConvolutionNeuralNetwork()
    network.load(args.network)
    return args, network


def load_test_digits():
    """Return the images and labels of cv-data/test."""
    return load_dataset(here_or_in_project("cv-data") / "test")


def open_window(width, height):
    """Return a figure in a window, its sides in inches, or None where there can be no window."""
    try:
        with plt.rc_context({"toolbar": "None"}):
            figure = plt.figure(figsize=(width, height), layout="constrained")
    except ImportError:  # the user asked for a kind of window that cannot be opened here
        return None
    if figure.canvas.required_interactive_framework is None:  # it can be saved, but not shown
        return None
    return figure
