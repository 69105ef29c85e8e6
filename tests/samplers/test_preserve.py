"""The sampler has no side effects."""

from __future__ import annotations

import pytest
import torch
from support.langevin_reference import quadratic
from torch import nn

import fastlangevin as fl


def test_state_of_the_caller_does_not_change():
    net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.0), nn.Tanh(), nn.Linear(8, 1))
    net[0].weight.requires_grad_(False)
    net.train()
    net[1].eval()
    net[3].bias.grad = torch.full((1,), 7.0)
    x0 = torch.randn(4, 3, requires_grad=True)
    before = x0.detach().clone()
    x = fl.Langevin(net, n_steps=3, seed=1)(x0)
    assert torch.equal(x0, before) and x0.requires_grad and x0.grad is None and x0.is_leaf
    assert x.requires_grad and x.data_ptr() != x0.data_ptr()
    with torch.no_grad():
        assert not fl.Langevin(net, n_steps=3, seed=1)(x0).requires_grad
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]
    assert [m.training for m in net] == [True, False, True, True]
    assert net[0].bias.grad is None and net[3].bias.grad.item() == 7.0
    assert torch.is_grad_enabled()


SAMPLERS = {
    "langevin": lambda: fl.Langevin(quadratic, n_steps=3, seed=1),
    "constant P": lambda: fl.Langevin(quadratic, n_steps=3, seed=1, preconditioner=torch.ones(2)),
    "rmsprop": lambda: fl.Langevin(quadratic, n_steps=3, seed=1, preconditioner=fl.RMSprop()),
    "mala": lambda: fl.MALA(quadratic, n_steps=3, seed=1, step_size=0.1),
    "hmc": lambda: fl.HMC(quadratic, n_steps=3, seed=1, step_size=0.1, mass=torch.ones(2)),
    "underdamped": lambda: fl.Underdamped(quadratic, n_steps=3, seed=1, step_size=0.1, mass=torch.ones(2)),
    "annealed": lambda: fl.AnnealedLangevin(
        lambda x, sigma: quadratic(x) / sigma, sigmas=[2.0, 1.0], steps_per_level=2, step_size=0.1, denoise=True, seed=1
    ),
    "tempering": lambda: fl.ParallelTempering(
        quadratic, temperatures=[1, 2], step_size=0.1, swap_every=2, n_steps=4, seed=1
    ),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_works_with_gradients_disabled(sampler, mode):
    expected = SAMPLERS[sampler]()(torch.ones(2, 2))
    with mode():
        got = SAMPLERS[sampler]()(torch.ones(2, 2))
        trace = SAMPLERS[sampler]().trace(torch.ones(2, 2))
        assert not torch.is_grad_enabled()
    assert torch.equal(got, expected) and not got.is_inference()
    assert torch.equal(trace.x[-1], expected)


def test_inference_tensors_as_extra_arguments():
    with torch.inference_mode():
        labels = torch.ones(2, 3)
        x = fl.Langevin(lambda x, y: (x * y).square().sum(1), n_steps=2, seed=1)(torch.zeros(2, 3), labels)
    assert torch.equal(x, fl.Langevin(lambda x: x.square().sum(1), n_steps=2, seed=1)(torch.zeros(2, 3)))


def test_energies_that_the_caller_keeps_are_safe():
    """In-place steps must not silently change tensors that an energy's graph has saved."""
    kept = []

    def energy(x):
        u = (x**2).sum(1)
        kept.append((x, u))
        return u

    fl.Langevin(energy, n_steps=2, seed=1)(torch.ones(1, 2))
    assert len(kept) == 2 and kept[0][1].item() == 2.0
