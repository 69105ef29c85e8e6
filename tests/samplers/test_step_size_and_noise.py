"""step_size and noise_std are given together: a number alone would determine the temperature silently."""

from __future__ import annotations

import pytest
from support.langevin_reference import quadratic

import fastlangevin as fl


@pytest.mark.parametrize("step_size", [0.01, 1.0, [0.1, 0.2], lambda k: 0.1])
def test_a_step_size_alone_is_an_error(step_size):
    with pytest.raises(ValueError, match=r"noise_std must be given with step_size: noise_std=None .* or a number"):
        fl.Langevin(quadratic, n_steps=2, step_size=step_size)


def test_both_left_out_are_the_paper_s():
    sampler = fl.Langevin(quadratic, seed=1)
    assert (sampler.step_size, sampler.noise_std) == (1.0, 0.01)


def test_noise_alone_keeps_the_paper_s_step_size():
    sampler = fl.Langevin(quadratic, noise_std=0.3, seed=1)
    assert (sampler.step_size, sampler.noise_std) == (1.0, 0.3)
    sampler = fl.Langevin(quadratic, noise_std=None, seed=1)
    assert (sampler.step_size, sampler.noise_std) == (1.0, None)


@pytest.mark.parametrize("options", [{}, {"noise_std": 0.1}, {"step_size": 0.1, "noise_std": [0.1, 0.2]}])
def test_a_temperature_needs_the_noise_that_follows_from_it(options):
    with pytest.raises(
        ValueError, match=r"temperature must be 1 unless noise_std=None.*got temperature=0.5 and noise_std="
    ):
        fl.Langevin(quadratic, n_steps=2, temperature=0.5, **options)
    fl.Langevin(quadratic, n_steps=2, temperature=1.0, **options)


def test_the_stationary_deviation_is_the_target_s():
    """3,000 steps of η = 0.01 on N(0, 1). The stationary variance of x ← (1 - η) x + σz is σ² / (1 - (1 - η)²) =
    1 / (1 - η/2); the variance of 20,000 chains has relative standard error sqrt(2 / 20,000) = 0.01, times 4.
    """
    sampler = fl.Langevin(lambda x: x.square().sum(1) / 2, n_steps=3000, step_size=0.01, noise_std=None, seed=1)
    x = sampler.sample((20_000, 1))
    assert abs(float(x.var()) * (1 - 0.01 / 2) - 1) < 0.04
