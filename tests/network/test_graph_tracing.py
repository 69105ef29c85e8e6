"""Energies of which one recorded evaluation does not stand for all, and the reasons."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest
import torch
from torch import nn

from fastlangevin.network.dependencies import Dependencies
from fastlangevin.network.errors import NotRecognised
from fastlangevin.network.graph_tracing import trace_graph
from fastlangevin.network.inputs import Inputs
from fastlangevin.network.target import Target
from fastlangevin.score import AutogradScore


def record(function, kind="energy"):
    target, inputs = Target(kind, function), Inputs()
    evaluate = AutogradScore(target, "fp32", inputs).energy_and_score
    return trace_graph(target, evaluate, torch.randn(4, 3), inputs, Dependencies((function, inputs)))


def why(function, kind="energy"):
    with pytest.raises(NotRecognised) as caught:
        record(function, kind)
    return str(caught.value)


class Computed(nn.Module):
    def __getattr__(self, name):
        return random.random() if name == "beta" else super().__getattr__(name)

    def forward(self, x):
        return (x**2).sum(1) * self.beta


class Noise:
    def __get__(self, owner, kind):
        return random.random()


class Described(nn.Module):
    beta = Noise()

    def forward(self, x):
        return (x**2).sum(1) * self.beta


class Table:
    def __getitem__(self, name):
        return random.random()


class Named(NamedTuple):
    beta: float

    def noisy(self):
        return self.beta * random.random()


class Config(dict):
    def __getattr__(self, name):
        return self[name] * random.random()


class Number(float):
    def noisy(self):
        return self * random.random()


TABLE, NAMED, CONFIG, NUMBER = Table(), Named(1.0), Config(beta=1.0), Number(1.0)


@pytest.mark.parametrize(
    ("energy", "method"),
    [
        (Computed(), "__getattr__"),
        (Described(), "__get__"),
        (lambda x: (x**2).sum(1) * TABLE["beta"], "__getitem__"),
        (lambda x: (x**2).sum(1) * NAMED.noisy(), "noisy"),
        (lambda x: (x**2).sum(1) * CONFIG.beta, "__getattr__"),
        (lambda x: (x**2).sum(1) * NUMBER.noisy(), "noisy"),
    ],
    ids=["module", "descriptor", "index", "named tuple", "dict", "float"],
)
def test_methods_that_run_without_a_call_are_read(energy, method):
    assert why(energy).startswith(f"its Python code ({method}, line ")
    assert why(energy).endswith("draws random numbers with random")


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_torchscript_is_declined():
    net = torch.jit.trace(nn.Linear(3, 1), torch.zeros(4, 3), check_trace=False)
    assert why(net) == "the code of a TopLevelTracedModule cannot be checked"
