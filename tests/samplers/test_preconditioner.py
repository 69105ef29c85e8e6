"""`fl.Langevin(preconditioner=…)`: its steps against a plain loop, and its stationary distribution."""

from __future__ import annotations

import math

import pytest
import torch
from support.fake_capture import FakeCapture
from support.langevin_reference import FLOAT64, normal, quadratic

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache

K = 6
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
P = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)
RMSPROP = fl.RMSprop(decay=0.8, eps=0.1)


def score(x):
    """Of each element alone, so that a chain has the same bits in any batch."""
    return x - x * x * x


def loop(x, preconditioner, *, eta=0.05, sigma=None, clip=None, norm=None, bounds=None, mask=None, offset=0):
    """The update as the docstrings write it, in float64."""
    v = torch.zeros_like(x)
    for k in range(K):
        step_size = eta[k] if isinstance(eta, list) else eta
        std = math.sqrt(2 * step_size) if sigma is None else sigma
        s = score(x)
        if norm is not None:
            s = s * (norm / s.norm(dim=1, keepdim=True)).clamp(max=1)
        if clip is not None:
            s = s.clamp(-clip, clip)
        p = preconditioner
        if isinstance(p, fl.RMSprop):
            v = p.decay * v + (1 - p.decay) * s**2
            p = 1 / (p.eps + v.sqrt())
        moved = x + step_size * p * s + std * p.sqrt() * normal(x.shape, k, offset=offset).double()
        moved = moved if bounds is None else moved.clamp(*bounds)
        x = moved if mask is None else torch.where(mask, x, moved)
    return x


def langevin(preconditioner, **options):
    return fl.Langevin(
        score=score,
        **{"step_size": 0.05, "noise_std": None, "n_steps": K, "seed": 1, **options},
        preconditioner=preconditioner,
    )


@pytest.fixture(params=["constant", "rmsprop"])
def preconditioner(request):
    return P if request.param == "constant" else RMSPROP


CASES = {
    "plain": ({}, {}),
    "temperature": ({"temperature": 0.5}, {"sigma": math.sqrt(0.05)}),
    "schedule": ({"step_size": [0.01 * k for k in range(K)]}, {"eta": [0.01 * k for k in range(K)]}),
    "decoupled": ({"noise_std": 0.2}, {"sigma": 0.2}),
    "no noise": ({"noise_std": 0.0}, {"sigma": 0.0}),
    "clip": ({"grad_clip": 0.2}, {"clip": 0.2}),
    "norm": ({"grad_clip_norm": 0.3, "grad_clip": 0.2}, {"norm": 0.3, "clip": 0.2}),
    "bounds": ({"bounds": (-0.5, None)}, {"bounds": (-0.5, None)}),
    "far limits": ({"bounds": (-1e300, 1e300), "grad_clip": 1e300}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_steps_are_those_of_a_plain_loop(case, preconditioner):
    options, same = CASES[case]
    sampler = langevin(preconditioner, **options)
    x = sampler(X, step=0)
    torch.testing.assert_close(x, loop(X, preconditioner, **same), **FLOAT64)
    assert torch.equal(sampler.trace(X, every=4, step=0).x[-1], x)
    assert torch.equal(sampler(X, step=0, callback=lambda k, x: None, every=4), x)  # V is kept from part to part
    sampler(X.float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_split_batch_has_the_same_bits(dtype, preconditioner):
    sampler, x0 = langevin(preconditioner, bounds=(-2.0, 0.3)), X.to(dtype)
    whole = sampler(x0, step=3)
    assert whole.max() <= 0.3005 and not torch.equal(whole, x0)
    parts = [sampler(x0[:2], step=3, chain_offset=0), sampler(x0[2:], step=3, chain_offset=2)]
    assert torch.equal(torch.cat(parts), whole)


def test_masks_and_layouts(preconditioner):
    mask = torch.tensor([True, False, False])
    expected = loop(X, preconditioner, bounds=(-0.3, 0.3), mask=mask)
    got = langevin(preconditioner, bounds=(-0.3, 0.3))(X, mask=mask)
    torch.testing.assert_close(got, expected, **FLOAT64)
    assert torch.equal(got[:, 0], X[:, 0])
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    other = (
        RMSPROP if preconditioner is RMSPROP else torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(3)) + 0.1
    )
    for backend in ("auto", "reference"):
        sampler = langevin(other, backend=backend, engine="autograd", n_steps=2)
        last = sampler(images.to(memory_format=torch.channels_last), step=0)
        assert last.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, sampler(images, step=0))


@pytest.mark.parametrize("unroll", [1, 2, 6])
def test_captured_steps_have_the_same_bits(unroll, preconditioner):
    """A constant P is read from memory, RMSprop a constant of the graph."""
    FakeCapture.made = []
    eager, replayed = langevin(preconditioner), langevin(preconditioner)
    replayed._graphs = GraphCache(True, unroll, FakeCapture, "cpu")
    other = 2 * P if preconditioner is P else fl.RMSprop(decay=0.9)
    for change in ({}, {"step_size": 0.1}, {"preconditioner": other}):
        for step in (0, 6):
            assert torch.equal(replayed.replace(**change)(X, step=step), eager.replace(**change)(X, step=step))
    mask = torch.tensor([True, False, False])
    assert torch.equal(replayed(X, mask=mask, step=0), eager(X, mask=mask, step=0))
    assert len(FakeCapture.made) == (2 if preconditioner is P else 3)
    assert all(made.cold == set() for made in FakeCapture.made)


def test_the_stationary_covariance():
    """For U = Σ aᵢxᵢ²/2 a step is x ← (1 - ηPa)x + sqrt(2ηTP)·z, whose stationary variance is T / (a(1 - ηPa/2)): P
    the variances without a step, scales that differ by 10^4 mix alike. Of n chains within 5 standard errors, sqrt(2/n)
    of a variance and 1/sqrt(n) of a correlation. 60 steps from 0 leave 2^-120 of the way.
    """
    n, a, eta, temperature = 8000, torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64), 0.5, 0.7
    sampler = fl.Langevin(
        energy=lambda x: (a * x.square()).sum(1) / 2,
        step_size=eta,
        noise_std=None,
        temperature=temperature,
        preconditioner=1 / a,
        n_steps=60,
        seed=2,
    )
    x = sampler(torch.zeros(n, 3, dtype=torch.float64))
    wanted = temperature / (a * (1 - eta / 2))
    covariance = (x.mT @ x / n) / torch.sqrt(wanted[:, None] * wanted)
    assert ((covariance.diagonal() - 1).abs() < 5 * math.sqrt(2 / n)).all()
    assert (covariance.triu(1).abs() < 5 / math.sqrt(n)).all()


def test_the_bias_of_rmsprop():
    """With decay = 0 and small steps its stationary density is that of exp(-x²/2)·(eps + |x|), whose variance is
    (eps·sqrt(2π) + 4) / (eps·sqrt(2π) + 2), where that of exp(-x²/2) is 1: within 5 standard errors. Of a long memory
    the variance is 1, by the same test.
    """
    n, eps = 4000, 0.5
    w = eps * math.sqrt(2 * math.pi)
    variance, fourth = (w + 4) / (w + 2), (3 * w + 16) / (w + 2)
    options = dict(step_size=0.02, noise_std=None, n_steps=500, seed=4)
    x0 = normal((n, 1), 0, stream=20).double()
    short = fl.Langevin(quadratic, preconditioner=fl.RMSprop(decay=0.0, eps=eps), **options)(x0)
    assert abs(short.square().mean() - variance) < 5 * math.sqrt((fourth - variance**2) / n)
    long = fl.Langevin(quadratic, preconditioner=fl.RMSprop(decay=0.999, eps=eps), **options)(x0)
    assert abs(long.square().mean() - 1) < 5 * math.sqrt(2 / n)


def test_plans_do_not_claim_whole_chains():
    net = fl.models.MLP(3)
    plan = fl.Langevin(net, step_size=0.1, noise_std=None, preconditioner=P).plan
    assert "steps are taken one by one: they have no preconditioner" in plan.reasons


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"preconditioner": 1.0}, TypeError, "preconditioner must be a tensor of numbers .*, got 1.0"),
        ({"preconditioner": P > 0}, TypeError, "preconditioner must be a tensor of numbers"),
        ({"preconditioner": -P}, ValueError, "preconditioner must be positive and finite, got -4.0 … -0.25"),
        ({"preconditioner": P * math.inf}, ValueError, "preconditioner must be positive and finite"),
        ({"noise_first": True}, ValueError, "noise_first must be False with a preconditioner, got True"),
        ({"noise_last": True, "bounds": (0, 1)}, ValueError, "noise_last must be False with a preconditioner"),
        ({"step_size": torch.ones(5)}, ValueError, r"step_size must be the same for all chains .* shape \(5,\)"),
        ({"temperature": torch.ones(5)}, ValueError, "temperature must be the same for all chains"),
        ({"noise_std": torch.ones(5)}, ValueError, "noise_std must be the same for all chains"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        langevin(**{"preconditioner": P, **options})


def test_bad_calls():
    with pytest.raises(ValueError, match=r"preconditioner must have the shape of a chain's state \(2,\), got \(3,\)"):
        langevin(P)(X[:, :2])
    with pytest.raises(ValueError, match="x0 must not require grad with a preconditioner"):
        langevin(P)(X.clone().requires_grad_())
    with pytest.raises(ValueError, match="with_last_step needs preconditioner=None"):
        langevin(P).with_last_step(X)
    with pytest.raises(ValueError, match=r"decay must be a number in \[0, 1\), got 1.0"):
        fl.RMSprop(decay=1.0)
    with pytest.raises(ValueError, match="eps must be positive and finite, got 0"):
        fl.RMSprop(eps=0)
    given = P.clone()
    sampler = langevin(given)
    given.zero_()
    assert torch.equal(sampler(X), langevin(P)(X))


def test_trainings_refuse_it():
    with pytest.raises(ValueError, match="sampler's preconditioner must be None in training: it cannot be saved"):
        fl.train("digits", sampler={"preconditioner": fl.RMSprop()}, n_iterations=1)
