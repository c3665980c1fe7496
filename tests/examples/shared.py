"""What the programs in this folder share: the network, the test digits, and a window."""
import sys
from pathlib import Path

import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[2]))  # the project's folder, which has cnn_numpy.py
import cnn_numpy


def parse_arguments(parser):
    """Add the option --network; return the arguments, and the network that they name."""
    parser.add_argument("--network", metavar="FILE", default="digits.npz",
                        help="a network that cnn_numpy.py saved (default: %(default)s)")
    args = parser.parse_args()
    if not Path(args.network).is_file():
        sys.exit(f"there is no {args.network}: python cnn_numpy.py --save {args.network} makes it")
    network = cnn_numpy.ConvolutionNeuralNetwork()
    network.load(args.network)
    return args, network


def load_test_digits():
    """Return the images and labels of cv-data/test, from here or else from beside cnn_numpy.py."""
    data = Path("cv-data")
    if not data.is_dir():
        data = Path(cnn_numpy.__file__).parent / "cv-data"
    return cnn_numpy.load_dataset(data / "test")


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
