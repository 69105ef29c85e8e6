"""The sampler: mathematics, inputs and outputs, and errors."""

from __future__ import annotations

import math

import pytest
import torch
from support.activation_bounds import NATIVE_MLP
from support.chain_reference import arguments, chain
from support.error_bounds import assert_within
from support.langevin_reference import FLOAT64, quadratic, small_net
from support.network_bounds import score as network_score
from torch import nn

import fastlangevin as fl

# Mathematics


@pytest.mark.parametrize("eta", [0.1, 0.5, 1.0])
def test_stationary_variance_is_that_of_the_discretised_chain(eta):
    """ULA on a unit Gaussian, x' = (1 - η)x + sqrt(2η)z: variance 2η / (1 - (1 - η)²) = 1 / (1 - η/2), not 1."""
    n = 40_000
    sampler = fl.Langevin(quadratic, n_steps=150, step_size=eta, noise_std=None, seed=7)
    x = sampler(torch.zeros(n, 1))
    expected = 1 / (1 - eta / 2)
    error = expected * math.sqrt(2 / n)
    assert abs(x.var() - expected) < 4 * error
    assert abs(x.mean()) < 4 * math.sqrt(expected / n)
    if eta >= 0.5:
        assert abs(x.var() - 1) > 20 * error


def test_stationary_covariance_of_a_correlated_gaussian():
    """U = xᵀΛx/2: the chain's stationary covariance solves Σ = (I - ηΛ)Σ(I - ηΛ) + 2ηT·I."""
    precision = torch.tensor([[1.2, 0.5], [0.5, 0.8]])
    mean = torch.tensor([1.0, -2.0])
    eta, temperature, n = 0.4, 0.7, 60_000
    u = lambda x: 0.5 * ((x - mean) @ precision * (x - mean)).sum(1)
    sampler = fl.Langevin(u, n_steps=120, step_size=eta, noise_std=None, temperature=temperature, seed=3)
    x = sampler(mean.expand(n, 2)).double()
    a = torch.eye(2, dtype=torch.float64) - eta * precision.double()
    covariance = torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(500):
        covariance = a @ covariance @ a.T + 2 * eta * temperature * torch.eye(2, dtype=torch.float64)
    got = x.T.cov()
    error = torch.sqrt((covariance.diag()[:, None] * covariance.diag()[None] + covariance**2) / n)
    assert ((got - covariance).abs() < 4 * error).all(), (got, covariance)
    assert ((x.mean(0) - mean).abs() < 4 * (covariance.diag() / n).sqrt()).all()


def test_energy_log_density_and_score_give_the_same_chain():
    net = small_net()
    x0 = torch.randn(5, 3)

    def score(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(-net(x).sum(), x)[0]

    options = dict(n_steps=20, step_size=0.1, noise_std=0.05, seed=1)
    from_energy = fl.Langevin(net, **options)(x0)
    assert torch.equal(from_energy, fl.Langevin(log_density=lambda x: -net(x), **options)(x0))
    tail = arguments([0.1] * 20, [0.05] * 20, seed=1, steps=range(20), offset=0)
    expected = chain(lambda r, x: network_score(r, list(net), x, NATIVE_MLP, factor=-1), x0, tail)
    assert_within(from_energy, *expected, tight=1e-5)
    step_by_step = fl.Langevin(net, engine="autograd", **options)(x0)
    assert torch.equal(step_by_step, fl.Langevin(score=score, **options)(x0))
    net.double()
    wide = fl.Langevin(score=score, **options)(x0.double())
    # 20 steps of float64, each of sums of at most 16 terms: some 10^3 roundings of 2^-53.
    torch.testing.assert_close(wide, expected[0], rtol=1e-12, atol=1e-12)
    opposite = fl.Langevin(log_density=net, **options)(x0.double())
    assert not torch.allclose(wide, opposite, atol=0.01)


def test_layout_is_preserved_and_does_not_matter():
    x0 = torch.randn(2, 3, 4, 5)
    expected = fl.Langevin(quadratic, n_steps=3, seed=1)(x0)
    got = fl.Langevin(quadratic, n_steps=3, seed=1)(x0.to(memory_format=torch.channels_last))
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, expected)  # the gradient, 2x / 2, is exact


def test_extra_arguments_and_column_energies():
    centres = torch.tensor([[5.0, 0.0], [-5.0, 0.0]])

    def energy(x, label):
        return (x - centres[label]).square().sum(1, keepdim=True) / 2

    labels = torch.tensor([0, 1, 0, 1])
    sampler = fl.Langevin(energy, n_steps=100, step_size=0.2, noise_std=0.1, seed=1)
    x = sampler(torch.zeros(4, 2), labels)
    assert (x[:, 0].sign() == torch.tensor([1, -1, 1, -1])).all()
    assert sampler.sample((4, 2), labels).shape == (4, 2)
    assert sampler.trace(torch.zeros(4, 2), labels, every=50).energy.shape == (3, 4)


def test_no_chains_and_no_elements():
    assert fl.Langevin(quadratic, n_steps=2, seed=1)(torch.empty(0, 3)).shape == (0, 3)
    assert fl.Langevin(quadratic, n_steps=2, seed=1).sample((0, 3)).shape == (0, 3)


def test_chains_of_scalars():
    sampler = fl.Langevin(lambda x: x.square() / 2, n_steps=3, seed=1)
    trace = sampler.trace(torch.ones(5), step=0)
    assert torch.equal(trace.x[-1], sampler(torch.ones(5), step=0)) and torch.equal(trace.score_norm[0], torch.ones(5))


@pytest.mark.parametrize(
    ("energy", "error", "words"),
    [
        (
            lambda x: x.sum(),
            ValueError,
            "energy must return one number per chain, in any shape of 3 numbers, got \\(\\): is it a sum or a mean",
        ),
        (lambda x: x, ValueError, "got \\(3, 2\\): add up each chain's numbers with \\.sum\\(1\\)$"),
        (lambda x: x[:, None], ValueError, "got \\(3, 1, 2\\): add up each chain's numbers with \\.flatten\\(1\\)"),
        (lambda x: x[:2, 0], ValueError, "got \\(2,\\)$"),
        (lambda x: 1.0, TypeError, "energy must return a tensor, got float"),
        (lambda x: x.detach().sum(1), ValueError, "energy does not depend on x"),
        (lambda x: torch.zeros(3, requires_grad=True) * 2, ValueError, "energy does not depend on x"),
    ],
)
def test_bad_energies(energy, error, words):
    with pytest.raises(error, match=words):
        fl.Langevin(energy, seed=1)(torch.zeros(3, 2))


@pytest.mark.parametrize("engine", ["auto", "autograd"])
@pytest.mark.parametrize(
    ("n", "shape"), [(1, ()), (1, (1, 1, 1, 1)), (3, (3, 1, 1, 1)), (3, (1, 3)), (4, (2, 2)), (3, (3, 1)), (0, (0, 1))]
)
def test_energies_of_any_shape_of_one_number_per_chain(engine, n, shape):
    net, x0 = small_net().double(), torch.randn(n, 3, dtype=torch.float64)
    plain = fl.Langevin(net, n_steps=4, seed=1, engine=engine)
    shaped = fl.Langevin(lambda x: net(x).reshape(shape), n_steps=4, seed=1, engine=engine)
    torch.testing.assert_close(shaped(x0), plain(x0), **FLOAT64)
    assert shaped.energy(x0).shape == (n,)
    assert shaped.trace(x0).energy.shape[1:] == (n,)


def test_a_convnet_that_ends_in_one_pixel_keeps_its_kernels():
    torch.manual_seed(0)
    net, x0 = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4)), torch.randn(3, 1, 8, 8)
    pixel, flat = fl.Langevin(net, n_steps=3, seed=1), fl.Langevin(lambda x: net(x).flatten(), n_steps=3, seed=1)
    assert torch.equal(pixel(x0), flat(x0))
    assert pixel.plan == flat.plan


def test_bad_score_shape_and_device():
    with pytest.raises(ValueError, match="score must return a tensor of the state's shape \\(3, 2\\), got \\(3,\\)"):
        fl.Langevin(score=lambda x: x.sum(1), seed=1)(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="x0 is on cpu and the energy on meta"):
        fl.Langevin(nn.Linear(2, 1, device="meta"), seed=1)(torch.zeros(3, 2))
