"""Draw what each layer gets of one test digit, and the ten probabilities, in layers.png.

    python tests/examples/layers.py

Numbers above 0 are red, numbers below 0 are blue, and 0 is white: see what ReLU takes away. The
linear layer gets a row of 400 numbers.
"""
from argparse import ArgumentParser

import numpy as np
from matplotlib.figure import Figure
from shared import load_test_digits, parse_arguments


def in_rows(maps):
    """Return the channels of maps, (C, H, W), as one picture with sqrt(C) of them in a row."""
    C, H, W = maps.shape
    count = int(C ** 0.5)
    framed = np.pad(maps, [(0, 0), (0, 1), (0, 1)], constant_values=np.nan)  # NaN has no colour
    rows = framed.reshape(count, count, H + 1, W + 1)
    return np.vstack([np.hstack(row) for row in rows])


def draw_maps(axes, x, name):
    """Draw what a layer with a name gets of one image, x (1, C, H, W) or (1, d1)."""
    picture = in_rows(x[0]) if x.ndim == 4 else x
    limit = abs(x).max()
    axes.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set(title=" x ".join(map(str, x.shape[1:])), xlabel=f"{name} →", xticks=[], yticks=[],
             box_aspect=1)
    axes.spines[:].set_visible(False)


def draw_probabilities(axes, probabilities):
    """Draw the probability of each digit as a bar."""
    axes.barh(range(10), probabilities)
    axes.set(title="10", xlabel="probabilities", xticks=[], yticks=range(10), xlim=(0, 1),
             ylim=(9.5, -0.5), box_aspect=1)


def draw_legend(axes):
    """Write what the colours mean."""
    axes.text(0, 0.5, "red: above 0\nwhite: 0\nblue: below 0\n\neach picture has\nits own scale",
              fontsize=12, verticalalignment="center")
    axes.set_axis_off()


def draw_layers(network, image):
    """Return a picture of what each layer gets of an image, (1, 1, 28, 28), and of the answer."""
    network.forward(image, keepgrad=True)  # which keeps what each layer gets
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    *places, place_of_answer, place_of_legend = figure.subplots(2, 5).ravel()
    for axes, layer, x in zip(places, network.layers, network.layer_inputs):
        draw_maps(axes, x, type(layer).__name__)
    draw_probabilities(place_of_answer, network.predict(image)[0])
    draw_legend(place_of_legend)
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
    figure.savefig("layers.png", dpi=150)


if __name__ == "__main__":
    main()
