"""Initial states of chains."""

from __future__ import annotations

import math

import pytest
import torch
from support.error_bounds import U
from support.langevin_reference import quadratic

import fastlangevin as fl


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0), (-2.0, 3.0)])
def test_initial_state(backend, bounds):
    options = dict(n_steps=1, step_size=0.0, noise_std=0.0, seed=5, bounds=bounds, backend=backend)
    u = fl.noise.uniform((4000, 2), seed=5, step=3, stream=1)
    lo, hi = bounds or (-1.0, 1.0)
    x = fl.Langevin(quadratic, **options).sample((4000, 2), step=3)
    exact = lo + (hi - lo) * u.double()
    assert ((x - exact).abs() <= 2 * U * (max(abs(lo), abs(hi)) + (hi - lo))).all()  # of the product and of the sum
    assert abs(x.min() - lo) < 0.01 * (hi - lo) and abs(x.max() - hi) < 0.01 * (hi - lo)
    z = fl.noise.normal((4000, 2), seed=5, step=3, stream=1)
    x = fl.Langevin(quadratic, init="normal", **options).sample((4000, 2), step=3)
    assert torch.equal(x, z if bounds is None else z.clamp(lo, hi))


def test_initial_state_by_a_function():
    seen = {}

    def init(shape, *, seed, step, chain_offset):
        seen.update(shape=shape, seed=seed, step=step, chain_offset=chain_offset)
        return torch.full(shape, 2.0)

    x = fl.Langevin(quadratic, n_steps=1, step_size=0, noise_std=0, init=init, seed=2**64 - 1).sample(
        (3, 2), chain_offset=5
    )
    assert (x == 2).all()
    assert seen == dict(shape=(3, 2), seed=2**64 - 1, step=0, chain_offset=5)
    with pytest.raises(ValueError, match="init must return a tensor of shape \\(3, 2\\)"):
        fl.Langevin(quadratic, init=lambda shape, **_: torch.zeros(1), seed=1).sample((3, 2))


@pytest.mark.parametrize(
    ("shape", "words"), [((), "shape must be"), ((2, -1), "shape must be"), ((2.0, 1), "shape must be")]
)
def test_bad_sample_shape(shape, words):
    with pytest.raises(ValueError, match=words):
        fl.Langevin(quadratic, seed=1).sample(shape)


def test_sample_has_its_dtype_device_and_offset():
    sampler = fl.Langevin(quadratic, n_steps=1, step_size=0.0, noise_std=0.0, init="normal", seed=1)
    whole = sampler.sample((6, 3), step=0)
    assert torch.equal(sampler.sample((4, 3), step=0, chain_offset=2), whole[2:])
    assert sampler.sample((2, 3), dtype=torch.float64).dtype == torch.float64
    given = fl.Langevin(quadratic, n_steps=1, init=lambda shape, **_: torch.zeros(shape, dtype=torch.float64), seed=1)
    assert given.sample((2, 3)).dtype == torch.float32
    with pytest.raises(ValueError, match="dtype must be float32"):
        sampler.sample((2, 3), dtype=torch.int32)
    with pytest.raises(ValueError, match="init's state must be finite"):
        fl.Langevin(quadratic, init=lambda shape, **_: torch.full(shape, math.nan), seed=1).sample((2, 3))
    with pytest.raises(ValueError, match="init='uniform' needs bounds"):
        fl.Langevin(quadratic, bounds=(-3e38, 3e38), seed=1).sample((2, 3))
    for bounds in ((-math.inf, 3.0), (-1.0, 1e39)):
        fl.Langevin(quadratic, bounds=bounds, init="normal", n_steps=1, seed=1).sample((2, 3))
    with pytest.raises(ValueError, match="every must be an int of at least 1, got 0"):
        sampler.trace(torch.zeros(2, 3), every=0)


def test_sample_starts_from_initial():
    sampler = fl.Langevin(log_density=lambda x: -x.square().sum(1), n_steps=3, seed=4)
    z = sampler.initial((5, 3))
    assert sampler.step == 0 and torch.equal(sampler.initial((5, 3)), z)
    assert torch.equal(sampler.initial((2, 3), chain_offset=3), z[3:])
    assert torch.equal(sampler(z, step=0), sampler.sample((5, 3)))
    assert sampler.step == 3 and not torch.equal(sampler.initial((5, 3)), z)
    assert torch.equal(sampler.initial((5, 3), step=0), z)
    for place, words in [({"step": -1}, "step must be"), ({"chain_offset": -1}, "chain_offset must be")]:
        with pytest.raises(ValueError, match=words):
            sampler.initial((5, 3), **place)
