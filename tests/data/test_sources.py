"""Properties of all sources: batches, devices, fingerprints, refused options."""

from __future__ import annotations

import pytest
import torch
from support.data_sources import Items, Stream, bytes_, everything, rand
from torch.utils.data import TensorDataset

from fastlangevin.data import load_data
from fastlangevin.data import sources as data

pytestmark = pytest.mark.any_processor


def test_a_batch_is_a_copy():
    values = rand(6, 2, lo=-1)
    for source in (values, bytes_(6, 2), "digits", TensorDataset(values)):
        loaded = load_data(source)
        before = everything(loaded).clone()
        everything(loaded).zero_()
        assert torch.equal(everything(loaded), before)


@pytest.mark.parametrize("image_size", [0, -1, 2.0, True, "8"])
def test_bad_image_sizes(image_size):
    with pytest.raises(ValueError, match="image_size must be an int of at least 1"):
        load_data(rand(5, 2), image_size=image_size)


@pytest.mark.parametrize("source", [rand(5, 4, 4), "digits", Items([rand(4, 4)]), Stream([rand(4, 4)])])
def test_image_size_of_sources_that_are_not_resized(source):
    with pytest.raises(ValueError, match=r"image_size must be None for .* got 8"):
        load_data(source, image_size=8)


@pytest.mark.parametrize("source", [None, 3, [rand(2, 2)], (rand(2, 2),)])
def test_other_sources(source):
    with pytest.raises(TypeError, match=f"data must be a name .* got {type(source).__name__}"):
        load_data(source)


def test_data_passes_through():
    loaded = load_data("digits")
    assert load_data(loaded) is loaded
    for option in ({"image_size": 8}, {"value_range": (0, 1)}):
        with pytest.raises(ValueError, match="must be None for a Data"):
            load_data(loaded, **option)


def test_to_moves_items_in_memory():
    loaded = load_data(bytes_(6, 3))
    moved = loaded.to("meta")
    assert moved.batch(torch.tensor([1])).device.type == "meta"
    assert (moved.name, moved.event_shape, moved.fingerprint, len(moved)) == ("tensor", (3,), loaded.fingerprint, 6)
    assert everything(loaded).device.type == "cpu"
    lazy = load_data(TensorDataset(bytes_(6, 3)))
    assert torch.equal(everything(lazy.to("meta")), everything(loaded))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_to_a_gpu():
    loaded = load_data("digits").to("cuda")
    batch = loaded.batch(torch.tensor([5, 3]))
    assert batch.is_cuda and torch.equal(batch.cpu(), data.digits()[0][[5, 3]])


@pytest.mark.parametrize("wrap", [lambda x: x, TensorDataset, Stream], ids=["memory", "map-style", "iterable"])
def test_fingerprints(wrap):
    values = rand(12, 2, 2)

    def sign(values, **options):
        return load_data(wrap(values), **options).fingerprint

    changed = values.clone()
    changed[5, 1, 1] += 1e-3
    others = [changed, values[:-1], values.flip(0), values.reshape(12, 4), values.reshape(12, 1, 1, 4)]
    signs = [sign(values), sign(values, value_range=(0, 2)), *map(sign, others)]
    assert len(set(signs)) == len(signs)
    assert sign(values.clone()) == signs[0] and len(signs[0]) == 16 and int(signs[0], 16)


@pytest.mark.parametrize(
    "source, words",
    [
        ("digit", "data='digit'.*digits, cifar10, celeba, lsun; did you mean 'digits'"),
        ("CIFAR", "data='CIFAR'.*did you mean 'cifar10'"),
        ("zzz", "no such file or folder"),
        ("some/digit", "no such file or folder"),
        ("digit.npy", "no such file or folder"),
    ],
)
def test_missing_sources(tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=words) as caught:
        load_data(source)
    assert ("did you mean" in words) == ("did you mean" in str(caught.value))
