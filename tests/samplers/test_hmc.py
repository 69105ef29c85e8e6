"""`HMC`: its transition against a plain loop, reversibility, the order of its energy error, acceptance, invariance."""

from __future__ import annotations

import math

import pytest
import torch
from support.densities import DENSITIES, assert_moments, exact_samples
from torch import Tensor

import fastlangevin as fl
from fastlangevin import kernels
from fastlangevin.chains.momentum import UNIT_MASS
from fastlangevin.kernels.arguments import MoveArgs
from fastlangevin.noise import Stream, normal, uniform

MASS = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
STEP_SIZES = {
    "gaussian": 0.5,
    "mixture": 0.3,
    "double well": 0.2,
    "rosenbrock": 0.1,
    "funnel": 0.3,
    "rings": 0.08,
}


def energy(x: Tensor) -> Tensor:
    return ((x * x - 1.0) ** 2 + 0.3 * x).sum(dim=1)


def score(x: Tensor) -> Tensor:
    return -(4.0 * x * (x * x - 1.0) + 0.3)


def leapfrog(x: Tensor, v: Tensor, step_size: float, n: int, mass: Tensor | float) -> tuple[Tensor, Tensor]:
    for _ in range(n):
        v = v + step_size / 2 * score(x) / mass
        x = x + step_size * v
        v = v + step_size / 2 * score(x) / mass
    return x, v


def hamiltonian(x: Tensor, v: Tensor, mass: Tensor | float) -> Tensor:
    return energy(x) + 0.5 * (mass * v * v).sum(dim=1)


def points(n: int = 40) -> Tensor:
    return torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mass", [1.0, 2.0, MASS])
@pytest.mark.parametrize("n_leapfrog", [1, 4])
def test_transitions_are_those_of_a_plain_loop(mass, n_leapfrog):
    """In float64: energies up to 1e3 lose digits to an error of 1e-12."""
    x, step_sizes, temperature = points(), [0.15, 0.3, 0.2], 2.5
    sampler = fl.HMC(
        energy, step_size=step_sizes, n_leapfrog=n_leapfrog, mass=mass, n_steps=3, temperature=temperature, seed=11
    )
    trace, n_accepted = sampler.trace(x, chain_offset=5, step=7), 0
    for k, step_size in enumerate(step_sizes):
        z = normal(x.shape, seed=11, step=7 + k, offset=5 * 3).double()
        v = (temperature / torch.as_tensor(mass, dtype=torch.float64)).sqrt() * z
        y, w = leapfrog(x, v, step_size, n_leapfrog, mass)
        change = hamiltonian(y, w, mass) - hamiltonian(x, v, mass)
        u = uniform((40,), seed=11, step=7 + k, stream=Stream.ACCEPT_REJECT, offset=5).double()
        accepted = u < (-change / temperature).exp()
        x = torch.where(accepted[:, None], y, x)
        torch.testing.assert_close(trace.x[k + 1], x, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(trace.statistics["energy_error"][k + 1], change.float(), rtol=1e-6, atol=1e-9)
        n_accepted += int(accepted.sum())
    assert n_accepted < 120


def test_trajectories_are_reversible():
    """From the end, with the velocity turned round, the moves lead back: in float64 to 20 roundings of numbers
    below 10 that the leapfrog steps of a steep energy (U'' up to 100, step size 0.02) let grow by at most e².
    """
    x, n = points(), 10
    v = normal(x.shape, seed=11, step=3).double()
    sampler = fl.HMC(energy, step_size=0.02, n_leapfrog=n, seed=11)
    y = sampler(x, n_steps=1, step=3)
    assert not torch.equal(x, y)
    end, w = leapfrog(x, v, 0.02, n, 1.0)
    moved = (x != y).all(dim=1)
    assert moved.sum() >= 35
    torch.testing.assert_close(y[moved], end[moved], rtol=0, atol=1e-12)
    back, turned = y.clone(), -w
    move = kernels.select(
        "cpu" if kernels.BACKENDS["cpu"].load() is None else "reference", x.device
    ).moves.velocity_move
    args = MoveArgs(False, 0.01, 1, 0.02, None, 1.0, 0, 0, 0, 0)
    for k in range(n):
        move(back, turned, score(back), UNIT_MASS, args._replace(kick=0.02 if k else 0.01))
    move(back, turned, score(back), UNIT_MASS, args._replace(drift=0.0))
    torch.testing.assert_close(back[moved], x[moved], rtol=0, atol=1e-12)
    torch.testing.assert_close(-turned[moved], v[moved], rtol=0, atol=1e-12)


def test_energy_error_is_of_second_order():
    """Over a fixed time the error of the leapfrog steps falls with the square of the step size."""
    x = points(200)
    errors = []
    for n in (10, 20):
        sampler = fl.HMC(energy, step_size=0.4 / n, n_leapfrog=n, n_steps=1, seed=11)
        errors.append(sampler.trace(x, step=3).statistics["energy_error"][1].double().abs().median())
    assert abs(math.log2(errors[0] / errors[1]) - 2) < 0.2


@pytest.mark.parametrize(("step_size", "n_leapfrog"), [(0.9, 1), (1.3, 3)])
def test_acceptance_on_a_gaussian_is_that_of_theory(step_size, n_leapfrog):
    """For U = x²/2 a trajectory is a linear map M of (x, v) of determinant 1. ΔH is a quadratic form with MᵀM - 1; with
    the singular values s, 1/s of M the mean acceptance 2·P(ΔH < 0) is 2·(1 - 2/π·atan s).
    """
    n, h = 40_000, step_size
    kick, drift = (torch.tensor(m, dtype=torch.float64) for m in ([[1, 0], [-h / 2, 1]], [[1, h], [0, 1]]))
    largest = torch.linalg.matrix_norm(torch.linalg.matrix_power(kick @ drift @ kick, n_leapfrog), ord=2).item()
    expected = 2 * (1 - 2 / math.pi * math.atan(largest))
    x0 = torch.randn(n, 1, generator=torch.Generator().manual_seed(3))
    sampler = fl.HMC(lambda x: 0.5 * x.square().sum(1), step_size=h, n_leapfrog=n_leapfrog, n_steps=1, seed=5)
    accepted = sampler.trace(x0).statistics["acceptance"][1].double()
    assert expected < 0.95
    assert abs(accepted.mean() - expected) < 5 * math.sqrt(expected * (1 - expected) / n)


def test_one_leapfrog_step_is_mala():
    """With η = ε²/2. In float64, for energies up to 1e3."""
    x = points()
    hmc = fl.HMC(energy, step_size=0.4, n_leapfrog=1, temperature=2.0, n_steps=3, seed=11).trace(x)
    mala = fl.MALA(energy, step_size=0.08, temperature=2.0, n_steps=3, seed=11).trace(x)
    torch.testing.assert_close(hmc.x, mala.x, rtol=1e-11, atol=1e-11)
    errors = (trace.statistics["energy_error"] for trace in (hmc, mala))
    torch.testing.assert_close(*errors, rtol=1e-5, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("name", DENSITIES)
def test_leaves_six_densities_invariant(name):
    x0 = exact_samples(name, 4000)
    mass = torch.linspace(0.7, 1.5, x0.shape[1])
    x = fl.HMC(DENSITIES[name](), step_size=STEP_SIZES[name], n_leapfrog=4, mass=mass, n_steps=6, seed=2)(x0)
    assert_moments(x, name)


def test_detailed_balance():
    """Of a stationary reversible chain (x₀, x₁) and (x₁, x₀) are alike: what is odd in the exchange has mean 0."""
    x0 = exact_samples("mixture", 20_000, seed=4)
    x1 = fl.HMC(DENSITIES["mixture"](), step_size=0.9, n_leapfrog=3, n_steps=1, seed=6)(x0)
    assert 0.2 < (x0 == x1).all(dim=1).float().mean() < 0.8
    for f, g in ((0, 1), (1, 0)):
        odd = (x0[:, f] * x1[:, g] ** 3 - x1[:, f] * x0[:, g] ** 3).double()
        assert abs(odd.mean()) < 5 * odd.std() / math.sqrt(len(odd))


def test_bounds_restrict_the_density():
    """exp(-x) on (0, 1) has mean (e - 2) / (e - 1)."""
    u = torch.rand(20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x0 = (-torch.log1p(u * math.expm1(-1.0))).float()
    x = fl.HMC(lambda x: x.sum(1), step_size=0.1, n_leapfrog=3, n_steps=6, bounds=(0.0, 1.0), seed=5)(x0)
    assert x.min() >= 0 and x.max() <= 1
    assert abs(x.mean() - (math.e - 2) / (math.e - 1)) < 5 * x.std() / math.sqrt(len(x))


def test_warm_up_finds_the_step_size_of_an_acceptance():
    """With one leapfrog step the acceptance falls as the step size grows: 2·(1 - 2/π·atan s) as above. See the test of
    MALA for the tolerance.
    """
    sampler = fl.HMC(lambda x: 0.5 * x.square().sum(1), step_size=0.01, n_leapfrog=1, seed=5)
    tuned, _ = sampler.warm_up(torch.randn(500, 1, generator=torch.Generator().manual_seed(3)), n_steps=400)
    h = tuned.step_size
    kick, drift = (torch.tensor(m, dtype=torch.float64) for m in ([[1, 0], [-h / 2, 1]], [[1, h], [0, 1]]))
    largest = torch.linalg.matrix_norm(kick @ drift @ kick, ord=2).item()
    assert abs(2 * (1 - 2 / math.pi * math.atan(largest)) - 0.8) < 0.03


def test_what_is_refused():
    for n_leapfrog in (0, 1.5):
        with pytest.raises(ValueError, match="n_leapfrog must be an int of at least 1"):
            fl.HMC(energy, step_size=0.1, n_leapfrog=n_leapfrog)
    with pytest.raises(TypeError, match="HMC compares energies"):
        fl.HMC(energy, step_size=0.1).replace(score=score)(torch.zeros(2, 1))
