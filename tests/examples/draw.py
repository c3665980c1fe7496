"""Draw a digit with the mouse, and see the ten probabilities while you draw.

    python tests/examples/draw.py

The left button draws, the right button clears.
"""
import sys
from argparse import ArgumentParser

import matplotlib.pyplot as plt
import numpy as np
from scipy.spatial import KDTree  # SciPy, which is installed with scikit-learn
from shared import open_window, parse_arguments

GAP = [[np.nan, np.nan]]  # before each stroke, since no line is drawn through NaN


def image_of(dots):
    """Return the digit that dots (N, 2) of x and y make, as the network knows digits."""
    dots = dots[~np.isnan(dots[:, 0])]
    dots = np.unique(dots.round(), axis=0)  # so that a slow mouse makes no stroke heavier
    longer_side = max(10, *np.ptp(dots, axis=0))  # a single dot stays small
    dots = (dots - dots.mean(axis=0)) * 17 / longer_side + 14  # 17 pixels long, in the middle
    y, x = np.indices((28, 28))
    distances, _ = KDTree(dots).query(np.stack([x, y], axis=-1))  # (28, 28), to the nearest dot
    image = np.clip(1.7 - distances, 0, 1)  # strokes about 3 pixels wide, with grey edges
    return image[np.newaxis, np.newaxis]  # (1, 1, 28, 28)


class Drawing:
    """A paper to draw on, beside a chart of the ten probabilities.

    While a whole window is drawn, points of a fast mouse are lost. So each piece of a stroke is
    drawn over what is there already, and the network answers only when show_answer is called.
    """

    def __init__(self, figure, network):
        self.canvas, self.network = figure.canvas, network
        self.paper, self.chart = figure.subplots(1, 2)
        self.paper.set(title="draw; a right click clears", aspect="equal",
                       xlim=(0, 100), ylim=(100, 0), xticks=[], yticks=[])
        self.chart.set(title="the ten probabilities", ylim=(0, 1), xticks=range(10))
        # What is animated is left out when the whole window is drawn.
        self.bars = self.chart.bar(range(10), np.zeros(10), animated=True)
        pen = {"color": "black", "linewidth": 12, "solid_capstyle": "round",
               "marker": "o", "markersize": 11, "markeredgewidth": 0}  # a click leaves a dot
        self.ink, = self.paper.plot(*np.transpose(GAP), **pen)
        self.piece, = self.paper.plot([], [], **pen, animated=True)  # the last piece of the ink
        self.is_new = False  # whether the network has not seen the last piece
        self.canvas.mpl_connect("draw_event", self.keep_chart)
        self.canvas.mpl_connect("button_press_event", self.press)
        self.canvas.mpl_connect("motion_notify_event", self.move)

    def press(self, event):
        """Begin a stroke with the left button, or clear paper and chart with the right one."""
        if event.button == 1:
            dots = np.vstack([self.ink.get_xydata(), GAP])
            self.ink.set_data(*dots.T)
            self.move(event)
        elif event.button == 3:
            self.ink.set_data(*np.transpose(GAP))
            self.is_new = False
            self.set_bars(np.zeros(10))
            self.canvas.draw_idle()

    def move(self, event):
        """Draw a piece from the last dot to the mouse while the left button is down."""
        if event.button != 1 or event.inaxes is not self.paper:
            return
        dots = self.ink.get_xydata()
        mouse = np.array([event.xdata, event.ydata])
        last = mouse if np.isnan(dots[-1, 0]) else dots[-1]
        count = 2 + int(np.ptp([last, mouse], axis=0).max())  # a fast mouse leaves no gaps
        piece = np.linspace(last, mouse, count)
        self.ink.set_data(*np.vstack([dots, piece]).T)
        self.piece.set_data(*piece.T)
        self.paper.draw_artist(self.piece)
        self.canvas.blit(self.paper.bbox)
        self.is_new = True

    def show_answer(self):
        """Let the network look at the paper if there is something new, and draw its answer."""
        if not self.is_new:
            return
        self.is_new = False
        image = image_of(self.ink.get_xydata())
        self.set_bars(self.network.predict(image)[0])
        self.canvas.restore_region(self.empty_chart)
        self.draw_bars()
        self.canvas.blit(self.chart.bbox)

    def keep_chart(self, event):
        """Keep the chart without its bars, each time that the whole window is drawn."""
        self.empty_chart = self.canvas.copy_from_bbox(self.chart.bbox)
        self.draw_bars()

    def set_bars(self, probabilities):
        """Set the heights of the bars."""
        for bar, probability in zip(self.bars, probabilities):
            bar.set_height(probability)

    def draw_bars(self):
        """Draw the bars into the chart."""
        for bar in self.bars:
            self.chart.draw_artist(bar)


def main():
    """Open the window, and let the network look at the paper twenty times a second."""
    parser = ArgumentParser(description="Draw a digit, and see the ten probabilities meanwhile.")
    _, network = parse_arguments(parser)
    figure = open_window(9, 4.8)
    if figure is None:
        sys.exit("draw.py can open no window here: it needs a display, and a Python with tkinter "
                 "or `pip install PySide6`")
    drawing = Drawing(figure, network)
    timer = figure.canvas.new_timer(interval=50)  # milliseconds
    timer.add_callback(drawing.show_answer)
    timer.start()
    plt.show()


if __name__ == "__main__":
    main()
