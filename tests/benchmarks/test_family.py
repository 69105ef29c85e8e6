"""Which contenders of the family are timed: those that sample as the loop by hand does. Nothing is timed here."""

from __future__ import annotations

import dataclasses

import family_checks
import family_works
import pytest
import torch
from contenders.family import BASELINE, FAMILY, by_hand

N_CHAINS = 2_000
STEPS = {"mala": 20, "hmc": 20, "tempering": 20, "underdamped": 150}  # friction acts slowly
WORKS = family_works.works(N_CHAINS)
SMALL = ["mala-mlp", "hmc-double-well", "underdamped-double-well", "tempering-double-well", "annealed-mixture"]


def disagreement(work, chain):
    return family_checks.disagreement(work, chain, by_hand.make(work), STEPS.get(work.kind))


@pytest.mark.parametrize("name", ["mixture", "double-well"])
def test_draws_have_the_moments_of_the_density(name):
    density = family_works.densities(N_CHAINS)[name]
    x, energy = density.x0.double(), density.module
    squares = x.square()
    assert ((x.mean(0) - energy.mean).abs() < 5 * x.std(0) / N_CHAINS**0.5).all()
    assert ((squares.mean(0) - energy.covariance.diag()).abs() < 5 * squares.std(0) / N_CHAINS**0.5).all()


def test_tilted_draws_have_the_moments_of_weighted_normal_draws():
    n_chains = 20_000  # the tilt is small
    density = family_works.densities(n_chains)["mlp"]
    torch.manual_seed(2)
    z = torch.randn(200_000, 2)
    with torch.no_grad():
        weights = torch.softmax(density.module.log_density.net(z).double(), 0)
    mean = weights @ z.double()
    error = density.x0.std(0) / n_chains**0.5 + z.std(0) * weights.square().sum().sqrt()
    assert ((density.x0.mean(0) - mean).abs() < 5 * error).all()
    assert mean.abs().max() > 10 * error.max(), "the net tilts the normal"


@pytest.mark.parametrize("name", [name for name in SMALL if "annealed" not in name])
def test_the_loop_by_hand_keeps_the_moments_of_exact_draws(name):
    work = WORKS[name]
    torch.manual_seed(3)
    end = by_hand.make(work)(work.x0, STEPS[work.kind])
    was, now = (family_checks.statistics(work, x) for x in (work.x0, end))
    for statistic in ("state", "square", "log-density"):
        error = ((was[statistic].var() + now[statistic].var()) / N_CHAINS).sqrt()
        bias = work.bias * was[statistic].std()
        assert (was[statistic].mean() - now[statistic].mean()).abs() < 5 * error + bias, statistic
    assert (end != work.x0).any(1).double().mean() > 0.5


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("contender", [name for name in FAMILY if name != BASELINE])
def test_contenders_sample_the_density(name, contender):
    work, module = WORKS[name], FAMILY[contender]
    if why := module.MISSING or module.supports(work):
        pytest.skip(why)
    assert disagreement(work, module.make(work)) is None


@pytest.mark.parametrize("name", ["mala-double-well", "hmc-double-well", "annealed-mixture"])
def test_another_step_size_is_rejected(name):
    work = WORKS[name]
    options = {**work.options, "step_size": 2 * work.options["step_size"]}
    assert "standard errors apart" in disagreement(work, by_hand.make(dataclasses.replace(work, options=options)))


@pytest.mark.parametrize("name", ["mala-double-well", "hmc-double-well", "underdamped-double-well"])
def test_another_density_is_rejected(name):
    work = WORKS[name]
    colder = family_works.Negative(lambda x: -1.5 * work.module(x))
    assert "standard errors apart" in disagreement(work, by_hand.make(dataclasses.replace(work, module=colder)))


def test_a_chain_that_accepts_everything_is_rejected():
    work = WORKS["mala-double-well"]
    moved = work.x0 + 0.04 * by_hand.with_score(work.module, work.x0)[1] + 0.08**0.5 * torch.randn(N_CHAINS, 2)
    assert "after 1 steps" in disagreement(work, lambda x0, n: moved)


def test_a_state_of_another_shape_or_that_is_nan_is_rejected():
    work, chain = WORKS["mala-double-well"], by_hand.make(WORKS["mala-double-well"])
    assert "the state has shape (1, 2)" in disagreement(work, lambda x0, n: x0[:1])
    assert "nan" in disagreement(work, lambda x0, n: chain(x0, n) * torch.nan)
