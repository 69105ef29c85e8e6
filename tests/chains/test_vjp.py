"""The gradient through a chain, against autograd through a plain loop with the same noise."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from support.differentiable_chain import OPTIONS, SEED, piecewise, plain_chain, smooth
from torch import nn

import fastlangevin as fl
from fastlangevin.chains import vjp
from fastlangevin.noise import Stream
from fastlangevin.score.torch_ops import TorchOpsScore


def with_a_prior():
    """Piecewise linear except for its quadratic term."""
    net = piecewise()
    return lambda x: net(x)[:, 0] - 0.3 * x.square().sum(1)


@pytest.mark.parametrize("engine", ["convnet", "autograd"])
@pytest.mark.parametrize("options", [*OPTIONS, "lower bound"])
@pytest.mark.parametrize("n_steps", [1, 2, 7, 9])
@pytest.mark.parametrize("network", [smooth, piecewise, with_a_prior])
def test_vjp_is_autograd_s_through_the_plain_chain(network, n_steps, options, engine):
    """In float64, whose roundings of 2^-53 nine steps of sums of at most 9 terms magnify by some 10^3."""
    net, options = network(), {**OPTIONS, "lower bound": {"bounds": (-0.3, None)}}[options]
    x0 = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    v = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(6))

    def eta(k):
        return 0.5 + 0.1 * k

    sampler = fl.Langevin(
        log_density=net, n_steps=n_steps, step_size=eta, noise_std=0.1, seed=SEED, engine=engine, **options
    )
    expected = plain_chain(net, x0, n_steps, eta, 0.1, **options)
    (gradient,) = torch.autograd.grad(expected, x0, v, allow_unused=True)
    x = sampler(x0)
    torch.testing.assert_close(x.detach(), expected.detach(), rtol=1e-12, atol=1e-12)
    x.backward(v)
    torch.testing.assert_close(x0.grad, gradient, rtol=1e-9, atol=1e-12)
    assert sampler.step == n_steps
    assert not isinstance(net, nn.Module) or all(p.grad is None for p in net.parameters())


def test_without_bounds_a_piecewise_linear_chain_s_jacobian_is_the_identity(monkeypatch):
    """No score is evaluated in the backward; with bounds, one per step."""
    evaluated = []
    monkeypatch.setattr(
        TorchOpsScore, "_forward", lambda *_, forward=TorchOpsScore._forward: evaluated.append(1) or forward(*_)
    )
    for bounds, expected in ((None, 0), ((-1, 1), 20)):
        x0 = torch.zeros(3, 4, requires_grad=True)
        x = fl.Langevin(log_density=piecewise().float(), n_steps=20, noise_std=0.1, bounds=bounds, seed=1)(x0)
        evaluated.clear()
        v = torch.randn(3, 4)
        x.backward(v)
        assert len(evaluated) == expected and (bounds or torch.equal(x0.grad, v))


def test_a_given_score_need_not_be_a_gradient():
    """In float64: five steps of sums of four terms magnify roundings of 2^-53 by some 10^2."""
    matrix = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x0 = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    sampler = fl.Langevin(score=lambda x: 0.1 * torch.tanh(x) @ matrix, n_steps=5, noise_std=0.1, seed=SEED)
    x = x0
    for k in range(5):
        z = fl.noise.normal(x.shape, seed=SEED, step=k, stream=Stream.LANGEVIN).double()
        x = x + 0.1 * torch.tanh(x) @ matrix + 0.1 * z
    v = torch.randn(3, 4, dtype=torch.float64)
    (expected,) = torch.autograd.grad(x, x0, v)
    (gradient,) = torch.autograd.grad(sampler(x0), x0, v)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_gradient_continues_through_x0():
    """d/dw of the mean final state, with x0 = w·u, by finite differences. h = 10^-5 leaves h² of the third derivative
    and 2^-53 / h of roundings, some 10^-10 each.
    """
    net = smooth()
    u = torch.randn(6, 4, dtype=torch.float64)
    sampler = fl.Langevin(log_density=net, n_steps=12, noise_std=0.05, step_size=0.5, seed=1)

    def mean(w):
        return sampler(w * u, step=0).mean()

    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    mean(w).backward()
    h = 1e-5
    with torch.no_grad():
        assert math.isclose(w.grad.item(), ((mean(w + h) - mean(w - h)) / (2 * h)).item(), rel_tol=1e-6)


def test_few_states_are_held_at_a_time(monkeypatch):
    """About 2·√100 of 100."""
    held = []

    def spied(self, x, k, v, unspied=vjp._Steps.vjp):
        if k % 7 == 0:
            held.append(sum(type(o) is torch.Tensor and o.shape == (5, 37) for o in gc.get_objects()))
        return unspied(self, x, k, v)

    monkeypatch.setattr(vjp._Steps, "vjp", spied)
    x0 = torch.full((5, 37), 0.5, requires_grad=True)
    fl.Langevin(lambda x: (x**4).sum(1), n_steps=100, step_size=0.01, noise_std=0.01, seed=1)(x0).sum().backward()
    assert len(held) == 15 and 15 <= max(held) < 30


def test_changed_weights_are_an_error():
    net = smooth()
    x0 = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    x = fl.Langevin(log_density=net, n_steps=3, seed=1)(x0)
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="weights were changed between the chain and its backward"):
        x.sum().backward()


def test_other_changes_before_the_backward_are_an_error():
    weights, args = torch.randn(4, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    x0 = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    sampler = fl.Langevin(lambda x, a: (torch.cos(x * weights) * a).sum(1), n_steps=3, seed=1)
    for tensor in (weights, args):
        x = sampler(x0, args)
        tensor.mul_(2)
        with pytest.raises(RuntimeError, match="weights were changed"):
            x.sum().backward()
    net = smooth()
    x = fl.Langevin(log_density=net, n_steps=3, seed=1)(x0)
    net[0].weight = nn.Parameter(net[0].weight.detach().clone())
    with pytest.raises(RuntimeError, match="weights were changed"):
        x.sum().backward()


def test_weights_may_change_if_no_state_is_recomputed():
    net = piecewise()
    x0 = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    x = fl.Langevin(log_density=net, n_steps=3, seed=1)(x0)
    with torch.no_grad():
        net[0].weight.mul_(2)
    x.sum().backward()
    assert torch.equal(x0.grad, torch.ones_like(x0))


def test_only_once_differentiable():
    x0 = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    x = fl.Langevin(log_density=smooth(), n_steps=3, seed=1)(x0)
    v = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(x, x0, v, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.usefixtures("precision_as_asked")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_holds_in_the_backward(precision):
    """The same operations have the same bits; bfloat16's roundings, 2^-8, are seen, and are not all there is."""
    net = smooth().float()
    x0 = torch.randn(64, 4, requires_grad=True)
    sampler = fl.Langevin(log_density=net, n_steps=5, precision=precision, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the caller's autocast, which is not used
        x = sampler(x0)
        x.sum().backward()
    exact = x0.grad.clone()
    x0.grad = None
    fl.Langevin(log_density=net, n_steps=5, seed=1)(x0).sum().backward()
    error = (exact - x0.grad).norm() / x0.grad.norm()
    assert error == 0 if precision == "fp32" else 1e-6 < error < 1e-1


def test_no_gradient_is_requested():
    sampler = fl.Langevin(log_density=smooth(), n_steps=3, seed=1)
    x0 = torch.randn(2, 4, dtype=torch.float64)
    assert not sampler(x0).requires_grad
    with torch.no_grad():
        assert not sampler(x0.requires_grad_()).requires_grad
    assert not sampler.trace(x0).x.requires_grad


def test_the_gradient_that_comes_in_is_left_unchanged():
    """For a piecewise linear network with bounds, where the gradient is that one, or 0 where a bound was met."""
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    random = torch.Generator().manual_seed(0)
    x0, v = (torch.randn(64, 4, generator=random) for _ in range(2))
    before, x0 = v.clone(), x0.requires_grad_()
    x = fl.Langevin(log_density=net, n_steps=3, bounds=(-0.5, 0.5), seed=1)(x0)
    (gradient,) = torch.autograd.grad(x, x0, v)
    assert (gradient == 0).any() and torch.equal(v, before)


@pytest.mark.parametrize("engine", ["auto", "autograd"])
def test_attention_whose_fused_kernels_have_no_second_derivatives(engine):
    weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def energy(x, attention=torch.nn.functional.scaled_dot_product_attention):
        return attention(x * weight, x.tanh(), x).flatten(1).sum(1)

    def formula(q, k, v):
        return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v

    x0 = torch.randn(2, 3, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    (score,) = torch.autograd.grad(-energy(x0, formula).sum(), x0, create_graph=True)
    expected = torch.autograd.grad((x0 + 0.5 * score).square().sum(), (x0, weight))
    sampler = fl.Langevin(energy, n_steps=1, step_size=0.5, noise_std=0.0, seed=SEED, engine=engine)
    sampler(x0).square().sum().backward()
    torch.testing.assert_close(x0.grad, expected[0], rtol=1e-9, atol=1e-9)
    sampler.with_last_step(x0.detach()).square().sum().backward()
    torch.testing.assert_close(weight.grad, expected[1], rtol=1e-9, atol=1e-9)
