"""Draw what each layer gets of one test digit, and the ten probabilities, in layers.png.

    python tests/examples/layers.py

Numbers above 0 are red, numbers below 0 are blue, and 0 is white: see what ReLU takes away.
"""
from argparse import ArgumentParser

import numpy as np
from matplotlib.figure import Figure
from shared import load_test_digits, parse_arguments


def side_by_side(maps):
    """Return the channels of maps, (C, H, W), as one image, about 60 pixels high."""
    scale = 60 // maps.shape[1]
    large = maps.repeat(scale, axis=1).repeat(scale, axis=2)  # (C, scale*H, scale*W)
    framed = np.pad(large, [(0, 0), (1, 1), (1, 1)], constant_values=np.nan)  # NaN has no colour
    return np.hstack(framed)


def draw_input(axes, x):
    """Draw what a layer gets of one image, with 0 in the middle of the colours."""
    limit = abs(x).max()
    image = side_by_side(x[0]) if x.ndim == 4 else x  # Flatten makes it one row of numbers
    shape = "equal" if x.ndim == 4 else "auto"
    axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect=shape)
    axes.set(xticks=[], yticks=[], facecolor="gray")


def draw_probabilities(axes, probabilities):
    """Draw the probability of each digit as a bar with its number."""
    bars = axes.bar(range(10), probabilities)
    axes.bar_label(bars, fmt="%.2f")
    axes.set(title="softmax gives", xticks=range(10), yticks=[], ylim=(0, 1.3))


def draw_layers(network, image):
    """Return a picture of what each layer gets of an image, (1, 1, 28, 28), and of the answer."""
    network.forward(image, keepgrad=True)  # which keeps what each layer gets
    figure = Figure(figsize=(8, 9), layout="constrained")
    heights = [3 if x.shape[1] < 10 else 2 for x in network.layer_inputs]  # many maps are small
    *rows, last_row = figure.subplots(len(heights) + 1, height_ratios=[*heights, 3])
    for axes, layer, x in zip(rows, network.layers, network.layer_inputs):
        axes.set_title(f"{type(layer).__name__} gets {x.shape}")
        draw_input(axes, x)
    draw_probabilities(last_row, network.predict(image)[0])
    return figure


def main():
    """Draw the layers for the test image that the arguments name."""
    parser = ArgumentParser(description="Draw what each layer gets of one test digit.")
    parser.add_argument("--image", metavar="INDEX", type=int, default=2858,
                        help="which test image, from 0 on (default: %(default)s)")
    args, network = parse_arguments(parser)
    images, _ = load_test_digits()
    if not 0 <= args.image < len(images):
        parser.error(f"--image {args.image}: expected 0 to {len(images) - 1}")
    figure = draw_layers(network, images[args.image:args.image + 1])
    figure.savefig("layers.png")


if __name__ == "__main__":
    main()
