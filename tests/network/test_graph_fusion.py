"""Graphs whose calls are fused: the same results, by a reference of fused calls in plain torch, and which are fused."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import fused_reference, residual_networks
from support.random_energies import RandomEnergy
from torch import nn

import fastlangevin as fl
from fastlangevin.kernels.triton.fused.plan import supports
from fastlangevin.network import graph_exposed
from fastlangevin.network.inputs import Inputs
from fastlangevin.network.pointwise import Extent, Op
from fastlangevin.score import graph_program
from fastlangevin.score.graph_program import Program


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Fused calls by the reference, products among them."""
    monkeypatch.setattr(graph_program.fused_kernels, "Launch", fused_reference.Launch)
    monkeypatch.setattr(graph_program.fused_kernels, "computes", lambda product, dtype: supports(product))


def programs(energy, x, args=()):
    """The program whose calls are fused, and a step of it and of the one of single calls."""
    score = fl.Langevin(energy, engine="graph", n_steps=1, step_size=0.1, noise_std=0.1)._score.bind(x, Inputs(args))
    tensors = [t.detach() for t in score._dependencies.tensors]
    fused = Program(score._recording.graph, True, fuses=True)
    with torch.no_grad():
        return fused, fused.bind(tensors, score._dependencies.modules), score.energy_and_score


def assert_equal(fused, single, x):
    """Up to the order of additions in float64."""
    with torch.no_grad():
        for a, b in zip(fused(x.clone()), single(x.clone()), strict=True):
            assert torch.isfinite(b).all() and (a - b).abs().max() <= 1e-12 * (1 + b.abs().max())


def all_dense():
    """Fails if a fused call gets gains or biases that its kernel would have to copy at each step."""
    call = fused_reference.Launch.__call__

    def checked(self, *args):
        assert all(a.is_contiguous(memory_format=torch.channels_last) for a in args if a.shape[2:] == (1, 1))
        return call(self, *args)

    return mock.patch.object(fused_reference.Launch, "__call__", checked)


@pytest.mark.parametrize(("name", "products", "calls"), [("labelled", 12, 30), ("wide", 12, 29), ("swish", 4, 18)])
def test_residual_networks(name, products, calls):
    """All convolutions but those of the state are computed with what follows, or else another one that is added."""
    energy, x, args = residual_networks.seeded(name, 16, (8, 12), 3)
    program, fused, single = programs(energy, x, args)
    with all_dense():
        assert_equal(fused, single, x)
    assert sum(o.product is not None for o in program.fused) == products
    assert len(program.calls) == calls


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**31), n_operations=st.integers(2, 12), train=st.booleans())
def test_random_graphs(seed, n_operations, train):
    """Also where few images are worth their layout."""
    energy = RandomEnergy(seed, n_operations).double().train(train)
    torch.manual_seed(seed)
    x = torch.randn(2, *energy.event, dtype=torch.float64)
    before = graph_program._gains_by_channels_last
    graph_program._gains_by_channels_last = lambda graph, calls: len(energy.event) == 3
    try:
        _, fused, single = programs(energy, x)
    finally:
        graph_program._gains_by_channels_last = before
    if not train:  # single steps change averages too
        assert_equal(fused, single, x)


class Layers(nn.Module):
    """Convolutions of a state of 3 planes, then of 16 channels, and a buffer."""

    def __init__(self, padding=1, **options):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 16, 3, padding=padding, **options)
        self.transposed = nn.ConvTranspose2d(16, 16, 3, padding=1)
        self.register_buffer("gain", torch.rand(1, 16, 1, 1))
        self.rows = torch.rand(1, 1, 6, 1, dtype=torch.float64)

    def forward(self, x):
        return self.energy(F.relu(self.stem(x))).flatten(1).sum(1)


class Added(Layers):
    energy = lambda self, a: F.silu(torch.add(self.conv(a), a, alpha=0.5))


class Transposed(Layers):
    energy = lambda self, a: F.silu(self.transposed(a))


class Rows(Layers):
    """An operand that varies along rows alone."""

    energy = lambda self, a: F.silu(self.conv(a * self.rows) * self.rows)


class NegativeSlope(Layers):
    """The sign of the result is not that of the argument."""

    energy = lambda self, a: F.leaky_relu(self.conv(a), -0.5).square()


class NegatedResult(Layers):
    """Nor is it when the result has been overwritten, by an operator that stays as it is."""

    energy = lambda self, a: F.leaky_relu(self.conv(a), 0.5).neg_() + a


class SharedMemory(Layers):
    """An addition in place that others see."""

    def energy(self, a):
        with torch.no_grad():
            gate = self.conv(a)
            half = gate[:, :8]
            gate += a
        return F.silu(a) * gate + torch.cat([half, half], 1)


class Pools(Layers):
    """Means over pixels that are not over 2×2 of them without a rest."""

    def energy(self, a):
        found = [F.avg_pool2d(F.silu(a), *args) for args in ((2, 1), (2, 2, 1), (2, 2, 0, False, True, 3), (3, 3))]
        narrow = F.silu(a[..., :5].contiguous())
        found += [F.avg_pool2d(narrow, 2), F.avg_pool2d(narrow, 2, ceil_mode=True)]
        return torch.cat([F.silu(p).flatten(1) for p in found], 1)


class Overwritten(Layers):
    """A buffer is read, and then written to. What is computed before it is read waits for a convolution."""

    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, x):
        a = F.relu(self.stem(x))
        shifted = a + self.gain.float()
        self.gain.add_(1)
        return (shifted * F.silu(a + self.other(x)) + a * self.gain.float()).flatten(1).sum(1)


class Promoted(Layers):
    """In place float32 stays float32, whatever is added."""

    def energy(self, a):
        out = F.relu(a).float()
        out += a
        return F.silu(out) * (1 + 1e-9)


LAYERS = (Added, Transposed, Rows, NegativeSlope, NegatedResult, SharedMemory, Pools, Overwritten, Promoted)
ENERGIES = {
    **{cls.__name__: cls for cls in LAYERS},
    "groups": lambda: Added(groups=2),
    "dilation": lambda: Added(2, dilation=2),
}


def quarters(operator):
    return [
        i for section in operator.sections for i in section.instructions if (i.op, i.b) == (Op.LOAD, Extent.QUARTER)
    ]


@pytest.mark.parametrize("name", ENERGIES)
def test_what_is_not_fused_is_right(name, monkeypatch):
    monkeypatch.setattr(graph_program, "_gains_by_channels_last", lambda graph, calls: True)
    torch.manual_seed(0)
    energy = ENERGIES[name]().double().requires_grad_(False)
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    program, fused, single = programs(energy, x)
    assert program.fused and (name != "Pools" or not any(o.before or quarters(o) for o in program.fused))
    gain = energy.gain.clone()
    with torch.no_grad():
        found, expected = [], []
        for step, results in ((fused, found), (single, expected)):
            energy.gain.copy_(gain)
            results += step(x.clone())
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()


def test_a_score_that_is_a_repeated_conversion():
    """The first of several conversions takes the place of the last, also where that is the result."""

    def score(x):
        wide = torch.sin(x).double()
        return (wide.float() * 0 + wide.float()).double(), wide.float()

    x = torch.randn(2, 3)
    engine = fl.Langevin(score=lambda x: score(x)[1], engine="graph", n_steps=1, step_size=0.1, noise_std=0.1)
    graph = engine._score.bind(x, Inputs())._recording.graph
    found = graph_exposed.without_repeated_casts(graph)
    assert len(graph.calls) - len(found.calls) == 2
    assert found.score in {r for call in found.calls for r in call.returned}
