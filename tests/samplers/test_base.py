"""`Sampler` and `Chain` with a user-defined sampler that adds options and a transition."""

from __future__ import annotations

import copy
import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from support.fake_capture import FakeCapture
from support.langevin_reference import normal, quadratic, small_net
from torch import Tensor

import fastlangevin as fl
from fastlangevin.chains.chain import Chain
from fastlangevin.chains.cuda_graph import GraphCache
from fastlangevin.network.target import make_target
from fastlangevin.noise import Stream
from fastlangevin.samplers.base import Sampler
from fastlangevin.samplers.noise_counter import NoiseCounter
from fastlangevin.samplers.options import Option


@dataclass(eq=False, kw_only=True)
class AscentChain(Chain):
    """x ← x + η_k·s(x) + η_k·z."""

    rates: Sequence[float | Tensor]
    scale: float

    def step_(self, x, k, score, precomputed=None):
        s = score(x) if precomputed is None else precomputed
        z = fl.noise.normal(x.shape, seed=self.seed, step=self.steps[k], stream=Stream.LANGEVIN, offset=self.offset)
        x.add_(self.rates[k] * (s + self.scale * z))

    def per_step(self) -> tuple[Sequence[float], ...]:
        return (self.rates,)

    def with_per_step(self, numbers, steps):
        return replace(self, rates=numbers[0], steps=steps)

    def built_in(self) -> tuple[Hashable, ...]:
        return (self.scale,)


class Ascent(Sampler):
    rate, scale = Option[float](), Option[float]()

    def __init__(
        self,
        energy=None,
        *,
        n_steps=10,
        rate,
        scale=1.0,
        bounds=None,
        init="uniform",
        precision="fp32",
        engine="autograd",
        backend="auto",
        graph="auto",
        unroll=None,
        seed=None,
        generator=None,
    ):
        options = {k: v for k, v in locals().items() if k in self._defaults()}
        super().__init__(make_target(energy=energy), NoiseCounter(seed, generator), options)

    def _chain(self, n_steps: int, **shared: Any) -> AscentChain:
        return AscentChain(rates=[self.rate / (k + 1) for k in range(n_steps)], scale=self.scale, **shared)


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))


def expected(x: Tensor, n_steps: int, rate: float, scale: float = 1.0, first: int = 0, offset: int = 0) -> Tensor:
    """The chain on U = |x|²/2, whose score is -x, as a plain loop."""
    for k in range(n_steps):
        x = x + rate / (k + 1) * (scale * normal(x.shape, first + k, offset=offset) - x)
    return x


def test_call_sample_and_trace_take_its_steps():
    sampler = Ascent(quadratic, n_steps=3, rate=0.5, seed=1)
    assert torch.equal(sampler(X), expected(X, 3, 0.5))
    assert torch.equal(sampler.trace(X).x[-1], expected(X, 3, 0.5, first=3))
    x0 = sampler.initial((4, 3))
    assert torch.equal(sampler.sample((4, 3)), expected(x0, 3, 0.5, first=6))
    assert torch.equal(sampler(X[2:], chain_offset=2, step=0), expected(X, 3, 0.5)[2:])
    assert sampler.step == 9


def test_replacing_and_copying_options():
    sampler = Ascent(quadratic, n_steps=3, rate=0.5, seed=1)
    other = sampler.replace(scale=0.0, n_steps=2)
    assert torch.equal(other(X), expected(X, 2, 0.5, scale=0.0))
    assert sampler.step == 2 and copy.deepcopy(sampler).step == 2
    with pytest.raises(AttributeError, match="rate of a sampler is read-only"):
        sampler.rate = 1.0
    assert repr(other) == "Ascent(energy=quadratic, n_steps=2, rate=0.5, scale=0.0, seed=1, step=2)"


@pytest.mark.parametrize("unroll", [1, 2, 4])
def test_its_steps_are_captured(unroll):
    """With a fake capture: rates are read from memory, the scale is a constant of the graph."""
    FakeCapture.made = []
    net = small_net()
    sampler = Ascent(net, n_steps=4, rate=0.5, seed=1)
    sampler._graphs = GraphCache("auto", unroll, functools.partial(FakeCapture), "cpu")
    eager = Ascent(net, n_steps=4, rate=0.5, seed=1)
    for change in ({}, {"rate": 0.25}, {"scale": 0.5}):
        assert torch.equal(sampler.replace(**change)(X, step=0), eager.replace(**change)(X, step=0))
    assert len(sampler._graphs.captured) == 2


def test_its_plan_does_not_claim_the_kernels_of_langevin():
    sampler = Ascent(small_net(), rate=0.5, engine="mlp", seed=1)
    assert "steps are taken one by one: no kernel runs whole chains of Ascent" in sampler.plan.reasons
    assert not any("one by one" in reason for reason in fl.Langevin(small_net(), engine="mlp", seed=1).plan.reasons)


def test_an_x0_that_requires_grad_is_an_error():
    with pytest.raises(ValueError, match="x0 must not require grad, because Ascent is not differentiable"):
        Ascent(quadratic, rate=0.5, seed=1)(X.clone().requires_grad_())
    with torch.no_grad():
        Ascent(quadratic, rate=0.5, seed=1)(X.clone().requires_grad_())


def test_divergence_is_reported():
    with pytest.raises(fl.ChainDiverged, match="4 of 4 chains"):
        Ascent(quadratic, n_steps=400, rate=1e30, seed=1)(X)


def test_options_without_an_energy():
    assert Ascent.check_options({"rate": 0.5})["n_steps"] == 10
    with pytest.raises(TypeError, match="Ascent needs rate"):
        Ascent.check_options({})
    with pytest.raises(TypeError, match="an option of Ascent must be one of .*; did you mean 'rate'"):
        Ascent.check_options({"rat": 0.5})
    with pytest.raises(ValueError, match="n_steps must be an int of at least 1, got 0"):
        Ascent.check_options({"rate": 0.5, "n_steps": 0})
