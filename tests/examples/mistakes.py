"""Draw the forty test digits that the network gets most wrong, in wrong.png.

    python tests/examples/mistakes.py

Above each stands what it is, and what the network said instead.
"""
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
    """Return a picture of up to forty images, (B, 1, 28, 28), each below its title."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    places = figure.subplots(4, 10).ravel()
    for axes in places:
        axes.set_axis_off()
    for axes, image, title in zip(places, images, titles):
        axes.imshow(image[0], cmap="gray")
        axes.set_title(title)
    return figure


def main():
    """Draw the mistakes of the network that the arguments name."""
    parser = ArgumentParser(description="Draw the test digits that the network gets most wrong.")
    _, network = parse_arguments(parser)
    images, labels = load_test_digits()
    probabilities = network.predict(images)
    worst = find_mistakes(probabilities, labels)[:40]
    titles = [f"{labels[i]}, not {probabilities[i].argmax()}" for i in worst]
    figure = draw_digits(images[worst], titles)
    figure.savefig("wrong.png")


if __name__ == "__main__":
    main()
