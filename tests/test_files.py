"""Files of parameters: what save writes, and what load takes."""
import os
import sys

import numpy as np
import pytest
from helpers import NAME, arrays_of, assert_all_same, network_of

from cnn_numpy import ConvolutionNeuralNetwork, LinearLayer, NetworkLayer


@pytest.mark.parametrize("name", [f"{NAME}.npz", "digits", "digits.npy", "digits.npz.1"])
def test_what_is_saved_is_loaded_from_the_path_as_it_is(tmp_path, name):
    network, other, path = network_of(13), network_of(14), tmp_path / name
    path.write_bytes(b"older")
    network.save(path=path)
    arrays = arrays_of(other)  # no copies: load must change them in place
    other.load(path=str(path))
    assert_all_same(arrays, arrays_of(network), 0)
    assert list(tmp_path.iterdir()) == [path]
    with np.load(path) as file:
        assert list(file) == ["0.k", "0.b", "3.k", "3.b", "7.w", "7.b"]  # in PyTorch's order


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_the_mode_of_a_file_follows_the_umask(tmp_path):
    umask = os.umask(0o027)
    network_of(13).save(str(tmp_path / "digits"))
    os.umask(umask)
    assert (tmp_path / "digits").stat().st_mode & 0o777 == 0o640


def test_saving_that_stops_in_the_middle_leaves_the_older_file(tmp_path, monkeypatch):
    def savez(file, **arrays):
        file.write(b"half")
        raise OSError("the disk is full")

    network, path = network_of(13), tmp_path / "digits.npz"
    network.save(path)
    monkeypatch.setattr(np, "savez", savez)
    with pytest.raises(OSError, match="full"):
        network_of(14).save(path)
    network.load(path)
    assert_all_same(arrays_of(network), arrays_of(network_of(13)), 0)


@pytest.mark.parametrize("change", [
    {"7.b": np.zeros(10)}, {"8.b": np.zeros((1, 10))}, {"0.b": np.zeros((1, 16, 1, 1))},
    {"7.b": None}, {"0.k": np.zeros((4, 1, 5, 5), object)},
], ids=["another shape", "one more", "0.b with the shape of 3.b", "one less", "Python objects"])
def test_a_file_of_another_network_is_refused(tmp_path, change):
    network, path = network_of(13), tmp_path / "digits.npz"
    arrays = {**arrays_of(network_of(14)), **change}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match="digits.npz.*expected|allow_pickle"):
        network.load(path)
    assert_all_same(arrays_of(network), arrays_of(network_of(13)), 0)


# What save keeps


def network_with(**attributes):
    """Return a network whose layers[1] has arrays and other attributes."""
    network, layer = ConvolutionNeuralNetwork(), NetworkLayer()
    vars(layer).update(attributes, k_grad_mean=np.array(0.5), order=np.arange(3))
    network.layers = [LinearLayer(4, 4), layer]
    return network


@pytest.mark.parametrize("attributes", [
    {"inner": [LinearLayer(2, 2)]}, {"inner": [np.ones(3)]}, {"inner": {"w": np.ones(3)}},
    {"inner": LinearLayer(2, 2)}, {"size": 3, "inner": NetworkLayer(), "last": LinearLayer(2, 2)},
    {"inner": ConvolutionNeuralNetwork()}])
def test_save_refuses_what_it_would_lose_before_it_touches_a_file(tmp_path, attributes):
    path = tmp_path / "digits.npz"
    path.write_bytes(b"older")
    with pytest.raises(TypeError, match=r"layers\[1\]\.inner"):
        network_with(**attributes).save(path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"older"


@pytest.mark.parametrize("value", [(2, 3), np.tanh, abs, None, 0.5, True, "same", np.float32(2)])
def test_save_keeps_the_arrays_beside_what_holds_none(tmp_path, value):
    network = network_with(other=value, sum_grad=np.ones(3), cache_grad=[np.ones(3)], x_grad={})
    network.save(tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz") as file:
        assert list(file) == ["0.w", "0.b", "1.k_grad_mean", "1.order"]
    network.load(tmp_path / "digits.npz")
