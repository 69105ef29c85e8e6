"""Closed-form energies: scores compared with formulas, moments with exact samples and long chains."""

from __future__ import annotations

import math

import pytest
import torch

import fastlangevin as fl
from fastlangevin import energies
from fastlangevin.kernels import BACKENDS
from fastlangevin.kernels.arguments import ChainArgs
from fastlangevin.kernels.cpu import analytic_chain

ALL = {
    "gaussian": lambda: energies.Gaussian([1.0, -2.0, 0.5], [[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]]),
    "mixture": lambda: energies.GaussianMixture([[2.0, 0.0], [-1.0, 1.0], [0.0, -2.0]], [0.2, 0.5, 1.0], [1, 2, 3]),
    "diagonal mixture": lambda: energies.GaussianMixture([[1.0, 0.0], [-1.0, 2.0]], [[0.2, 1.0], [0.5, 0.3]]),
    "double well": lambda: energies.DoubleWell(3, 1.5, 0.8),
    "rosenbrock": lambda: energies.Rosenbrock(0.5, 10.0, 4.0),
    "funnel": lambda: energies.Funnel(4, 1.2),
    "rings": lambda: energies.Rings((1.0, 2.5), 0.2),
}


def score(energy, x: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    return -torch.autograd.grad(energy(x).sum(), x)[0]


def normal(n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def float64():
    """Energies of numbers in float64, as all else: no float32 matrix is inverted."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def assert_same(a: torch.Tensor, b: torch.Tensor) -> None:
    """But for float64's roundings: a few operations on numbers up to 100, a matrix of condition 7 inverted."""
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)


@pytest.mark.usefixtures("float64")
def test_gaussian_energy_and_score():
    u, x = ALL["gaussian"](), normal(50, 3)
    density = torch.distributions.MultivariateNormal(u.mean, u.covariance)
    constant = u(x) + density.log_prob(x)
    assert_same(constant, constant[:1].expand(50))
    assert_same(score(u, x), -torch.linalg.solve(u.covariance, (x - u.mean).T).T)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["mixture", "diagonal mixture"])
def test_mixture_energy_and_score(name):
    u, x = ALL[name](), normal(50, 2)
    v = 1 / u.precisions
    each = torch.distributions.Normal(u.means, v.sqrt()).log_prob(x[:, None]).sum(dim=2) + u.weights.log()
    assert_same(u(x), -each.logsumexp(dim=1))
    share = each.softmax(dim=1)[:, :, None]
    assert_same(score(u, x), (share * (u.means - x[:, None]) / v).sum(dim=1))
    assert_same(u.weights.sum(), torch.ones(()))


@pytest.mark.usefixtures("float64")
def test_mixture_weights_are_as_given():
    assert_same(ALL["mixture"]().weights, torch.tensor([1.0, 2.0, 3.0]) / 6)


def test_mixture_has_variance_one_by_default():
    means, x = [[0.0, 1.0], [2.0, -1.0]], torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(energies.GaussianMixture(means)(x), energies.GaussianMixture(means, 1.0)(x))


@pytest.mark.usefixtures("float64")
def test_double_well_energy_and_score():
    u, x = energies.DoubleWell(3, 1.5, 0.8), normal(50, 3)
    assert_same(u(torch.full((1, 3), 0.8)), torch.zeros(1))
    assert_same(u(torch.zeros(1, 3)), torch.tensor([4.5]))
    assert_same(score(u, x), -6.0 * x / 0.64 * (x.square() / 0.64 - 1))


@pytest.mark.usefixtures("float64")
def test_rosenbrock_energy_and_score():
    u, x = energies.Rosenbrock(0.5, 10.0, 4.0), normal(50, 2)
    a, b = x.unbind(dim=1)
    expected = torch.stack([-2 * (a - 0.5) + 40 * a * (b - a * a), -20 * (b - a * a)], dim=1) / 4
    assert_same(score(u, x), expected)
    assert u(torch.tensor([[0.5, 0.25]])) == 0


@pytest.mark.usefixtures("float64")
def test_funnel_energy_and_score():
    u, x = energies.Funnel(4, 1.2), normal(50, 4)
    v, rest = x[:, :1], x[:, 1:]
    density = torch.distributions.Normal(0, 1.2).log_prob(v[:, 0])
    density = density + torch.distributions.Normal(0, torch.exp(v / 2)).log_prob(rest).sum(dim=1)
    constant = u(x) + density
    assert_same(constant, constant[:1].expand(50))
    first = -v / 1.44 + 0.5 * (rest.square() * torch.exp(-v) - 1).sum(dim=1, keepdim=True)
    assert_same(score(u, x), torch.cat([first, -rest * torch.exp(-v)], dim=1))


@pytest.mark.usefixtures("float64")
def test_rings_energy_and_score():
    u, x = energies.Rings((1.0,), 0.2), normal(50, 2)
    r = x.norm(dim=1, keepdim=True)
    assert_same(u(x), 0.5 * ((r[:, 0] - 1) / 0.2).square())
    assert_same(score(u, x), -(r - 1) / 0.04 * x / r)
    two = energies.Rings((1.0, 2.5), 0.2)
    assert_same(two(torch.tensor([[1.0, 0.0], [0.0, -2.5]])), torch.zeros(2))
    assert torch.isfinite(score(two, torch.zeros(1, 2))).all()


def assert_moments(u, x: torch.Tensor, n_independent: int) -> None:
    """Mean and covariance of the rows of x within four standard errors, those of n_independent samples."""
    x, mean, covariance = x.double(), u.mean.double(), u.covariance.double()
    assert ((x.mean(dim=0) - mean).abs() < 4 * x.std(dim=0) / n_independent**0.5).all()
    away = x - mean
    products = away[:, :, None] * away[:, None]
    assert ((products.mean(dim=0) - covariance).abs() < 4 * products.std(dim=0) / n_independent**0.5).all()


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("double well", "rings")])
def test_exact_samples_have_the_moments(name):
    u = ALL[name]()
    x = u.sample(200_000, torch.Generator().manual_seed(5))
    assert x.dtype == torch.float32 and torch.equal(x, u.sample(200_000, torch.Generator().manual_seed(5)))
    assert_moments(u, x, 200_000)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("double well", "rings")])
def test_exact_samples_have_a_mean_score_of_zero(name):
    """E ∇ log p = 0, and E x_i ∂_j log p = -δ_ij: samples and energy have the same density."""
    u = ALL[name]()
    x = u.sample(200_000, torch.Generator().manual_seed(6))
    s = score(u, x).double()
    assert (s.mean(dim=0).abs() < 4 * s.std(dim=0) / 200_000**0.5).all()
    products = x.double()[:, :, None] * s[:, None]
    expected = -torch.eye(x.shape[1], dtype=torch.float64)
    assert ((products.mean(dim=0) - expected).abs() < 4 * products.std(dim=0) / 200_000**0.5).all()


def test_double_well_moments_of_long_chains():
    """The steps are so small that their bias is far below the standard error of 40,000 chains."""
    if BACKENDS["cpu"].unsupported():
        pytest.skip(str(BACKENDS["cpu"].unsupported()))
    u, n = energies.DoubleWell(2, 1.5, 0.8), 1500
    x = 0.8 * torch.randn(40_000, 2, generator=torch.Generator().manual_seed(1)).sign()
    args = ChainArgs([0.002] * n, [math.sqrt(0.004)] * n, True, 1, range(n), 0, None, None, None, False)
    analytic_chain.double_well_(u.barrier, u.width, x, args)
    assert_moments(u, x, 40_000)


@pytest.mark.parametrize(("barrier", "width"), [(0.3, 1.0), (1.5, 0.8), (40.0, 2.0)])
def test_double_well_variance_by_a_plain_sum(barrier, width):
    """On another grid. For a smooth density that vanishes at both ends such sums converge exponentially. What is left
    are the roundings of 10^6 terms of float64, none of them negative.
    """
    u = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64)
    density = torch.exp(-barrier * ((u / width) ** 2 - 1) ** 2)
    expected = (u.square() * density).sum() / density.sum()
    covariance = energies.DoubleWell(2, barrier, width).double().covariance
    torch.testing.assert_close(covariance, expected * torch.eye(2, dtype=torch.float64), rtol=1e-10, atol=0)


def test_rings_covariance_by_a_plain_sum():
    """As above; at the origin, where it has a tip, the density is e^-12 of its largest."""
    rings = energies.Rings((1.0, 3.0), 0.2).double()
    axis = torch.linspace(-5, 5, 1501, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    density = torch.exp(-rings(grid))
    expected = (grid.square()[:, 0] * density).sum() / density.sum()
    torch.testing.assert_close(rings.covariance, expected * torch.eye(2, dtype=torch.float64), rtol=1e-10, atol=0)


def test_mixture_moments_of_long_chains():
    if BACKENDS["cpu"].unsupported():
        pytest.skip(str(BACKENDS["cpu"].unsupported()))
    u, n = energies.GaussianMixture([[0.9, 0.0], [-0.6, 0.4]], [[0.3, 0.5], [0.4, 0.2]], [1, 2]), 2000
    x = torch.zeros(40_000, 2)
    args = ChainArgs([0.002] * n, [math.sqrt(0.004)] * n, True, 2, range(n), 0, None, None, None, False)
    analytic_chain.mixture_(u.constants, u.means, u.precisions, x, args)
    assert_moments(u, x, 40_000)


def test_rings_moments_of_long_chains():
    """A chain moves along its ring and, these being wide, across them; adaptive steps are not needed at this width."""
    u, n = energies.Rings((1.0, 1.8), 0.4), 1000
    sampler = fl.Langevin(u, n_steps=n, step_size=0.005, noise_std=None, seed=3)
    assert_moments(u, sampler(torch.randn(20_000, 2, generator=torch.Generator().manual_seed(2))), 20_000)


@pytest.mark.parametrize("name", ALL)
def test_shapes_dtypes_and_devices(name):
    u = ALL[name]()
    d = len(u.mean)
    assert u.mean.shape == (d,) and u.covariance.shape == (d, d)
    assert u(torch.zeros(5, d)).shape == (5,) and u(torch.zeros(5, d)).dtype == torch.float32
    assert u.double().covariance.dtype == u.mean.dtype == torch.float64
    assert not list(u.parameters())
    with pytest.raises(ValueError, match=rf"x must be \(B, {d}\), got \(2, 9\)"):
        u(torch.zeros(2, 9))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: energies.Gaussian([0.0], [[1.0, 0.0], [0.0, 1.0]]), r"mean must be \(d,\) and covariance \(d, d\)"),
        (lambda: energies.Gaussian([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "must be symmetric and positive definite"),
        (lambda: energies.Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "must be symmetric and positive definite"),
        (lambda: energies.GaussianMixture([0.0, 1.0]), r"means must be \(K, d\), got \(2,\)"),
        (lambda: energies.GaussianMixture([[0.0], [1.0]], [1.0, 1.0, 1.0]), r"variances must be a number, \(K,\)"),
        (lambda: energies.GaussianMixture([[0.0], [1.0]], 1.0, [1.0]), r"weights must be \(K,\)"),
        (lambda: energies.GaussianMixture([[0.0], [1.0]], -1.0), "variances and weights must be positive"),
        (lambda: energies.DoubleWell(0), "dimension must be an int of at least 1"),
        (lambda: energies.DoubleWell(barrier=0), "barrier must be positive, got 0"),
        (lambda: energies.Rosenbrock(b=-1), "b must be positive, got -1"),
        (lambda: energies.Funnel(1), "dimension must be an int of at least 2, got 1"),
        (lambda: energies.Rings([]), "radii must be positive numbers"),
        (lambda: energies.Rings(width=0), "width must be positive, got 0"),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()
