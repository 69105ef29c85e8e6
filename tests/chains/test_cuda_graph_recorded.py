"""Captured chains of engine "graph", on the stand-in for the capture: what is computed once a call is captured with the
steps, so that a replay computes it of the weights and arguments of its own time.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from support import fused_reference, residual_networks
from support.fake_capture import FakeCapture
from torch import nn
from torch.nn.utils import parametrizations

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache
from fastlangevin.kernels.triton import fused

OPTIONS = {"n_steps": 4, "step_size": 0.1, "noise_std": 0.01, "seed": 3, "engine": "graph"}


@pytest.fixture(autouse=True)
def made():
    FakeCapture.made = []
    return FakeCapture.made


@pytest.fixture(params=["operators", "fused"])
def kernels(request, monkeypatch):
    """Operators one by one, and fused ones by their reference."""
    if request.param == "fused":
        monkeypatch.setattr(fused, "unsupported", lambda device: None)
        monkeypatch.setattr(fused, "Launch", fused_reference.Launch)


def pair(unroll: int | None = None):
    """An eager and a captured sampler of equal networks under spectral norm, states and labels."""
    energy, x, (label,) = residual_networks.seeded("labelled", 8, (4, 6), 2)
    for layer in list(energy.modules()):
        if isinstance(layer, nn.Conv2d):
            parametrizations.spectral_norm(layer)
    energy.eval().requires_grad_()
    eager, replayed = (fl.Langevin(e, **OPTIONS) for e in (energy, copy.deepcopy(energy)))
    replayed._graphs = GraphCache("auto", unroll, functools.partial(FakeCapture), "cpu")
    return eager, replayed, x, label


@pytest.mark.parametrize("unroll", [1, 4])
def test_replays_have_the_eager_chain_s_bits(unroll, kernels, made):
    eager, replayed, x, label = pair(unroll)
    for y in (label, (label + 1) % residual_networks.N_CLASSES):
        assert torch.equal(replayed(x, y), eager(x, y))
    assert len(made) == 1 and made[0].replays and made[0].cold == set()


def test_replays_fold_the_weights_of_their_time(kernels, made):
    """After an optimizer's step the graph is the same one; its normalised weights are not."""
    eager, replayed, x, label = pair()
    before = replayed(x, label)
    assert torch.equal(before, eager(x, label))
    for sampler in (eager, replayed):
        energy = sampler.target.function
        optimizer = torch.optim.Adam(energy.parameters(), lr=0.05)
        energy(x, label).sum().backward()
        optimizer.step()
    again = eager(x, label, step=0)
    assert torch.equal(replayed(x, label, step=0), again) and not torch.equal(again, before)
    assert len(made) == 1


def test_weights_in_other_memory_are_captured_again(made):
    eager, replayed, x, label = pair()
    replayed(x, label), eager(x, label)
    for sampler in (eager, replayed):
        linear = sampler.target.function.linear
        linear.weight = nn.Parameter(linear.weight.detach() * 2)
    assert torch.equal(replayed(x, label), eager(x, label))
    assert len(made) == 2
