"""Annealed importance sampling: log Z of densities where it is known, and what its weights are."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import fastlangevin as fl
from fastlangevin import energies, noise
from fastlangevin.diagnostics import annealed_importance


def by_quadrature(log_density, lo: float, hi: float) -> float:
    """log ∫ of a smooth density that is negligible at lo and hi, by the trapezoidal rule in float64."""
    u = torch.linspace(lo, hi, 200_001, dtype=torch.float64)
    return float(torch.logsumexp(log_density(u), 0)) + math.log((hi - lo) / 200_000)


def log_rings(r: Tensor) -> Tensor:
    """2πr exp(-U) at a radius r of `energies.Rings`."""
    radii = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    return math.log(2 * math.pi) + r.log() + torch.logsumexp(-0.5 * ((r[:, None] - radii) / 0.1).square(), dim=1)


# An energy, the dimension, a scale that covers it, and log Z in closed form or by quadrature.
CASES = {
    "gaussian": (
        energies.Gaussian([1.0, -0.5], [[2.0, 0.6], [0.6, 0.5]]),
        *(2, 2.0, math.log(2 * math.pi) + 0.5 * math.log(2.0 * 0.5 - 0.6**2)),
    ),
    "mixture": (energies.GaussianMixture([[-2.0, 0.0], [2.0, 1.0]], 0.25, [1.0, 3.0]), 2, 3.0, 0.0),
    "double well": (
        energies.DoubleWell(2, barrier=2.0, width=1.5),
        *(2, 2.0, 2 * math.log(1.5) + 2 * by_quadrature(lambda u: -2 * (u.square() - 1).square(), -6, 6)),
    ),
    "rosenbrock": (energies.Rosenbrock(1.0, 5.0, 2.0), 2, 3.0, math.log(math.pi * 2) - 0.5 * math.log(5)),
    "funnel": (energies.Funnel(3, scale=1.0), 3, 2.0, 1.5 * math.log(2 * math.pi)),
    "rings": (energies.Rings(), 2, 2.0, by_quadrature(log_rings, 1e-9, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_known_partition_functions(name):
    """Within 5 standard errors, which are small enough for that to say something."""
    energy, dimension, scale, expected = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fl.log_partition(energy, shape=(1000, dimension), scale=scale, betas=50, n_steps=3, seed=1)
    assert abs(found.value - expected) < 5 * found.standard_error and found.standard_error < 0.1
    assert 100 < found.effective_sample_size <= 1000


def test_the_integral_within_bounds():
    """∫ exp(-x²/2) over (-1, 5) in each of two dimensions."""
    edge = math.sqrt(math.pi / 2) * (math.erf(1 / math.sqrt(2)) + math.erf(5 / math.sqrt(2)))
    found = fl.log_partition(quadratic, shape=(1000, 2), bounds=(-1, 5), betas=10, n_steps=2, seed=1)
    assert abs(found.value - 2 * math.log(edge)) < 5 * found.standard_error < 0.2


def quadratic(x: Tensor) -> Tensor:
    return 0.5 * x.square().flatten(1).sum(dim=1)


def quartic(x: Tensor) -> Tensor:
    return x.square().square().flatten(1).sum(dim=1) + x.flatten(1).sum(dim=1)


@pytest.mark.filterwarnings("ignore:log Z rests on")
def test_weights_are_those_of_a_plain_loop():
    betas, sizes, scale = [0.0, 0.2, 0.7, 1.0], [0.3, 0.2, 0.1], 1.3
    options = dict(dtype=torch.float64, engine="autograd", seed=5)
    found = fl.log_partition(quartic, shape=(6, 2, 2), scale=scale, betas=betas, n_steps=2, step_size=sizes, **options)
    z = noise.normal((6, 2, 2), seed=5, step=0, stream=noise.Stream.INITIAL_STATE)
    x, log_weights = scale * z.double(), torch.zeros(6, dtype=torch.float64)

    def base(x):
        return quadratic(x) / scale**2

    for k in (1, 2, 3):
        normalised = base(x) + 2 * math.log(2 * math.pi * scale**2)
        log_weights -= (betas[k] - betas[k - 1]) * (quartic(x) - normalised)
        path = lambda x, beta=betas[k]: beta * quartic(x) + (1 - beta) * base(x)
        x = fl.MALA(path, step_size=sizes[k - 1], n_steps=2, engine="autograd", seed=5)(x, step=2 * (k - 1))
    # Of two sums of four elements, each a few roundings of numbers below 100; no decision is near its threshold.
    torch.testing.assert_close(found.log_weights, log_weights, rtol=0, atol=1e-11)


@pytest.mark.filterwarnings("ignore:log Z rests on")
@pytest.mark.parametrize("step_size", [0.2, None])
def test_parts_of_a_batch_give_its_weights(step_size):
    def estimate(n: int, chain_offset: int = 0) -> fl.LogPartition:
        options = dict(betas=4, n_steps=2, step_size=step_size, chain_offset=chain_offset, seed=3)
        return fl.log_partition(quartic, shape=(n, 2), dtype=torch.float64, **options)

    whole, parts = estimate(150), [estimate(110), estimate(40, chain_offset=110)]
    together = fl.LogPartition.from_log_weights(torch.cat([part.log_weights for part in parts]))
    torch.testing.assert_close(together.log_weights, whole.log_weights, rtol=0, atol=1e-12)
    assert abs(together.value - whole.value) < 1e-12


def test_too_few_betas_are_noticed():
    """One step from the base is plain importance sampling, of a density that the base hardly meets."""
    narrow = energies.Gaussian([3.0] * 3, torch.diag(torch.full((3,), 0.1)).tolist())
    says = r"log Z rests on .* effective chains of 1000, fewer than 100: it is likely too low"
    with pytest.warns(UserWarning, match=says) as caught:
        poor = fl.log_partition(narrow, shape=(1000, 3), scale=2.0, betas=1, seed=1)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        good = fl.log_partition(narrow, shape=(1000, 3), scale=2.0, betas=60, n_steps=3, seed=1)
    expected = 1.5 * math.log(2 * math.pi * 0.1)
    assert abs(good.value - expected) < 5 * good.standard_error
    assert poor.effective_sample_size < 20 < 100 < good.effective_sample_size
    assert poor.standard_error > 3 * good.standard_error


def test_the_estimate_of_given_weights():
    w = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    found = fl.LogPartition.from_log_weights(w.log() + 800)  # e^800 is infinite
    assert found.value == pytest.approx(800 + math.log(w.mean()), rel=1e-12)
    assert found.standard_error == pytest.approx(float(w.std() / w.mean()) / math.sqrt(200), rel=1e-9)
    assert found.effective_sample_size == pytest.approx(float(w.sum() ** 2 / w.square().sum()), rel=1e-9)
    assert repr(found).startswith("LogPartition(79") and "effective chains of 200)" in repr(found)
    with pytest.warns(UserWarning, match="rests on 1 effective chains of 1") as caught:
        assert fl.LogPartition.from_log_weights(torch.zeros(1)).standard_error == math.inf
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("ignore:log Z rests on")
def test_the_standard_error_is_that_of_repetitions():
    """Of 100 groups of 100 chains; the standard deviation of 100 values has a standard error of 7 %."""
    found = fl.log_partition(quartic, shape=(10_000, 2), betas=10, n_steps=1, step_size=0.1, seed=2)
    logs = found.log_weights.view(100, 100)
    estimates = [fl.LogPartition.from_log_weights(row) for row in logs]
    spread = torch.tensor([e.value for e in estimates]).std()
    assert float(spread) == pytest.approx(sum(e.standard_error for e in estimates) / 100, rel=5 * 0.07)


@pytest.mark.filterwarnings("ignore:log Z rests on")
def test_a_log_density_is_minus_the_energy():
    options = dict(shape=(150, 2), betas=3, n_steps=1, step_size=0.1, seed=1, dtype=torch.float64)
    found = [
        fl.log_partition(quartic, **options),
        fl.log_partition(log_density=lambda x: -quartic(x), **options),
        fl.log_partition(Column(), **options),
    ]
    for other in found[1:]:
        torch.testing.assert_close(other.log_weights, found[0].log_weights, rtol=0, atol=1e-12)


class Column(nn.Module):
    """The quartic energy as (B, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return quartic(x)[:, None]


def test_betas_and_step_sizes():
    betas = annealed_importance._checked_betas(40)
    assert len(betas) == 41 and betas[0] == 0 and betas[-1] == 1 and betas[20] == pytest.approx(0.5)
    steps = [b - a for a, b in itertools.pairwise(betas)]
    assert min(steps) == pytest.approx(steps[0]) and max(steps) > 5 * steps[0]
    sampler = fl.MALA(lambda x, beta: (1 + 99 * beta) * quadratic(x), step_size=0.1, init="normal", seed=1)
    sizes = annealed_importance._found_step_sizes(sampler, sampler.initial((64, 2)), betas)
    assert len(sizes) == 40 and 20 < sizes[0] / sizes[-1] < 200  # in proportion to the variance
    assert sizes[0] > sizes[20] > sizes[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(betas=[0.0, 0.5]), "betas must be an int, or increase from 0 to 1"),
        (dict(betas=[0.0, 0.6, 0.5, 1.0]), "betas must be an int, or increase from 0 to 1"),
        (dict(betas=0), "betas must be an int of at least 1"),
        (dict(scale=0.0), "scale must be positive"),
        (dict(bounds=(0, None)), "bounds must be two finite numbers"),
        (dict(bounds=(0, 1), scale=2.0), "scale must be None with bounds"),
        (dict(step_size=[0.1]), "one for each of the 200 betas after 0, got 1"),
        (dict(step_size=-1.0), "step_size must be positive"),
        (dict(n_steps=0), "n_steps must be"),
        (dict(shape=(0, 2)), r"shape must have at least one chain, got \(0, 2\)"),
        (dict(chain_offset=-1), "chain_offset must be"),
        (dict(energy=lambda x: quadratic(x) / 0, step_size=0.1), "energy must be finite at states of the base"),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        fl.log_partition(**{"energy": quadratic, "shape": (4, 2), "seed": 1, **options})
