"""Arrays in .npy and .npz files."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.data_sources import bytes_, everything, picture, rand, scaled

from fastlangevin.data import load_data
from fastlangevin.data import sources as data

pytestmark = pytest.mark.any_processor


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_npy(tmp_path, kind):
    values = bytes_(6, 4, 5, 3)
    np.save(tmp_path / "cats.npy", values.numpy())
    loaded = load_data(kind(tmp_path / "cats.npy"))
    assert (loaded.name, loaded.event_shape) == ("file:cats.npy", (3, 4, 5))
    assert torch.equal(everything(loaded), scaled(values.permute(0, 3, 1, 2)))


@pytest.mark.parametrize("name", ["images", "x", "data", "arr_0", "anything"])
def test_npz(tmp_path, name):
    values = rand(6, 2, lo=-1)
    others = {} if name == "anything" else {"labels": np.arange(6), "a": np.array(["text"])}
    np.savez(tmp_path / "cats.npz", **others, **{name: values.numpy()})
    assert torch.equal(everything(load_data(tmp_path / "cats.npz")), values)


def test_npz_names_have_an_order(tmp_path):
    values = {name: rand(6, 2).numpy() / k for k, name in enumerate(data._ARRAY_NAMES, 1)}
    for first, _ in pairwise(list(values)):
        np.savez(tmp_path / "cats.npz", **dict(reversed(values.items())))
        assert torch.equal(everything(load_data(tmp_path / "cats.npz")), 2 * torch.tensor(values.pop(first)) - 1)


@pytest.mark.parametrize("names", [("a", "b"), ()])
def test_npz_without_the_array(tmp_path, names):
    np.savez(tmp_path / "cats.npz", **{name: np.eye(2) for name in names})
    listed = ", ".join(map(repr, names))
    with pytest.raises(ValueError, match=rf"cats.npz must hold one array, .*'images'.* got \[{listed}\]"):
        load_data(tmp_path / "cats.npz")


def test_pickled_arrays_are_refused(tmp_path):
    objects = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "cats.npy", objects)
    np.savez(tmp_path / "cats.npz", images=objects)
    for name in ("cats.npy", "cats.npz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read.*pickled objects are refused"):
            load_data(tmp_path / name)


@pytest.mark.parametrize("name", ["cats.npy", "cats.npz"])
@pytest.mark.parametrize("keep", [0, 9, 300])
def test_damaged_arrays(tmp_path, name, keep):
    (np.save if name.endswith("y") else np.savez_compressed)(tmp_path / name, rand(40, 40).numpy())
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        load_data(tmp_path / name)


def test_errors_about_a_files_content_name_it(tmp_path):
    np.save(tmp_path / "cats.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"cats.npy must have items of shape"):
        load_data(tmp_path / "cats.npy")
    with pytest.raises(ValueError, match=r"image_size must be None for a .npy file, got 4"):
        load_data(tmp_path / "cats.npy", image_size=4)


def test_files_of_other_kinds(tmp_path):
    picture(tmp_path / "cat.png")
    endings = re.escape(" or ".join(data._READERS))
    with pytest.raises(ValueError, match=rf"folder of images or a {endings} file, got .*cat.png"):
        load_data(tmp_path / "cat.png")
