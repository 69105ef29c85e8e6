"""The posterior of examples/bayesian_logistic.py: its energy, its stored reference, and the samplers on it.

The reference is another library's run. It is compared here with self-normalised importance sampling: N draws of a
Student t with weights w = exp(-U) / density, whose estimates of a mean have the variance Σ w̄² (x - m)², w̄ = w / Σ w.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

pytest.importorskip("sklearn", reason="needs the extra eval")

PATH = Path(__file__).parent.parent / "examples" / "bayesian_logistic.py"
N_DRAWS, N_CHAINS, STANDARD_ERRORS = 20_000, 256, 5.0
FREEDOM, WIDER = 30, 1.2  # of the t, and its covariance over that of Laplace's approximation


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bayesian_logistic", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@dataclasses.dataclass(frozen=True)
class Weighted:
    """Draws (N, d) in float64, and their normalised weights (N,)."""

    x: Tensor
    weights: Tensor

    def mean(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """Of (N, d) values, with its standard error."""
        mean = self.weights @ f
        return mean, (self.weights.square() @ (f - mean).square()).sqrt()

    def resampled(self, n: int) -> Tensor:
        return self.x[torch.multinomial(self.weights, n, replacement=True)]


@pytest.fixture(scope="module")
def wide(example):
    """U in float64."""
    x, y, _ = example.load()
    return example.Posterior(x, y)


@pytest.fixture(scope="module")
def reference(example):
    return example.Reference.read()


@pytest.fixture(scope="module")
def exact(wide, reference) -> Weighted:
    a, precision = wide.losses[0].weight, 1 / wide.prior_std**2
    p = torch.sigmoid(a @ reference.mode)
    hessian = (a.T * (p * (1 - p))) @ a + precision * torch.eye(a.shape[1], dtype=a.dtype)
    root = torch.linalg.cholesky(WIDER * torch.linalg.inv(hessian))
    torch.manual_seed(0)
    z = torch.randn(N_DRAWS, a.shape[1], dtype=a.dtype)
    chi2 = torch.distributions.Chi2(torch.tensor(float(FREEDOM), dtype=a.dtype)).sample((N_DRAWS, 1))
    t = z * (FREEDOM / chi2).sqrt()
    x = reference.mean + t @ root.T
    log_t = -(FREEDOM + a.shape[1]) / 2 * torch.log1p(t.square().sum(1) / FREEDOM)
    weights = torch.softmax(-wide(x) - log_t, dim=0)
    assert 1 / weights.square().sum() > N_DRAWS / 20
    return Weighted(x, weights)


def test_the_stored_mode_is_where_the_gradient_is_zero(example, wide, reference):
    """The mode is another library's, by Newton's method, of which a step's error is the gradient's rounding error.

    A sum of n products has an error of at most (n + 2) u Σ |product|, u = 2^-53. Gradient j is Σ_i a_ij σ(z_i) + β_j,
    with z_i from d products; σ' ≤ ¼; and a few units for σ itself and for standardising the data, relative to its
    largest value. All is doubled for the other library's own.
    """
    beta = reference.mode.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(wide(beta[None]).sum(), beta)
    a, u = wide.losses[0].weight, 2.0**-53
    items, d = a.shape
    error_of_z = (d + 20) * u * (a.abs() @ reference.mode.abs())
    error = (items + 20) * u * a.abs().sum(0) + a.abs().T @ error_of_z / 4 + 4 * u * reference.mode.abs()
    assert (gradient.abs() < 2 * error).all()
    assert (2 * error).max() < 1e-9, "and this says something"


def test_the_energy_is_the_negative_log_posterior(example, wide):
    """Written out with the logarithms of probabilities. Here, away from the mode, float64 leaves ten digits."""
    x, y, names = example.load()
    assert x.shape == (569, 31) and len(names) == 31 and names[0] == "intercept" and set(y.tolist()) == {0, 1}
    torch.manual_seed(1)
    beta = 0.3 * torch.randn(5, 31, dtype=torch.float64)
    p = torch.sigmoid(beta @ x.T)
    likelihood = torch.where(y.bool(), p, 1 - p).log().sum(1)
    prior = torch.distributions.Normal(0.0, example.PRIOR_STD).log_prob(beta).sum(1)
    zero = 31 * math.log(example.PRIOR_STD * math.sqrt(2 * math.pi))
    assert torch.allclose(wide(beta), -likelihood - prior - zero, rtol=1e-10, atol=0)


def test_the_reference_agrees_with_importance_sampling(exact, reference):
    mean, error = exact.mean(exact.x)
    assert ((mean - reference.mean).abs() < STANDARD_ERRORS * (error + reference.mean_error)).all()
    variance, error = exact.mean((exact.x - mean).square())
    sd = variance.sqrt()
    assert ((sd - reference.sd).abs() < STANDARD_ERRORS * (error / (2 * sd) + reference.sd_error)).all()
    assert (reference.mean_error < 0.005 * reference.sd).all() and (reference.sd_error < 0.005 * reference.sd).all()


def first_order_bias(wide, exact: Weighted, step_size: float, f: Tensor) -> Tensor:
    """Of the mean of f (N, d) under unadjusted Langevin dynamics, to O(η): its stationary density is
    p·(1 + η (|∇U|² / 4 - ΔU / 2) + const + O(η²)), as for a Gaussian of precision λ, whose variance it makes
    1 / (λ (1 - ηλ/2)).
    """
    a = wide.losses[0].weight
    p = torch.sigmoid(exact.x @ a.T)
    gradient = p @ a + exact.x / wide.prior_std**2
    laplacian = (p * (1 - p)) @ a.square().sum(1)
    tilt = step_size * (gradient.square().sum(1) / 4 - laplacian / 2)
    return exact.weights @ ((tilt - exact.weights @ tilt)[:, None] * f)


SHORT = {"Langevin": (1_000, 100), "MALA": (150, 15), "Underdamped": (100, 10), "HMC": (6, 1)}


@pytest.mark.parametrize("name", SHORT)
def test_samplers_keep_the_reference_s_moments(example, wide, exact, reference, name):
    """From draws of the posterior. Chains are independent, so averages over each one give the standard error, to which
    that of the weights comes. Allowed beyond chance: for Langevin twice its bias to first order; for Underdamped 0.05
    standard deviations, 5 % of a standard deviation, and 5 % of the energy of 31 degrees of freedom; else nothing.
    """
    n_transitions, every = SHORT[name]
    energy = example.Posterior(*example.load()[:2]).float()
    torch.manual_seed(2)
    x0 = exact.resampled(N_CHAINS).float()
    run = dataclasses.replace(example.RUNS[name], n_records=n_transitions // every, every=every)
    sampler = run.make(energy)
    draws = run.draws(sampler, x0).double()
    assert (draws[-1] != x0).any(1).double().mean() > 0.9

    def squares(x: Tensor) -> Tensor:
        return (x - reference.mean).square()

    def energies(x: Tensor) -> Tensor:
        return wide(x.flatten(0, -2)).view(*x.shape[:-1], 1)

    variance, degrees = reference.sd.square(), torch.tensor([31 / 2], dtype=torch.float64)
    for f, wanted, bounds in (
        (lambda x: x, reference.mean, 0.05 * reference.sd),
        (squares, variance, 0.1 * variance),
        (energies, None, 0.05 * degrees),
    ):
        of_weights, error_of_weights = exact.mean(f(exact.x))
        chains = f(draws).mean(0)
        error = (chains.var(0) / N_CHAINS).sqrt() + error_of_weights
        allowed = {"Underdamped": bounds}.get(name, torch.zeros_like(bounds))
        if name == "Langevin":
            allowed = 2 * first_order_bias(wide, exact, sampler.step_size, f(exact.x)).abs()
        away = (chains.mean(0) - (of_weights if wanted is None else wanted)).abs()
        assert (away < STANDARD_ERRORS * error + allowed).all()
