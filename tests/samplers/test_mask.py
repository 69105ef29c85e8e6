"""Elements that stay as they are, and inpainting."""

from __future__ import annotations

import math

import pytest
import torch
from support.differentiable_chain import SEED, piecewise, smooth
from support.fake_capture import FakeCapture
from support.langevin_reference import FLOAT64, normal, quadratic

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MASK = torch.rand(5, 4, generator=torch.Generator().manual_seed(2)) < 0.5
ORDERS = {
    "noise after the score": {},
    "noise first": {"noise_first": True},
    "noise first, clamped": {"noise_first": "clamp"},
    "noise last": {"noise_last": True},
}


def loop(x, net, mask, n_steps=6, eta=0.3, sigma=0.2, bounds=(-0.6, 0.7), noise_first=False, noise_last=False):
    """The plain loop, differentiable, which restores the kept elements after each change."""
    for k in range(n_steps):
        z = normal(x.shape, k, seed=SEED).double()
        if noise_first:
            noisy = x + sigma * z
            x = torch.where(mask, x, noisy.clamp(*bounds) if noise_first == "clamp" else noisy)
        score = torch.autograd.grad(net(x).sum(), x, create_graph=True)[0]
        moved = x + eta * score
        if not noise_first and not noise_last:
            moved = moved + sigma * z
        moved = moved.clamp(*bounds)
        x = torch.where(mask, x, moved + sigma * z if noise_last else moved)
    return x


@pytest.mark.parametrize("network", [smooth, piecewise])
@pytest.mark.parametrize("order", ORDERS)
def test_against_the_plain_loop(order, network):
    """In float64; kept elements outside the bounds stay there. The gradient is that through the loop."""
    net, x0 = network(), X.clone().requires_grad_()
    expected = loop(x0, net, MASK, **ORDERS[order])
    options = dict(n_steps=6, step_size=0.3, noise_std=0.2, bounds=(-0.6, 0.7), seed=SEED, **ORDERS[order])
    sampler = fl.Langevin(log_density=net, **options)
    x = sampler(x0, mask=MASK)
    torch.testing.assert_close(x, expected, **FLOAT64)
    assert torch.equal(x[MASK], X[MASK]) and (X[MASK].abs() > 0.7).any()
    v = torch.randn(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    got, wanted = (torch.autograd.grad(each, x0, v)[0] for each in (x, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def test_any_mask_that_broadcasts():
    sampler = fl.Langevin(quadratic, n_steps=3, seed=1)
    for mask in (MASK[0], MASK[:, :1], torch.tensor(True), torch.tensor(False)):
        assert torch.equal(sampler(X, mask=mask, step=0), sampler(X, mask=mask.expand(5, 4).clone(), step=0))
    assert torch.equal(sampler(X, mask=torch.tensor(True)), X)
    assert torch.equal(sampler(X, mask=torch.tensor(False), step=0), sampler(X, step=0))


def test_kernels_that_run_whole_chains_are_not_used():
    x0, net = X.float(), fl.models.MLP(4)
    sampler = fl.Langevin(log_density=net, n_steps=5, seed=1)
    kept = sampler(x0, mask=MASK)
    assert sampler._score._last.explanation.engine == "mlp" and torch.equal(kept[MASK], x0[MASK])
    assert (kept[~MASK] != x0[~MASK]).all()


@pytest.mark.parametrize("unroll", [1, 2, 6])
def test_captured_chains_read_the_mask_of_each_call(unroll):
    FakeCapture.made = []
    eager, replayed = (fl.Langevin(quadratic, n_steps=6, step_size=0.1, noise_std=0.1, seed=1) for _ in range(2))
    replayed._graphs = GraphCache(True, unroll, FakeCapture, "cpu")
    for mask in (MASK, ~MASK):
        assert torch.equal(replayed(X, mask=mask), eager(X, mask=mask))
    assert len(FakeCapture.made) == 1
    assert torch.equal(replayed(X), eager(X))
    assert len(FakeCapture.made) == 2


def test_inpainting_samples_the_conditional_density():
    """Of a Gaussian with correlation ρ given x_1: mean ρx_1 and, of unadjusted Langevin dynamics in one dimension with
    precision λ = 1 / (1 - ρ²), variance 1 / λ / (1 - ηλ/2). Four standard errors.
    """
    rho, eta, n = 0.8, 0.05, 20_000
    variance = (1 - rho**2) / (1 - eta / (1 - rho**2) / 2)
    energy = fl.energies.Gaussian(torch.zeros(2), torch.tensor([[1.0, rho], [rho, 1.0]]))
    sampler = fl.Langevin(energy, n_steps=60, step_size=eta, noise_std=None, seed=1)
    x = torch.tensor([1.5, math.nan]).expand(n, 2)
    got = fl.inpaint(sampler, x, torch.tensor([True, False]))
    assert (got[:, 0] == 1.5).all() and sampler.step == 60
    assert abs(got[:, 1].mean() - rho * 1.5) < 4 * math.sqrt(variance / n)
    assert abs(got[:, 1].var() / variance - 1) < 4 * math.sqrt(2 / n)


def test_inpainting_starts_where_sample_does():
    sampler = fl.Langevin(lambda x, y: quadratic(x) * y, n_steps=4, seed=1)
    given = dict(kwargs={"y": 2.0}, step=3)
    nothing = fl.inpaint(sampler, torch.zeros(5, 3), torch.tensor(False), **given)
    assert torch.equal(nothing, sampler.sample((5, 3), **given))
    mask = torch.rand(5, 3) < 0.5
    whole = fl.inpaint(sampler, torch.ones(5, 3), mask, **given)
    part = fl.inpaint(sampler, torch.ones(2, 3), mask[3:], chain_offset=3, **given)
    assert torch.equal(whole[3:], part)


def test_bad_masks():
    sampler = fl.Langevin(quadratic, n_steps=2, seed=1)
    with pytest.raises(TypeError, match=r"mask must be a bool tensor, got torch.float32 \(5, 4\)"):
        sampler(X, mask=MASK.float())
    with pytest.raises(ValueError, match=r"mask must broadcast to the states' shape \(5, 4\), got \(3,\)"):
        sampler(X, mask=MASK[0, :3])
    with pytest.raises(ValueError, match="mask is on meta and the states on cpu"):
        sampler(X, mask=MASK.to("meta"))
    with pytest.raises(TypeError, match="mask must be a tensor, got list"):
        fl.inpaint(sampler, X, [True])
    with pytest.raises(ValueError, match="x0 must be finite"):
        fl.inpaint(sampler, X / 0, MASK)
    assert sampler.step == 0
