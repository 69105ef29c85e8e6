"""`MALA`: its transition against the densities of its proposals, its acceptance against theory, and its invariance."""

from __future__ import annotations

import math

import pytest
import torch
from support.densities import DENSITIES, assert_moments, exact_samples
from torch import Tensor

import fastlangevin as fl
from fastlangevin.noise import Stream, normal, uniform

STEP_SIZES = {
    "gaussian": 0.25,
    "mixture": 0.15,
    "double well": 0.04,
    "rosenbrock": 0.02,
    "funnel": 0.1,
    "rings": 0.01,
}


def energy(x: Tensor) -> Tensor:
    return ((x * x - 1.0) ** 2 + 0.3 * x).sum(dim=1)


def score(x: Tensor) -> Tensor:
    return -(4.0 * x * (x * x - 1.0) + 0.3)


def log_proposal(x: Tensor, y: Tensor, eta: float, temperature: float) -> Tensor:
    """log q(y | x), of N(x + η·s(x), 2ηT), up to a constant."""
    return -((y - x - eta * score(x)) ** 2).sum(dim=1) / (4 * eta * temperature)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_transitions_are_those_of_metropolis_and_hastings(temperature):
    """In float64, by the densities of the proposals, whose logarithms lose digits of squares up to 1e3: an error of
    1e-12. A decision could differ if its uniform number were as near to the probability.
    """
    x0 = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    etas = [0.05, 0.1, 0.2, 0.02]
    sampler = fl.MALA(energy, step_size=etas, n_steps=4, temperature=temperature, seed=11)
    trace = sampler.trace(x0, chain_offset=5, step=7)
    x, n_accepted = x0, 0
    for k, eta in enumerate(etas):
        z = normal(x.shape, seed=11, step=7 + k, offset=5 * 3).double()
        y = x + eta * score(x) + math.sqrt(2 * eta * temperature) * z
        forward, back = (log_proposal(*pair, eta, temperature) for pair in ((x, y), (y, x)))
        log_ratio = (energy(x) - energy(y)) / temperature + back - forward
        u = uniform((40,), seed=11, step=7 + k, stream=Stream.ACCEPT_REJECT, offset=5).double()
        accepted = u < log_ratio.exp()
        x = torch.where(accepted[:, None], y, x)
        torch.testing.assert_close(trace.x[k + 1], x, rtol=1e-12, atol=1e-12)
        recorded = trace.statistics["energy_error"][k + 1].double()
        torch.testing.assert_close(recorded, -temperature * log_ratio, rtol=1e-6, atol=1e-9)
        assert torch.equal(trace.statistics["acceptance"][k + 1], accepted.float())
        n_accepted += int(accepted.sum())
    assert 20 < n_accepted < 140
    assert trace.statistics["acceptance"][0].isnan().all()


def test_proposals_are_the_steps_of_langevin_bit_for_bit():
    """At tiny steps nearly all proposals are accepted."""
    x0 = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    mala = fl.MALA(energy, step_size=1e-4, seed=11)(x0, n_steps=1)
    langevin = fl.Langevin(energy, step_size=1e-4, noise_std=None, seed=11)(x0, n_steps=1)
    same = (mala == langevin).all(dim=1)
    assert same.sum() >= 45 and torch.equal(mala[~same], x0[~same])


@pytest.mark.parametrize("eta", [0.3, 1.2])
def test_acceptance_on_a_gaussian_is_that_of_theory(eta):
    """For U = x²/2 the ratio is exp(η/4·(x² - y²)). At stationarity x and y are jointly normal, and by reversibility
    the mean acceptance is 2·P(|y| < |x|) = 2·P((x - y)(x + y) > 0) = 1 + 2/π·asin ρ, ρ their correlation.
    """
    n = 40_000
    x0 = torch.randn(n, 1, generator=torch.Generator().manual_seed(3))
    trace = fl.MALA(lambda x: 0.5 * x.square().sum(1), step_size=eta, n_steps=1, seed=5).trace(x0)
    rho = -(eta**2) / math.sqrt((eta**2 + 2 * eta) * ((2 - eta) ** 2 + 2 * eta))
    expected = 1 + 2 / math.pi * math.asin(rho)
    accepted = trace.statistics["acceptance"][1].double()
    assert abs(accepted.mean() - expected) < 5 * math.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("name", DENSITIES)
def test_leaves_six_densities_invariant(name):
    """From exact samples, 25 transitions at a step size at which a biased sampler would drift."""
    x = fl.MALA(DENSITIES[name](), step_size=STEP_SIZES[name], n_steps=25, seed=2)(exact_samples(name, 4000))
    assert_moments(x, name)


def test_detailed_balance():
    """Of a stationary reversible chain (x₀, x₁) and (x₁, x₀) are alike: what is odd in the exchange has mean 0."""
    x0 = exact_samples("mixture", 20_000, seed=4)
    x1 = fl.MALA(DENSITIES["mixture"](), step_size=0.4, n_steps=1, seed=6)(x0)
    assert 0.2 < (x0 == x1).all(dim=1).float().mean() < 0.8
    for f, g in ((0, 1), (1, 0)):
        odd = (x0[:, f] * x1[:, g] ** 3 - x1[:, f] * x0[:, g] ** 3).double()
        assert abs(odd.mean()) < 5 * odd.std() / math.sqrt(len(odd))


def test_temperature():
    """exp(-x²/2T) has variance T."""
    x0 = math.sqrt(2.5) * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(3))
    x = fl.MALA(lambda x: 0.5 * x.square().sum(1), step_size=0.5, n_steps=8, temperature=2.5, seed=5)(x0)
    assert abs(x.square().mean() - 2.5) < 5 * 2.5 * math.sqrt(2 / len(x))


def test_bounds_restrict_the_density():
    """exp(-x) on (0, 1) has mean (e - 2) / (e - 1). Proposals beyond are rejected, on the bound they are not."""
    u = torch.rand(20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x0 = (-torch.log1p(u * math.expm1(-1.0))).float()
    x = fl.MALA(lambda x: x.sum(1), step_size=0.05, n_steps=10, bounds=(0.0, 1.0), seed=5)(x0)
    assert x.min() >= 0 and x.max() <= 1
    assert abs(x.mean() - (math.e - 2) / (math.e - 1)) < 5 * x.std() / math.sqrt(len(x))
    one_sided = fl.MALA(lambda x: x.sum(1), step_size=0.5, n_steps=10, bounds=(0.25, None), seed=5)
    assert one_sided(x0 + 0.25).min() >= 0.25


def test_a_proposal_whose_energy_is_nan_is_rejected():
    def broken(x: Tensor) -> Tensor:
        return torch.where(x > 0, 0.5 * x * x, torch.nan).sum(dim=1)

    x = fl.MALA(broken, step_size=0.5, n_steps=20, seed=5)(torch.full((50, 1), 0.5))
    assert (x > 0).all() and (x != 0.5).any()


def test_chains_that_reject_everything_are_warned_of():
    sampler = fl.MALA(energy, step_size=1e4, n_steps=100, seed=5)
    x0 = torch.zeros(3, 2)
    message = "3 of 3 chains rejected their last 100 proposals or more: lower step_size"
    with pytest.warns(RuntimeWarning, match=message) as warned:
        sampler(x0)
    assert warned[0].filename == __file__  # the caller's line, so that Python shows it once for each
    with pytest.warns(RuntimeWarning, match="3 of 3 chains"):
        sampler(x0, callback=lambda k, x: None, every=30)
    sampler(x0, n_steps=99)


def test_warm_up_finds_the_step_size_of_an_acceptance():
    """Theory for U = x²/2 gives the acceptance at the step size that is found. The average of its logarithm over 400
    steps of 500 chains is within 0.03 of the target: one step's mean acceptance has a noise of at most 0.5/√500 = 0.02.
    """
    sampler = fl.MALA(lambda x: 0.5 * x.square().sum(1), step_size=30.0, seed=5)
    x0 = torch.randn(500, 1, generator=torch.Generator().manual_seed(3))
    for target in (0.574, 0.8):
        tuned, x = sampler.warm_up(x0, n_steps=400, target_acceptance=target)
        eta = tuned.step_size
        rho = -(eta**2) / math.sqrt((eta**2 + 2 * eta) * ((2 - eta) ** 2 + 2 * eta))
        assert abs(1 + 2 / math.pi * math.asin(rho) - target) < 0.03
        assert x.shape == x0.shape and not torch.equal(x, x0)
    assert sampler.step == 800 and tuned.step == 800 and sampler.step_size == 30.0


def test_what_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'score'"):
        fl.MALA(score=score, step_size=0.1)
    with pytest.raises(TypeError, match="MALA compares energies: it needs an energy or a log_density, not a score"):
        fl.MALA(energy, step_size=0.1).replace(score=score)(torch.zeros(2, 1))
    sampler = fl.MALA(energy, step_size=0.1)
    for target in (0.0, 1.0, "0.5"):
        with pytest.raises(ValueError, match="target_acceptance must be a number in"):
            sampler.warm_up(torch.zeros(2, 1), target_acceptance=target)
    with pytest.raises(ValueError, match="x0 must have at least one chain"):
        sampler.warm_up(torch.zeros(0, 1))
