"""`Underdamped`: BAOAB against a plain loop, its exact stationary covariance and its order, and its limit."""

from __future__ import annotations

import math

import pytest
import torch
from support.densities import DENSITIES, assert_moments, exact_samples
from torch import Tensor

import fastlangevin as fl
from fastlangevin.noise import Stream, normal

MASS = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
STEP_SIZES = {
    "gaussian": 0.2,
    "mixture": 0.1,
    "double well": 0.05,
    "rosenbrock": 0.05,
    "funnel": 0.1,
    "rings": 0.02,
}


def energy(x: Tensor) -> Tensor:
    return ((x * x - 1.0) ** 2 + 0.3 * x).sum(dim=1)


def score(x: Tensor) -> Tensor:
    return -(4.0 * x * (x * x - 1.0) + 0.3)


@pytest.mark.parametrize("mass", [1.0, 2.0, MASS])
@pytest.mark.parametrize("given", [False, True])
def test_steps_are_those_of_a_plain_loop(mass, given):
    """In float64. The steps let roundings grow by far less than 1e3 in the 3 of them."""
    x = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    friction, temperature, step_sizes, m = 0.7, 1.5, [0.1, 0.05, 0.2], torch.as_tensor(mass, dtype=torch.float64)
    sampler = fl.Underdamped(
        energy, step_size=step_sizes, friction=friction, mass=mass, temperature=temperature, n_steps=3, seed=11
    )
    drawn = (temperature / m).sqrt() * normal(x.shape, seed=11, step=7, stream=Stream.VELOCITY, offset=5 * 3).double()
    v = torch.ones_like(x) if given else drawn
    out = sampler.with_velocity(x, velocity=v if given else None, chain_offset=5, step=7)
    plain = sampler(x, chain_offset=5, step=7)
    for k, h in enumerate(step_sizes):
        z, c = normal(x.shape, seed=11, step=7 + k, offset=5 * 3).double(), math.exp(-friction * h)
        v = v + h / 2 * score(x) / m
        x = x + h / 2 * v
        v = c * v + ((1 - c * c) * temperature / m).sqrt() * z
        x = x + h / 2 * v
        v = v + h / 2 * score(x) / m
    for ours, expected in zip(out, (x, v), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert given or torch.equal(plain, out[0])


def test_chains_go_on_from_call_to_call():
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    sampler = fl.Underdamped(energy, step_size=0.1, seed=11)
    whole = sampler.with_velocity(x, n_steps=7, step=0)
    part = sampler.with_velocity(x, n_steps=3, step=0)
    rest = sampler.with_velocity(part[0], velocity=part[1], n_steps=4, step=3)
    assert all(torch.equal(a, b) for a, b in zip(whole, rest, strict=True))


def transition(h: float, friction: float, mass: float) -> tuple[Tensor, Tensor]:
    """A and Q of a step (x, v) ← A (x, v) + noise of covariance Q for U = x²/2: A from the code itself, at (1, 0) and
    (0, 1) less what it does at (0, 0); Q from how each part of a step passes the noise on.
    """
    sampler = fl.Underdamped(lambda x: 0.5 * x.square().sum(1), step_size=h, friction=friction, mass=mass, seed=1)
    starts = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    ends = []
    for x0, v0 in starts:
        x, v = sampler.with_velocity(x0.view(1, 1), velocity=v0.view(1, 1), n_steps=1, step=0)
        ends.append(torch.stack([x[0, 0], v[0, 0]]))
    a = torch.stack([ends[1] - ends[0], ends[2] - ends[0]], dim=1)
    z = normal((1,), seed=1, step=0).double()
    g = ends[0] / z  # what one normal number adds
    return a, g[:, None] * g


def stationary(a: Tensor, q: Tensor) -> Tensor:
    """Σ = A Σ Aᵀ + Q."""
    n = len(a)
    return torch.linalg.solve(torch.eye(n * n, dtype=a.dtype) - torch.kron(a, a), q.flatten()).view(n, n)


@pytest.mark.parametrize("h", [0.1, 0.5, 1.5])
@pytest.mark.parametrize(("friction", "mass"), [(1.0, 1.0), (0.3, 2.0), (5.0, 0.7)])
def test_states_of_a_gaussian_have_no_bias(h, friction, mass):
    """BAOAB's variance of x is T for any stable step size; that of v is T/m·(1 - h²/4m) (Leimkuhler and Matthews,
    2013). The solution amplifies the 1e-15 of A by 1 / (1 - |eigenvalues|²), here below 1e3.
    """
    sigma = stationary(*transition(h, friction, mass))
    expected = torch.diag(torch.tensor([1.0, (1 - h * h / (4 * mass)) / mass], dtype=torch.float64))
    torch.testing.assert_close(sigma, expected, rtol=0, atol=1e-11)


def test_weak_order_is_two():
    """The covariance at time 1 from (1, 0), against that of the stochastic differential equation: halving the step
    divides the error by 4.
    """
    friction, errors = 1.0, []
    drift = torch.tensor([[0.0, 1.0], [-1.0, -friction]], dtype=torch.float64)
    limit = torch.matrix_exp(drift)
    exact = torch.eye(2, dtype=torch.float64) - limit @ limit.T  # of the stationary covariance 1
    for n in (8, 16):
        a, q = transition(1.0 / n, friction, 1.0)
        sigma, mean = torch.zeros(2, 2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
        for _ in range(n):
            sigma, mean = a @ sigma @ a.T + q, a @ mean
        errors.append(((sigma - exact).norm(), (mean - limit[:, 0]).norm()))
    for coarse, fine in zip(*errors, strict=True):
        assert abs(math.log2(coarse / fine) - 2) < 0.2


@pytest.mark.parametrize("name", DENSITIES)
def test_moments_of_six_densities(name):
    """From exact samples. The bias at these step sizes is below the Monte-Carlo error of 4,000 chains."""
    sampler = fl.Underdamped(DENSITIES[name](), step_size=STEP_SIZES[name], n_steps=25, seed=2)
    x, v = sampler.with_velocity(exact_samples(name, 4000))
    assert_moments(x, name)
    assert abs(v.square().mean() - 1) < 5 * math.sqrt(2 / v.numel())


def test_high_friction_is_langevin_with_half_the_squared_step():
    """With new velocities at each step, x ← x + h²/2·s + h/2·(z' + z): over many steps Langevin's, but without its bias
    of first order in η = h²/2. On U = x²/2 + cos(2x)/2, whose second moment is a sum over a grid.
    """

    def wavy(x: Tensor) -> Tensor:
        return (0.5 * x.square() + 0.5 * (2.0 * x).cos()).sum(dim=1)

    grid = torch.linspace(-10.0, 10.0, 20_001, dtype=torch.float64)[:, None]
    weights = (-wavy(grid)).exp()
    exact = float((weights * grid[:, 0].square()).sum() / weights.sum())
    eta, n = 0.2, 90_000
    x0 = torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
    underdamped = fl.Underdamped(wavy, step_size=math.sqrt(2 * eta), friction=math.inf, n_steps=30, seed=1)(x0)
    langevin = fl.Langevin(wavy, step_size=eta, noise_std=None, n_steps=30, seed=1)(x0)
    errors = [x.double().square() - exact for x in (underdamped, langevin)]
    standard = [error.std() / math.sqrt(n) for error in errors]
    assert abs(errors[0].mean()) < 5 * standard[0]
    assert errors[1].mean() > 10 * standard[1]


def test_one_long_step_of_high_friction_is_the_drift_and_both_velocities():
    """x₁ = x₀ + h²/2·s(x₀) + h/2·(v₀ + z), exactly in float64 but for roundings."""
    x = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h, v = 0.3, torch.ones(10, 3, dtype=torch.float64)
    x1, _ = fl.Underdamped(energy, step_size=h, friction=math.inf, n_steps=1, seed=1).with_velocity(x, velocity=v)
    z = normal(x.shape, seed=1, step=0).double()
    expected = x + h / 2 * (v + h / 2 * score(x)) + h / 2 * z
    torch.testing.assert_close(x1, expected, rtol=1e-13, atol=1e-13)


def test_a_score_alone_is_enough():
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    given = fl.Underdamped(score=score, step_size=0.1, n_steps=5, seed=11)(x)
    assert torch.equal(given, fl.Underdamped(score=lambda x: score(x), step_size=0.1, n_steps=5, seed=11)(x))
    double = x.double()
    pair = [
        fl.Underdamped(**target, step_size=0.1, n_steps=5, seed=11)(double)
        for target in ({"score": score}, {"energy": energy})
    ]
    torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)


def test_what_is_refused():
    x = torch.zeros(2, 3)
    sampler = fl.Underdamped(energy, step_size=0.1, seed=1)
    for velocity in (torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.float64), 1.0):
        with pytest.raises(ValueError, match=r"velocity must be torch.float32 \(2, 3\) on cpu, got"):
            sampler.with_velocity(x, velocity=velocity)
    with pytest.raises(ValueError, match="friction must be positive and finite"):
        fl.Underdamped(energy, step_size=0.1, friction=0.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'bounds'"):
        fl.Underdamped(energy, step_size=0.1, bounds=(0, 1))
