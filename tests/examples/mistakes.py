"""Draw the fifteen test digits that the network gets most wrong, in wrong.png.

    python tests/examples/mistakes.py

Above each stands what it is, and what the network said instead.
"""
import math
from argparse import ArgumentParser

import numpy as np
from matplotlib.figure import Figure
from shared import load_test_digits, parse_arguments


def find_mistakes(probabilities, labels):
    """Return the indices of the wrong answers, the least probable right digit first."""
    answers = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(answers != labels)
    order = np.argsort(probabilities[wrong, labels[wrong]])
    return wrong[order]


def draw_digits(images, titles):
    """Return a picture of images, (B, 1, 28, 28), five in a row, each below its title."""
    rows = math.ceil(len(images) / 5)
    figure = Figure(figsize=(5, 0.4 + 1.2 * rows), layout="constrained")
    for number, (image, title) in enumerate(zip(images, titles), start=1):
        axes = figure.add_subplot(rows, 5, number)
        axes.imshow(image[0], cmap="gray")
        axes.set_title(title, fontsize=14)
        axes.set_axis_off()
    return figure


def main():
    """Draw the mistakes of the network that the arguments name."""
    parser = ArgumentParser(description="Draw the test digits that the network gets most wrong.")
    _, network = parse_arguments(parser)
    images, labels = load_test_digits()
    probabilities = network.predict(images)
    mistakes = find_mistakes(probabilities, labels)
    worst = mistakes[:15]
    titles = [f"{labels[i]}, not {probabilities[i].argmax()}" for i in worst]
    figure = draw_digits(images[worst], titles)
    figure.suptitle(f"{len(mistakes)} of {len(images)} are wrong, these most of all")
    figure.savefig("wrong.png", dpi=150)


if __name__ == "__main__":
    main()
