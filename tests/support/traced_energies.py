"""Energies that several tests of tracing read."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastlangevin.network.errors import NotRecognised
from fastlangevin.network.inputs import Inputs
from fastlangevin.network.target import Target
from fastlangevin.network.tracing import trace

CPU = torch.device("cpu")


def read(function, shape=(3, 2, 6, 6), kind="log_density", dtype=torch.float32, args=()):
    return trace(Target(kind, function), shape, dtype, CPU, Inputs(args))


def why(function, shape=(3, 2, 6, 6), **options):
    with pytest.raises(NotRecognised) as caught:
        read(function, shape, **options)
    return str(caught.value)


def body(*more):
    return [nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.2), *more, nn.Flatten(), nn.Linear(64, 1)]


def net(*more):
    return nn.Sequential(*body(*more))


class Energy(nn.Module):
    """As most people write it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1)])
        self.out = nn.Linear(64, 1)
        self.activation = F.silu
        self.name = "energy"

    def features(self, x):
        if x.dim() != 4:
            raise ValueError(self.name)
        for layer in self.layers:
            x = self.activation(layer(x))
        return x

    def forward(self, x):
        h = self.features(x)
        return self.out(h.view(x.size(0), -1)).squeeze(-1)


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


MODEL = net()


class Scaled(nn.Module):
    def forward(self, weight):
        return weight * 2
