"""On a GPU: chains compared with those on a CPU, divergence, precision flags."""

from __future__ import annotations

import pytest
import torch

import fastlangevin as fl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def test_chain_agrees_with_the_cpu_to_rounding():
    """float64's: five steps magnify those of sums of at most 512 terms, γ_512 = 6e-14, some 100-fold."""
    net = fl.models.ConvNet(8, 1, 8).double()
    x0 = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    expected = fl.Langevin(log_density=net, n_steps=5, seed=1)(x0)
    got = fl.Langevin(log_density=net.cuda(), n_steps=5, seed=1)(x0.cuda())
    assert torch.allclose(got.cpu(), expected, rtol=1e-10, atol=1e-10)


def test_divergence_is_raised_by_a_later_call_or_check():
    sampler = fl.Langevin(lambda x: -(x**4).sum(1), n_steps=9, step_size=1.0, noise_std=0.0, seed=1)
    x0 = torch.ones(3, 1, device="cuda")
    sampler(x0)
    with pytest.raises(fl.ChainDiverged, match="3 of 3 chains"):
        sampler.check()
    sampler.check()
    sampler(x0)
    torch.cuda.synchronize()
    with pytest.raises(fl.ChainDiverged, match="3 of 3 chains"):
        sampler(x0)


def test_calls_queue():
    """The host is done with all calls while the GPU still runs the first."""
    sampler = fl.Langevin(lambda x: x.square().sum(1), n_steps=9, step_size=0.1, noise_std=0.1, seed=1)
    x = torch.ones(3, 1, device="cuda")
    sampler(x)
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000_000)  # cycles, half a second
    end = torch.cuda.Event()
    for _ in range(5):
        x = sampler(x)
    end.record()
    assert not end.query()
    sampler.check()


def test_tf32_is_off_for_fp32_and_flags_are_restored():
    """The precision of products and of convolutions; tests/score/test_precision_flags.py has the flags."""
    a, b = (torch.rand(256, 256, device="cuda") + 1 for _ in range(2))
    exact = (a.double() @ b.double()).float()
    image, kernel = a.view(1, 1, 256, 256), b[:1, :25].view(1, 1, 5, 5)
    convolved = torch.nn.functional.conv2d(image.double(), kernel.double()).float()
    # Each number has an error of at most 2^-24 of it in fp32; TF32 cuts each factor to 11 bits.
    seen = []

    def energy(x):
        products = ((a @ b - exact) / exact).abs().max()
        convolutions = ((torch.nn.functional.conv2d(image, kernel) - convolved) / convolved).abs().max()
        seen.append((products.item(), convolutions.item()))
        return x.square().sum(1)

    before = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.allow_tf32
    for precision in ("fp32", "tf32"):
        fl.Langevin(energy, n_steps=1, precision=precision, graph=False, seed=1)(torch.zeros(1, 2, device="cuda"))
    strict, fast = seen
    n = 256  # all terms are positive: the error of a sum is at most n + 1 roundings of it
    assert max(strict) <= (n + 1) * 2**-24
    assert fast[0] > strict[0] and fast[0] <= 2**-9 + (n + 1) * 2**-23
    assert (torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.allow_tf32) == before
