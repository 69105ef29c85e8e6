"""What MALA, HMC and underdamped dynamics share: splits of a batch and of a call, captured steps, layouts, and energies
that change from step to step.
"""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from support.fake_capture import FakeCapture
from torch import Tensor

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache

X = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
MASS = torch.tensor([0.5, 1.0, 3.0])
KINDS = {
    "mala": functools.partial(fl.MALA, step_size=0.05),
    "hmc": functools.partial(fl.HMC, step_size=0.1, n_leapfrog=3, mass=MASS),
    "underdamped": functools.partial(fl.Underdamped, step_size=0.1, friction=0.7, mass=MASS, temperature=1.5),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def quartic(x: Tensor) -> Tensor:
    """Operations that round each element alone, so that a chain's energy does not depend on the batch."""
    flat = x.flatten(1)
    return ((flat * flat - 1.0) ** 2 + 0.3 * flat).sum(dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_splits_of_the_batch_and_of_the_call_have_the_same_bits(kind, dtype):
    sampler, x0 = kind(quartic, n_steps=7, seed=3), X.to(dtype)
    whole = sampler(x0, step=5)
    assert not torch.equal(whole, x0)
    parts = [sampler(x0[:3], step=5, chain_offset=0), sampler(x0[3:], step=5, chain_offset=3)]
    assert torch.equal(torch.cat(parts), whole)
    seen = []
    assert torch.equal(sampler(x0, step=5, callback=lambda k, x: seen.append(k), every=3), whole)
    assert seen == [3, 6, 7]
    assert torch.equal(sampler.trace(x0, step=5, every=2).x[-1], whole)


def test_one_seed_gives_one_run_and_copies_go_on(kind):
    sampler = kind(quartic, n_steps=3, seed=3)
    first = sampler(X)
    assert sampler.step == 3 and torch.equal(kind(quartic, n_steps=3, seed=3)(X), first)
    assert torch.equal(copy.deepcopy(sampler)(X), sampler(X)) and not torch.equal(sampler(X), first)
    assert torch.equal(sampler.sample((7, 3), step=9), sampler(sampler.initial((7, 3), step=9), step=9))


def test_channels_last_states_keep_their_layout(kind):
    x0 = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2)).to(memory_format=torch.channels_last)
    sampler = (
        kind(quartic, n_steps=3, seed=3) if "mass" not in kind.keywords else kind(quartic, mass=2.0, n_steps=3, seed=3)
    )
    x = sampler(x0, step=0)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, sampler(x0.contiguous(), step=0))


@pytest.mark.parametrize("unroll", [1, 2, 4])
def test_captured_steps_have_the_same_bits(kind, unroll):
    """With a fake capture, which replays what was captured: also for other numbers, and a call in parts."""
    FakeCapture.made = []
    sampler, eager = kind(quartic, n_steps=4, seed=3), kind(quartic, n_steps=4, seed=3)
    sampler._graphs = GraphCache("auto", unroll, FakeCapture, "cpu")
    for change in ({}, {"step_size": 0.1}):
        for step in (0, 4):
            assert torch.equal(sampler.replace(**change)(X, step=step), eager.replace(**change)(X, step=step))
    assert len(sampler._graphs.captured) == 1
    if isinstance(sampler, fl.Underdamped):
        for velocity in (None, torch.ones_like(X), torch.zeros_like(X)):
            pair = [s.with_velocity(X, velocity=velocity, step=8) for s in (sampler, eager)]
            assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))
    else:
        a, b = (s.trace(X, step=0).statistics for s in (sampler, eager))
        assert torch.equal(a["energy_error"][1:], b["energy_error"][1:]) and a["energy_error"][0].isnan().all()


def test_a_captured_call_in_parts(kind):
    FakeCapture.made = []
    sampler, eager = kind(quartic, n_steps=4, seed=3), kind(quartic, n_steps=4, seed=3)
    sampler._graphs = GraphCache("auto", 1, FakeCapture, "cpu")
    observed = sampler(X, step=0, callback=lambda k, x: None, every=2)
    assert torch.equal(observed, eager(X, step=0))


def test_energies_that_change_from_step_to_step(kind):
    """Each step is one of a sampler whose argument stays: what is remembered of the step before must not be used."""

    def scaled(x: Tensor, beta: float) -> Tensor:
        return beta * quartic(x)

    betas = [0.25, 1.0, 0.5]
    sampler = kind(scaled, n_steps=3, seed=3)
    x, velocity = X, None
    for k, beta in enumerate(betas):
        if isinstance(sampler, fl.Underdamped):
            x, velocity = sampler.with_velocity(x, beta, velocity=velocity, n_steps=1, step=k)
        else:
            x = sampler(x, beta, n_steps=1, step=k)
    assert torch.equal(sampler(X, fl.PerStep(betas), step=0), x)


@pytest.mark.parametrize("engine", ["analytic", "autograd"])
def test_step_sizes_that_change_from_step_to_step(kind, engine):
    """Each step is one of a sampler of that step size: no part of it has the next one's, whose kick would be off by
    (0.1 - 0.05) / 2 times a score of the order of 1. Some 30 roundings of float32, of numbers below 4, make 1e-5.
    """
    density = fl.energies.GaussianMixture([[1.0, 0.0, 0.0], [-1.0, 0.5, 0.0]], 0.5)
    step_sizes = [0.05, 0.1, 0.02]
    sampler = kind(density, step_size=step_sizes, n_steps=3, engine=engine, seed=3)
    x, velocity = X, None
    for k, step_size in enumerate(step_sizes):
        one = kind(density, step_size=step_size, n_steps=1, engine=engine, seed=3)
        if isinstance(one, fl.Underdamped):
            x, velocity = one.with_velocity(x, velocity=velocity, step=k)
        else:
            x = one(x, step=k)
    torch.testing.assert_close(sampler(X, step=0), x, rtol=0, atol=1e-5)
    assert torch.equal(sampler.trace(X, step=0, every=2).x[-1], sampler(X, step=0))  # in parts


def test_divergence_is_reported_or_rejected(kind):
    sampler = kind(quartic, n_steps=20, seed=3).replace(step_size=1e6)
    if isinstance(sampler, fl.Underdamped):
        with pytest.raises(fl.ChainDiverged, match="7 of 7 chains"):
            sampler(X)
    else:
        assert torch.equal(sampler(X), X)


def test_states_without_an_event_shape(kind):
    """(B,): one number a chain. Halves and a sum of one number are exact, so both energies round alike."""
    sampler = kind(lambda x: 0.5 * x * x, n_steps=3, seed=3, **({"mass": 2.0} if "mass" in kind.keywords else {}))
    x0 = X[:, 0].contiguous()
    column = sampler.replace(energy=lambda x: 0.5 * (x * x).sum(1))
    assert torch.equal(sampler(x0, step=0), column(x0[:, None], step=0)[:, 0])


def test_starts_from_which_no_chain_can_move(kind):
    if kind is KINDS["underdamped"]:
        pytest.skip("it has neither bounds nor a test")
    for bad in (math.nan, -math.inf):  # where proposals do not lead
        sampler = kind(
            lambda x, bad=bad: quartic(x) + torch.where(x[:, 0] > X[:, 0].median(), bad, 0.0),
            step_size=1e-8,
            n_steps=1,
            seed=3,
        )
        with pytest.raises(ValueError, match="energy must be a number above -infinity at x0.*: that of 3 of 7 chains"):
            sampler(X)
    inside = X.clamp(-1, 1)
    with pytest.raises(ValueError, match=r"x0 must lie within the bounds \(-1.0, 1.0\).*: 1 of 7 chains do not"):
        kind(quartic, bounds=(-1, 1), seed=3)(torch.cat([inside[:6], torch.full((1, 3), 1.5)]))
    assert kind(quartic, bounds=(-1, 1), seed=3)(inside).abs().max() <= 1


def test_numbers_as_tensors_and_masses_as_arrays(kind):
    given = kind(quartic, temperature=torch.tensor(1.5), n_steps=2, seed=3)
    assert torch.equal(given(X, step=0), kind(quartic, temperature=1.5, n_steps=2, seed=3)(X, step=0))
    if "mass" in kind.keywords:
        for mass in (MASS.numpy(), MASS.tolist()):
            assert torch.equal(given.replace(mass=mass)(X, step=0), given(X, step=0))
        assert given.replace(mass=torch.tensor(2.0)).mass == 2.0


def test_what_is_refused(kind):
    with pytest.raises(ValueError, match="step_size must be positive, got 0"):
        kind(quartic, step_size=0.0)
    with pytest.raises(TypeError, match="step_size must be the same for all chains"):
        kind(quartic, step_size=torch.ones(7))
    with pytest.raises(ValueError, match="temperature must be positive and finite, got -1"):
        kind(quartic, temperature=-1.0)
    with pytest.raises(ValueError, match="step_size as a sequence must have n_steps = 100 values, got 2"):
        kind(quartic, step_size=[0.1, 0.2])
    with pytest.raises(ValueError, match="x0 must not require grad"):
        kind(quartic, seed=1)(X.clone().requires_grad_())
    with pytest.raises(ValueError, match="mask must be None"):
        kind(quartic, seed=1)(X, mask=torch.ones(7, 3, dtype=torch.bool))


@pytest.mark.parametrize("kind", [KINDS["hmc"], KINDS["underdamped"]])
def test_masses_that_are_refused(kind):
    for mass in (0.0, -1.0, math.nan, torch.tensor([1.0, 0.0, 1.0])):
        with pytest.raises(ValueError, match="mass must be positive and finite"):
            kind(quartic, mass=mass)
    with pytest.raises(
        ValueError, match=r"mass must be a number or of the shape of a chain's state \(3,\), got \(2,\)"
    ):
        kind(quartic, mass=torch.ones(2), seed=1)(X)
