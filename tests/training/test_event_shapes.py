"""Data of any event shape: signals, embeddings, vectors and volumes, without a word about their layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

import fastlangevin as fl

OPTIONS = {"n_iterations": 2, "batch_size": 4, "sampler": {"n_steps": 2, "noise_std": 0.01}, "progress": False}


class Transformer(nn.Module):
    """f of (L, D) embeddings."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.layer(x).mean(1))[:, 0]


def pooled(convolution, pool):
    return nn.Sequential(convolution, nn.SiLU(), pool(1), nn.Flatten(), nn.Linear(4, 1))


class Unsqueezed(nn.Sequential):
    """f as (B, 1, 1)."""

    def forward(self, x):
        return super().forward(x)[..., None]


NETWORKS = {
    "signal": ((2, 30), lambda: pooled(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d)),
    "embeddings": ((5, 8), Transformer),
    "energies in another shape": ((2, 30), lambda: Unsqueezed(*pooled(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d))),
    "vector": ((6,), lambda: nn.Sequential(nn.Linear(6, 4), nn.SiLU(), nn.Linear(4, 1))),
    "volume": ((1, 4, 5, 6), lambda: pooled(nn.Conv3d(1, 4, 3), nn.AdaptiveAvgPool3d)),
}


class Once(IterableDataset):
    """A stream that can be read once."""

    def __init__(self, x):
        self.left = iter(x)

    def __iter__(self):
        return self.left


EVALUATION = {"n": 4, "fid": False, "coverage": False, "n_reconstruct": 0, "n_chains": 0, "progress": False}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("source", ["tensor", "file", "Dataset", "stream", "labelled stream"])
def test_items_keep_their_shape(tmp_path, kind, source):
    shape, make = NETWORKS[kind]
    x = torch.rand(10, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    np.save(tmp_path / "x.npy", x.numpy())
    data = {
        "tensor": lambda: x,
        "file": lambda: tmp_path / "x.npy",
        "Dataset": lambda: TensorDataset(x),
        "stream": lambda: Once(x),
        "labelled stream": lambda: (Once(x), torch.arange(10)),
    }[source]
    model = make()
    result = fl.train(data(), model, out=tmp_path / "run", **OPTIONS)
    assert result.sampler.sample((3, *shape)).shape == (3, *shape)
    assert np.load(tmp_path / "run" / "samples.npz")["samples"].shape == (64, *shape)
    fl.train(data(), make(), out=tmp_path / "run", **{**OPTIONS, "n_iterations": 3}, resume=True)
    if source in ("file", "stream"):
        assert fl.evaluate(tmp_path / "run", data(), model=model, **EVALUATION)["n_data"] == 10


def test_labelled_signals():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.embed = nn.Conv1d(2, 4, 3), nn.Embedding(3, 4)

        def forward(self, x, y):
            return (self.net(x).mean(2) * self.embed(y)).sum(1)

    x, y = torch.rand(9, 2, 30), torch.arange(9) % 3
    result = fl.train((x, y), Net(), class_conditional=True, **OPTIONS)
    assert result.sampler.sample((2, 2, 30), y[:2]).shape == (2, 2, 30)


def test_images_stay_images():
    """For networks that take both, and for the default one."""
    x = torch.rand(10, 8, 8)
    both = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    for model, shape in ((both, (1, 8, 8)), (fl.models.ConvNet(8, 1, 4), (1, 8, 8)), (None, (1, 8, 8))):
        assert fl.train(x, model, **OPTIONS).sampler.sample((2, *shape)).shape == (2, *shape)
    result = fl.train(x, nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), layout="as_given", **OPTIONS)
    assert result.sampler.sample((2, 8, 8)).shape == (2, 8, 8)


def test_layouts():
    x = torch.rand(10, 8, 6, 3)
    assert fl.load_data(x).event_shape == (3, 8, 6) and fl.load_data(x, layout="as_given").event_shape == (8, 6, 3)
    with pytest.raises(ValueError, match="layout must be one of 'images', 'as_given', got 'as_is'"):
        fl.load_data(x, layout="as_is")


def test_a_network_that_takes_neither_shows_its_own_error():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        fl.train(torch.rand(10, 8, 8), nn.Linear(5, 1), **OPTIONS)


class Noisy(TensorDataset):
    """Items with noise from torch's random state."""

    def __getitem__(self, i):
        x = super().__getitem__(i)[0]
        return (x + 0.01 * torch.randn(x.shape)).clamp(-1, 1)


def test_a_look_at_what_the_network_takes_leaves_the_random_state():
    model, before = nn.Linear(6, 1), torch.get_rng_state()
    fl.train(Noisy(torch.linspace(-1, 1, 60).reshape(10, 6)), model, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)
