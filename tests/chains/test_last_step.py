"""`Langevin.with_last_step` against a plain loop whose last step autograd differentiates, with the same noise."""

from __future__ import annotations

import math

import pytest
import torch
from support.error_bounds import U
from torch import nn

import fastlangevin as fl
from fastlangevin.noise import Stream

SEED = 11


def network(dtype=torch.float64, activation=nn.SiLU):
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 9), activation(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 1)).to(dtype)


def start(dtype=torch.float64, n=5):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(4)).to(dtype)


def plain_loop(
    log_density,
    x,
    *,
    etas,
    sigmas,
    first=0,
    offset=0,
    grad_clip=None,
    grad_clip_norm=None,
    bounds=None,
    noise_first=False,
    noise_last=False,
):
    """Every state is detached from the one before, as in the loop of Du et al."""
    for k, (eta, sigma) in enumerate(zip(etas, sigmas, strict=True)):
        x = x.detach()
        z = fl.noise.normal(x.shape, seed=SEED, step=first + k, stream=Stream.LANGEVIN, offset=offset).to(x.dtype)
        if noise_first:
            x = x + sigma * z
            if noise_first == "clamp":
                x = x.clamp(*bounds)
        x = x.requires_grad_()
        (s,) = torch.autograd.grad(log_density(x).sum(), x, create_graph=True)
        if grad_clip_norm is not None:
            s = s * (grad_clip_norm / s.norm(dim=1, keepdim=True)).clamp(max=1)
        s = s if grad_clip is None else s.clamp(-grad_clip, grad_clip)
        x = x.detach() + eta * s + (0 if noise_first or noise_last else sigma * z)
        x = x if bounds is None else x.clamp(*bounds)
        x = x + sigma * z if noise_last else x
    return x


def weight_gradients(net, x):
    """The gradients of a function with a different weight for each element of x."""
    v = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape)
    return torch.autograd.grad((v * x.cos()).sum(), list(net.parameters()), allow_unused=True)


OPTIONS = {
    "plain": {},
    "no noise": {"sigma": 0.0},
    "clip": {"grad_clip": 0.01},
    "norm clip": {"grad_clip_norm": 0.06},
    "both clips and bounds": {"grad_clip": 0.03, "grad_clip_norm": 0.06, "bounds": (-0.8, 0.9)},
    "bounds": {"bounds": (-0.8, 0.9)},
    "noise first": {"noise_first": True},
    "noise first, clip and bounds": {"noise_first": True, "grad_clip": 0.01, "bounds": (-0.8, 0.9)},
    "lower bound": {"bounds": (-0.3, None)},
    "noise last": {"noise_last": True, "bounds": (-0.8, 0.9), "grad_clip": 0.05},
    "noise first, clamped": {"noise_first": "clamp", "bounds": (-0.8, 0.9)},
}


@pytest.mark.parametrize("activation", [nn.SiLU, nn.LeakyReLU])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("n_steps", [1, 2, 6])
def test_value_and_weight_gradients_are_the_plain_loop_s(n_steps, options, activation):
    """In float64, whose roundings of 2^-53 six steps of sums of at most 9 terms magnify by less than 10^3."""
    net, options = network(activation=activation), dict(OPTIONS[options])
    etas = [0.9 + 0.2 * k for k in range(n_steps)]
    sigma = options.pop("sigma", 0.3)
    sigmas = [sigma * (1 + k) for k in range(n_steps)]
    x0 = start()
    expected = plain_loop(net, x0, etas=etas, sigmas=sigmas, **options)
    sampler = fl.Langevin(log_density=net, n_steps=n_steps, step_size=etas, noise_std=sigmas, seed=SEED, **options)
    x = sampler.with_last_step(x0)
    torch.testing.assert_close(x, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x, sampler(x0, step=0), rtol=1e-12, atol=1e-12)
    got, wanted = weight_gradients(net, x), weight_gradients(net, expected)
    for a, b in zip(got, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert any(g is not None and g.abs().max() > 1e-3 for g in got)
    assert sampler.step == n_steps


def test_no_gradient_reaches_earlier_states():
    net, x0 = network(), start().requires_grad_()
    before = x0.detach().clone()
    sampler = fl.Langevin(net, n_steps=3, step_size=0.5, noise_std=0.01, seed=SEED)
    sampler.with_last_step(x0).sum().backward()
    assert x0.grad is None and torch.equal(x0.detach(), before)
    assert all(p.grad is not None for p in list(net.parameters())[:-1])
    one = sampler.with_last_step(x0, n_steps=1)
    one.sum().backward()
    assert x0.grad is None and torch.equal(x0.detach(), before)
    fl.Langevin(net, n_steps=1, noise_first=True, noise_std=1.0, seed=SEED).with_last_step(x0)
    assert torch.equal(x0.detach(), before)


@pytest.mark.parametrize("engine", ["autograd", "mlp", "convnet", "auto"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_engines_and_backends(engine, backend):
    """An engine and a backend take all steps but the last one, which has the bits of one step from there: of value and
    gradients, whatever kernels the processor has for them.
    """
    net, x0 = network(torch.float32), start(torch.float32)
    options = dict(step_size=0.5, noise_std=0.05, seed=SEED)
    sampler = fl.Langevin(log_density=net, engine=engine, n_steps=8, backend=backend, **options)
    x = sampler.with_last_step(x0)
    before = sampler(x0, step=0, n_steps=7)
    one = fl.Langevin(log_density=net, engine="autograd", n_steps=1, **options).with_last_step(before, step=7)
    assert torch.equal(x, one) and (x - before).abs().max() > 0.01
    for a, b in zip(weight_gradients(net, x)[:-1], weight_gradients(net, one)[:-1], strict=True):
        assert torch.equal(a, b)


def test_place_in_a_batch_and_in_the_noise():
    """In float64, as above: a library may add up a batch of another size in another order."""
    net = network()
    sampler = fl.Langevin(log_density=net, n_steps=3, step_size=0.5, noise_std=0.2, seed=SEED)
    whole = sampler.with_last_step(start(n=8), step=40)
    assert sampler.step == 0
    part = sampler.with_last_step(start(n=8)[5:], step=40, chain_offset=5)
    torch.testing.assert_close(part, whole[5:], rtol=1e-12, atol=1e-12)
    expected = plain_loop(net, start(n=8)[5:], etas=[0.5] * 2, sigmas=[0.2] * 2, first=40, offset=20)
    part = sampler.with_last_step(start(n=8)[5:], n_steps=2, step=40, chain_offset=5)
    torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-12)
    first = sampler.with_last_step(start())
    assert sampler.step == 3
    assert not torch.allclose(sampler.with_last_step(start()), first) and sampler.step == 6


def test_labels_and_a_given_score():
    torch.manual_seed(1)
    table = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
    y = torch.tensor([2, 0, 1, 1, 2])
    sampler = fl.Langevin(score=lambda x, y: table[y] - x, n_steps=2, step_size=0.5, noise_std=0.0, seed=SEED)
    x = sampler.with_last_step(start(), y)
    x.sum().backward()
    assert torch.equal(table.grad, 0.5 * torch.tensor([1.0, 2, 2], dtype=torch.float64)[:, None].expand(3, 4))
    table.grad = None
    by_energy = fl.Langevin(
        lambda x, y: (x - table[y]).square().sum(1) / 2, n_steps=2, step_size=0.5, noise_std=0.0, seed=SEED
    )
    assert torch.equal(by_energy.with_last_step(start(), y), x.detach())
    by_energy.with_last_step(start(), y).sum().backward()
    assert torch.equal(table.grad, 0.5 * torch.tensor([1.0, 2, 2]).double()[:, None].expand(3, 4))


@pytest.mark.usefixtures("precision_as_asked")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_network_runs_in_the_sampler_s_precision(precision):
    """Of piecewise linear and tanh layers, whose backward is the same operation where it is to be differentiated: the
    chain's score is the sampler's. What is left are the last step's roundings: the update's two, and those of two
    products and two sums.
    """
    net, ran_in = network(torch.float32, nn.LeakyReLU), []

    def log_density(x):
        ran_in.append(net[0](x).dtype)
        return net(x)

    sampler = fl.Langevin(
        log_density=log_density, n_steps=3, step_size=0.5, noise_std=0.01, precision=precision, seed=SEED
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the caller's autocast, which is not used
        x = sampler.with_last_step(start(torch.float32))
    assert ran_in[-3:] == [torch.bfloat16 if precision == "bf16" else torch.float32] * 3
    assert x.dtype == torch.float32 and all(torch.isfinite(g).all() for g in weight_gradients(net, x)[:-1])
    expected = sampler(start(torch.float32), step=0)
    noise = 0.01 * fl.noise.normal(x.shape, seed=SEED, step=2).abs()
    moved = (sampler(start(torch.float32), step=0, n_steps=2) - expected).abs() + noise
    assert ((x - expected).abs() <= U * (moved + noise + 2 * (expected.abs() + noise) + 2 * expected.abs())).all()


def test_a_state_of_16_bits_is_rounded_once():
    """η·s and σ·z are each below bfloat16's spacing at x, but not their sum: rounding in between would lose both."""
    x0 = torch.full((4, 2), 256.0, dtype=torch.bfloat16)  # its neighbours are at distances 1 and 2
    sampler = fl.Langevin(score=lambda x: 0.75 * torch.ones_like(x), n_steps=1, noise_std=0.75, seed=SEED)
    x = sampler.with_last_step(x0)
    assert x.dtype == torch.bfloat16 and torch.equal(x, sampler(x0, step=0))
    z = fl.noise.normal((4, 2), seed=SEED, step=0)
    assert torch.equal(x, (256 + 0.75 + 0.75 * z).bfloat16())
    assert not torch.equal(x, ((x0 + 0.75).bfloat16() + 0.75 * z).bfloat16())


def test_gradient_modes_and_what_is_unchanged():
    net = network()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    sampler = fl.Langevin(log_density=net, n_steps=2, seed=SEED)
    with torch.no_grad():
        without = sampler.with_last_step(start())
    assert not without.requires_grad
    with torch.inference_mode():
        inside = sampler.with_last_step(start(), step=0)
    assert torch.equal(inside, without) and torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    once = fl.Langevin(log_density=net, n_steps=1, noise_first=True, seed=SEED)
    with torch.inference_mode():
        once.with_last_step(start())


@pytest.mark.parametrize("at", [1, 3])
def test_divergence(at):
    calls = []

    def energy(x):
        calls.append(1)
        return (x * (math.nan if len(calls) == at else 1.0)).square().sum(1)

    sampler = fl.Langevin(energy, n_steps=3, step_size=0.1, noise_std=0.01, seed=SEED, engine="autograd")
    with pytest.raises(fl.ChainDiverged, match="5 of 5 chains are not finite"):
        sampler.with_last_step(start())
