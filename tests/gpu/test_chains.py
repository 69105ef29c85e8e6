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


def test_divergence_is_raised_by_the_next_call_or_check():
    sampler = fl.Langevin(lambda x: -(x**4).sum(1), n_steps=9, step_size=1.0, noise_std=0.0, seed=1)
    x0 = torch.ones(3, 1, device="cuda")
    sampler(x0)
    with pytest.raises(fl.ChainDiverged, match="3 of 3 chains"):
        sampler.check()
    sampler.check()
    sampler(x0)
    with pytest.raises(fl.ChainDiverged, match="3 of 3 chains"):
        sampler(x0)


def test_tf32_is_off_for_fp32_and_flags_are_restored():
    seen = []

    def energy(x):
        seen.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision))
        return x.square().sum(1)

    before = torch.backends.cudnn.conv.fp32_precision
    for precision in ("fp32", "tf32"):
        fl.Langevin(energy, n_steps=1, precision=precision, graph=False, seed=1)(torch.zeros(1, 2, device="cuda"))
    assert seen == [("ieee", "ieee"), ("tf32", "tf32")]
    assert torch.backends.cudnn.conv.fp32_precision == before
