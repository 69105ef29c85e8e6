"""Samplers called by functions under torch.compile."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastlangevin as fl

pytestmark = pytest.mark.compiled


def everything():
    """A function that calls all that a sampler has, and the sampler."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))
    sampler = fl.Langevin(log_density=net, n_steps=3, seed=1)

    def function(x):
        y = sampler(x * 2)
        z = sampler.sample((6, 4)) + sampler.initial((6, 4)) + sampler.trace(y.detach()).x[-1]
        z = z + sampler.with_last_step(x.detach()) + sampler.score(x.detach()) + sampler.energy(x.detach())[:, None]
        z = z + fl.interpolate(sampler, x.detach(), z.detach(), n=2)[:, 0]
        z = z + sampler.replace(n_steps=2)(x.detach())
        return net(y + z + fl.reconstruct(sampler, x.detach(), n_iterations=1).x).mean()

    return function, sampler


def test_the_graph_is_broken_and_the_result_is_the_same():
    x = torch.randn(6, 4, requires_grad=True)
    (plain, one), (function, other) = everything(), everything()
    compiled = torch.compile(function, backend="eager")
    for _ in range(2):
        expected, got = plain(x), compiled(x)
        assert torch.equal(got, expected) and one.step == other.step > 0
        assert torch.equal(torch.autograd.grad(got, x)[0], torch.autograd.grad(expected, x)[0])


def test_a_whole_graph_is_refused_by_torch():
    sampler = fl.Langevin(log_density=nn.Linear(4, 1), n_steps=3, seed=1)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="torch.compiler.disable"):
        torch.compile(sampler, backend="eager", fullgraph=True)(torch.randn(6, 4))
