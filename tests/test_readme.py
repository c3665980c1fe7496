"""What the README says is true: its links, its example and its check of gradients."""
import re

import numpy as np
import pytest
from helpers import PROJECT, README, run_readme

import cnn_numpy


def test_every_link_leads_to_a_heading_a_file_or_the_web():
    titles = re.findall(r"^#+ (.*)", README, re.MULTILINE)  # whose links GitHub makes like this:
    headings = ["#" + re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
    for link in re.findall(r'(?:\]\(|src=")([^)"]+)', README):  # ](link) or src="link"
        assert link in headings or link.startswith("https://") or (PROJECT / link).is_file(), link


def test_the_example_prints_the_numbers_in_its_comments(capsys):
    run_readme("layer.k[...] = [[1, 2], [3, 4]]")
    printed = re.findall(r"\d+", capsys.readouterr().out)
    promised = " ".join(re.findall(r"# \S+: (\[\[.*?\]\])", README))  # the arrays in comments
    assert printed == re.findall(r"\d+", promised)


class AddingLayer(cnn_numpy.LinearLayer):
    """A linear layer with a common fault: gradients of earlier batches stay in b_grad."""

    def backward(self, x, last_x_grad):
        earlier = self.b_grad
        x_grad = super().backward(x, last_x_grad)
        self.b_grad = self.b_grad + earlier
        return x_grad


def test_the_gradient_check_names_the_array_whose_gradient_is_wrong(check_gradients):
    with pytest.raises(AssertionError, match="'b'"):
        check_gradients(AddingLayer(4, 3), np.random.default_rng(0).standard_normal((5, 4)))
