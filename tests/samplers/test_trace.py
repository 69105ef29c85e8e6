"""Traces, energies and scores."""

from __future__ import annotations

import math

import pytest
import torch
from support.error_bounds import gamma
from support.langevin_reference import FLOAT64, small_net

import fastlangevin as fl


@pytest.mark.parametrize("noise_first", [False, True])
def test_trace(noise_first):
    net = small_net().double()
    sampler = fl.Langevin(net, n_steps=7, step_size=0.1, noise_std=0.1, noise_first=noise_first, grad_clip=0.05, seed=1)
    x0 = torch.randn(4, 3, dtype=torch.float64)
    trace = sampler.trace(x0, every=3, step=5)
    assert trace.steps.tolist() == [0, 3, 6, 7]
    assert torch.equal(trace.x[0], x0)
    for i, k in enumerate(trace.steps.tolist()):
        x = sampler(x0, step=5, n_steps=k) if k else x0
        assert torch.equal(trace.x[i], x)
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net(leaf).sum(), leaf)
        torch.testing.assert_close(trace.energy[i], net(x)[:, 0].detach(), **FLOAT64)
        # Norms are float32's, of three elements: each rounded, squared, added, and the root halves their error.
        norm = gradient.norm(dim=1)
        assert ((trace.score_norm[i] - norm).abs() <= gamma(5) * norm).all()
    log_trace = fl.Langevin(log_density=net, n_steps=1, seed=1).trace(x0)
    torch.testing.assert_close(log_trace.energy[0], -net(x0)[:, 0].detach(), **FLOAT64)
    assert fl.Langevin(score=lambda x: -x, n_steps=1, seed=1).trace(x0).energy is None


def test_energy_and_score_methods():
    net = small_net().double()
    x = torch.randn(4, 3, dtype=torch.float64)
    sampler = fl.Langevin(log_density=net, grad_clip=1e-3, seed=1)
    torch.testing.assert_close(sampler.energy(x), -net(x)[:, 0].detach(), **FLOAT64)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(sampler.score(x), torch.autograd.grad(net(leaf).sum(), leaf)[0], **FLOAT64)
    with pytest.raises(ValueError, match="given a score"):
        fl.Langevin(score=lambda x: -x, seed=1).energy(x)


@pytest.mark.parametrize("method", ["__call__", "trace", "energy", "score"])
def test_every_entry_point_checks_the_state_and_passes_extra_arguments(method):
    sampler = fl.Langevin(lambda x, y: (x * y).square().sum(1), n_steps=2, seed=1)
    with pytest.raises(ValueError, match="must be finite"):
        getattr(sampler, method)(torch.full((2, 3), math.inf), torch.ones(2, 3))
    results = [getattr(sampler, method)(torch.ones(2, 3), torch.full((2, 3), v)) for v in (1.0, 2.0)]
    a, b = (r.x if method == "trace" else r for r in results)
    assert not torch.allclose(a, b)
    assert sampler.step == {"__call__": 4, "trace": 4}.get(method, 0)
