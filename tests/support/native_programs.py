"""Energies computed by native programs, and exactly."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from fastlangevin.network.inputs import Inputs
from fastlangevin.network.target import Target
from fastlangevin.score.graph import GraphEngine, NativeGraphScore


def native_score(energy, x, *args):
    """The bound native program. Its code serves every instruction set."""
    bound = GraphEngine(Target("energy", energy), "fp32").bind(x, Inputs(args))
    assert isinstance(bound, NativeGraphScore), bound.fusion
    return bound


def computed(bound, x):
    """Energies (B, 1) and scores, after runs on states that leave NaN in the memory that is worked in."""
    assert bound._program_with_energies is not None
    poison = torch.full_like(x, math.nan)
    bound(poison)
    alone = bound(x)
    bound.energy_and_score(poison)
    energies, scores = bound.energy_and_score(x)
    assert energies.shape == (len(x),) and torch.equal(scores, alone)
    return energies[:, None], scores


def exact(energy, x, *args):
    """Energies and scores in float64, in the order of `computed`."""
    twin = copy.deepcopy(energy).double() if isinstance(energy, nn.Module) else energy
    x = x.double().requires_grad_()
    energies = twin(x, *[a.double() if a.is_floating_point() else a for a in args]).reshape(len(x), 1)
    return energies.detach(), -torch.autograd.grad(energies.sum(), x)[0]


def whole(shape, most=2, seed=0):
    return torch.randint(-most, most + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


class Squares(nn.Module):
    """½ ‖f(x)‖² for a layer f, whose score -Wᵀ f(x) takes the layer forwards and backwards."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        for i, p in enumerate(layer.parameters()):
            p.data = whole(p.shape, seed=i).to(p.dtype)

    def forward(self, x):
        return 0.5 * self.layer(x).flatten(1).square().sum(1)
