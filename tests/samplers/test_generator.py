"""The short run as a generator: reconstruction, against gradient descent through a plain loop, and interpolation."""

from __future__ import annotations

import copy
import inspect
import math

import pytest
import torch
from support.adam_steps import recorded_gradients
from support.differentiable_chain import OPTIONS, piecewise, plain_chain, smooth
from support.error_bounds import gamma
from torch import nn

import fastlangevin as fl


def points(n=6, d=4, dtype=torch.float64, seed=5):
    return torch.randn(n, d, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def sampler_of(net=None, **options):
    options = {"n_steps": 5, "step_size": 0.6, "noise_std": 0.3, "seed": 3, **options}
    return fl.Langevin(log_density=net or smooth(), **options)


def latents_along(net, x, z, gradients, lr, tolerance, eta=lambda k: 0.6, **options):
    """The latents of Adam along `gradients`, from z, and the MSE of each by the plain chain in float64.

    Adam divides a gradient by its own size, so that a rounding may grow without a bound on the way. So each gradient is
    compared with the plain chain's at its latent, to `tolerance` of its norm, and the step is along the former: the
    latents have the same bits.
    """
    z, latents, mse = z.clone().requires_grad_(), [], []
    adam = torch.optim.Adam([z], betas=(0.9, 0.999), eps=1e-8)
    for i in range(len(gradients) + 1):
        leaf = z.detach().double().requires_grad_()
        loss = (x.double() - plain_chain(net, leaf, 5, eta, 0.0, **options)).square().sum(1)
        latents.append(z.detach().clone())
        mse.append(loss.detach() / x.shape[1])
        if i < len(gradients):
            (expected,), (z.grad,) = torch.autograd.grad(loss.sum(), leaf), gradients[i]
            assert (z.grad - expected).norm() <= tolerance * expected.norm()
            adam.param_groups[0]["lr"] = lr * (1 - i / len(gradients))
            adam.step()
    return torch.stack(latents), torch.stack(mse)


@pytest.mark.parametrize("engine", ["auto", "autograd"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("network", [smooth, piecewise])
def test_reconstruct_is_adam_through_the_plain_chain(network, options, engine):
    """In float64, whose roundings of 2^-53 five steps of sums of at most 9 terms, and their gradients, magnify by some
    10^3: 10^-10 of a gradient's norm is 10^3 times that once more.
    """
    net, options, x, n, lr = network(), OPTIONS[options], 0.7 * points(), 25, 0.2

    def eta(k):
        return 0.5 + 0.1 * k

    sampler = sampler_of(net, step_size=eta, noise_std=[0.3] * 5, engine=engine, **options)
    with recorded_gradients() as gradients:
        found = fl.reconstruct(sampler, x, n_iterations=n, lr=lr)
    assert len(gradients) == n
    z = sampler.initial(x.shape, step=0, dtype=torch.float64)
    latents, mse = latents_along(net, x, z, gradients, lr, 1e-10, eta, **options)
    best = mse.argmin(0)
    assert torch.equal(found.z, latents[best, torch.arange(len(x))])
    torch.testing.assert_close(found.mse, mse.amin(0), rtol=1e-10, atol=1e-13)


def test_images_of_the_generator_are_reconstructed():
    """To the length of Adam's last step, lr / n_iterations an element."""
    sampler = sampler_of(step_size=0.2)
    quiet = sampler_of(step_size=0.2, noise_std=0.0)
    made = quiet(0.5 * points())
    found = fl.reconstruct(sampler, made, n_iterations=200, lr=0.1)
    assert found.mse.max() < (0.1 / 200) ** 2
    assert torch.equal(quiet(found.z), found.x)
    assert torch.equal(found.mse, (found.x - made).square().mean(1))


@pytest.mark.parametrize("lr", [0.1, 30.0])
def test_the_best_latent_is_kept(lr):
    """Also if the steps are far too long, and the last latent is the worst."""
    x, sampler = 0.5 * points(), sampler_of()
    best = [fl.reconstruct(sampler, x, n_iterations=n, lr=lr).mse for n in (1, 40)]
    start = (sampler_of(noise_std=0.0)(sampler.initial(x.shape, step=0, dtype=x.dtype)) - x).square().mean(1)
    assert (best[0] <= start).all() and (best[1] <= start).all()
    assert lr > 1 or (best[1] < 0.1 * start).all()


def test_a_latent_whose_chain_is_not_finite_returns_to_the_best():
    """Against a plain loop with a chain that falls off a cliff on the way."""

    def cliff(x):
        return torch.where(x.abs() > 2, torch.nan, -x)

    start = lambda shape, **_: torch.full(shape, 1.9)
    sampler = fl.Langevin(score=cliff, n_steps=1, step_size=0.1, noise_std=0.0, seed=1, init=start)
    x, n, lr = torch.full((1, 2), 3.0), 6, 0.5
    z = torch.full((1, 2), 1.9).requires_grad_()
    adam = torch.optim.Adam([z], lr=lr)
    best, least, fell = z.detach().clone(), torch.inf, 0
    for i in range(n + 1):
        y = z.detach() + 0.1 * cliff(z.detach())
        mse = (y - x).square().mean()
        if mse < least:
            best, least = z.detach().clone(), mse
        fell += not mse.isfinite()
        z.grad = 2 * (y - x) * 0.9 if mse.isfinite() else torch.zeros_like(x)
        with torch.no_grad():
            z.copy_(z if mse.isfinite() else best)
        adam.param_groups[0]["lr"] = lr * (1 - i / n)
        adam.step()
    assert fell
    torch.testing.assert_close(fl.reconstruct(sampler, x, n_iterations=n, lr=lr).z, best)


def test_the_default_number_of_iterations():
    assert inspect.signature(fl.reconstruct).parameters["n_iterations"].default == 200


def test_an_image_does_not_depend_on_the_others():
    """In float64: a library may add up another batch in another order, and Adam magnify roundings of 2^-53 by at most
    1 / ε = 10^8, where a gradient is all but 0.
    """
    x, sampler = points(7), sampler_of()
    whole = fl.reconstruct(sampler, x, n_iterations=30)
    part = fl.reconstruct(sampler, x[4:6], n_iterations=30, chain_offset=4)
    alone = fl.reconstruct(sampler, x[5:6], n_iterations=30, chain_offset=5)
    for name in ("z", "x", "mse"):
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[4:6], rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(getattr(alone, name), getattr(whole, name)[5:6], rtol=1e-7, atol=1e-7)


def test_no_side_effects():
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.0), nn.Linear(8, 1)).double().train()
    sampler, x = sampler_of(net), points().requires_grad_()
    first = fl.reconstruct(sampler, x, n_iterations=5)
    sampler(points())
    state, random, modes = sampler.state_dict(), torch.get_rng_state(), [m.training for m in net.modules()]
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            again = fl.reconstruct(sampler, x, n_iterations=5)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not any(tensor.requires_grad or tensor.is_inference() for tensor in again)
    fl.interpolate(sampler, first.z, again.z)
    assert sampler.state_dict() == state and sampler.noise_std == 0.3
    assert torch.equal(torch.get_rng_state(), random) and [m.training for m in net.modules()] == modes
    assert x.grad is None and x.requires_grad and all(p.grad is None for p in net.parameters())
    with torch.inference_mode():
        inside = points()
    assert torch.equal(fl.reconstruct(sampler, inside, n_iterations=5).mse, first.mse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    """float32, also for images of 16 bits: gradients are float64's to 10^-3 of their norm, 10^4 roundings."""
    net, x = smooth().float(), points(dtype=dtype)
    sampler = sampler_of(net)
    with recorded_gradients() as gradients:
        found = fl.reconstruct(sampler, x, n_iterations=50, lr=0.1)
    assert {t.dtype for t in found} == {torch.float32}
    assert all(map(torch.equal, found, fl.reconstruct(sampler, x.float(), n_iterations=50, lr=0.1)))
    z = sampler.initial(x.shape, step=0)
    latents, _ = latents_along(copy.deepcopy(net).double(), x, z, gradients, 0.1, 1e-3)
    assert all((latents[:, i] == found.z[i]).all(1).any() for i in range(len(x)))
    assert torch.equal(found.mse, (found.x - x.float()).square().mean(1))
    assert fl.interpolate(sampler, x, -x).dtype == dtype


def test_score_only_and_extra_arguments():
    """Latents are found to the length of Adam's last step, lr / n_iterations. From there the chain's three
    steps, x ← 0.7 x + 0.3 label, are rounded in float64: five times each, and as often where they are written out.
    """
    sampler = fl.Langevin(score=lambda x, label: label - x, n_steps=3, step_size=0.3, noise_std=0.1, seed=1)
    x, label = points(3), torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    found = fl.reconstruct(sampler, x, label, n_iterations=500, lr=0.5)
    torch.testing.assert_close(found.z, (x - label * (1 - 0.7**3)) / 0.7**3, rtol=0, atol=0.5 / 500)
    path = fl.interpolate(sampler, found.z, -found.z, label, n=3)
    expected = 0.7**3 * (0.5 - math.sqrt(0.75)) * found.z + label * (1 - 0.7**3)
    rounding = gamma(30, torch.float64) * (2 * found.z.abs() + label).max()
    assert ((path[:, 1] - expected).abs() <= rounding).all() and rounding < 1e-11


def cliff(x):
    """A score that is 0 below 1.5 and NaN above."""
    return 0 * torch.log(1.5 - x)


class TestDivergence:
    sampler = fl.Langevin(score=cliff, n_steps=2, noise_std=0.1, seed=1)

    def test_an_image_returns_to_its_best_latent(self):
        x = torch.tensor([[0.3, 0.2], [1.4, -0.2], [-0.1, 0.4]])
        found = fl.reconstruct(self.sampler, x, n_iterations=200, lr=1.0)
        assert found.z.isfinite().all() and found.mse.max() < (1.0 / 200) ** 2  # the length of Adam's last step
        others = fl.reconstruct(self.sampler, torch.where(x == 1.4, 0.5, x), lr=1.0)
        assert torch.equal(found.z[[0, 2]], others.z[[0, 2]])

    def test_a_chain_from_p0_that_is_not_finite(self):
        far = fl.Langevin(score=cliff, n_steps=2, seed=1, init=lambda shape, **_: torch.full(shape, 9.0))
        with pytest.raises(fl.ChainDiverged, match="3 of 3 chains are not finite"):
            fl.reconstruct(far, torch.zeros(3, 2))

    def test_interpolate(self):
        z = torch.tensor([[0.1, 0.1], [9.0, 0.1]])
        with pytest.raises(fl.ChainDiverged, match="1 of 2 chains"):
            fl.interpolate(self.sampler, z, z)


@pytest.mark.parametrize(
    ("x", "options", "error", "words"),
    [
        (torch.zeros(0, 1, 8, 8), {}, ValueError, "x must hold at least one image, got shape"),
        (torch.zeros(2, 1, 16, 16), {}, ValueError, r"x must be \(B, 1, 8, 8\), got \(2, 1, 16, 16\)"),
        (torch.full((2, 1, 8, 8), math.nan), {}, ValueError, "x must be finite"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), {}, TypeError, "x must be a float32"),
        (torch.zeros(2, 1, 8, 8, device="meta"), {}, ValueError, "x is on meta and the log_density on cpu"),
        (torch.zeros(2, 1, 8, 8), {"n_iterations": 0}, ValueError, "n_iterations must be an int of at least 1"),
        (torch.zeros(2, 1, 8, 8), {"lr": 0}, ValueError, "lr must be positive and finite, got 0"),
        (torch.zeros(2, 1, 8, 8), {"lr": math.inf}, ValueError, "lr must be positive"),
        (torch.zeros(2, 1, 8, 8), {"chain_offset": -1}, ValueError, "chain_offset must be"),
    ],
)
def test_errors_of_reconstruct(x, options, error, words):
    sampler = fl.Langevin(log_density=fl.models.ConvNet(8, 1, 2), n_steps=2, seed=1)
    with pytest.raises(error, match=words):
        fl.reconstruct(sampler, x, **options)


def test_a_network_is_not_a_sampler():
    z, network = torch.zeros(2, 1, 8, 8), fl.models.ConvNet(8, 1, 2)
    for call in (lambda: fl.reconstruct(network, z), lambda: fl.interpolate(network, z, z)):
        with pytest.raises(TypeError, match="sampler must be a Langevin, got ConvNet"):
            call()


def test_interpolate():
    z1, z2, sampler, quiet = points(3, seed=1), points(3, seed=2), sampler_of(), sampler_of(noise_std=0.0)
    x = fl.interpolate(sampler, z1, z2, n=5)
    assert x.shape == (3, 5, 4)
    assert torch.equal(x[:, 0], quiet(z2))
    assert torch.equal(x[:, 4], quiet(z1))
    assert torch.equal(x[:, 1], quiet(0.25 * z1 + math.sqrt(0.9375) * z2))
    assert torch.equal(x[:, 3], quiet(0.75 * z1 + math.sqrt(0.4375) * z2))


@pytest.mark.parametrize(
    ("z1", "z2", "n", "words"),
    [
        (points(3), points(2), 8, r"z1 and z2 must have one shape and dtype, got \(3, 4\) torch.float64 and \(2, 4\)"),
        (points(3), points(3).float(), 8, "z1 and z2 must have one shape and dtype"),
        (points(3), points(3) / 0, 8, "z2 must be finite"),
        (points(3), points(3), 1, "n must be an int of at least 2, got 1"),
    ],
)
def test_errors_of_interpolate(z1, z2, n, words):
    with pytest.raises(ValueError, match=words):
        fl.interpolate(sampler_of(), z1, z2, n=n)
