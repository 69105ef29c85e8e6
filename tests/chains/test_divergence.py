"""Chains that are not finite raise an error with the step and the number of chains."""

from __future__ import annotations

import math

import pytest
import torch

import fastlangevin as fl


def test_divergence_names_step_and_chains():
    """U = -x⁴ from 1, η = 1, no noise: 1 → 5 → 505 → 5.2e8 → 5.5e26 → overflow at step 4. The chain at 0 stays."""
    sampler = fl.Langevin(lambda x: -(x**4).sum(1), n_steps=9, step_size=1.0, noise_std=0.0, seed=1)
    x0 = torch.tensor([[1.0], [0.0], [1.0]])
    with pytest.raises(fl.ChainDiverged, match="2 of 3 chains are not finite, first at step 4 ") as caught:
        sampler(x0)
    assert caught.value.step == 4 and caught.value.n_chains == 2
    with pytest.raises(fl.ChainDiverged, match="first at step 4 "):
        sampler.trace(x0)
    assert torch.equal(x0, torch.tensor([[1.0], [0.0], [1.0]]))
    sampler.check()


def test_bounds_do_not_hide_nan():
    sampler = fl.Langevin(score=lambda x: torch.full_like(x, math.nan), n_steps=2, bounds=(-1, 1), seed=1)
    with pytest.raises(fl.ChainDiverged, match="first at step 0"):
        sampler(torch.zeros(2, 2))


def test_one_bad_element_is_a_bad_chain():
    x0 = torch.zeros(3, 4)
    x0[1, 2] = 1.0
    sampler = fl.Langevin(lambda x: -(x**4).sum(1), n_steps=9, step_size=1.0, noise_std=0.0, seed=1)
    with pytest.raises(fl.ChainDiverged, match=r"1 of 3 chains.*first at step 4 of the call \(noise step 11\)"):
        sampler(x0, step=7)
