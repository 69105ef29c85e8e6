"""On a GPU, through the reference backend: the same noise and updates as on a CPU, chains, and training."""

from __future__ import annotations

import pytest
import torch

import fastlangevin as fl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("draw", [fl.noise.normal, fl.noise.uniform])
def test_noise_bits(draw):
    key = {"seed": 2**64 - 5, "step": 7, "stream": 2, "offset": 2**34 - 3}
    assert torch.equal(draw((5, 1001), device="cuda", **key).cpu(), draw((5, 1001), **key))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_update_bits(dtype):
    x, score = (torch.randn(33, 65, dtype=torch.float64).to(dtype) for _ in range(2))
    options = {"seed": 1, "step": 2, "grad_clip": 0.7, "bounds": (-1.0, 1.5)}
    got = fl.langevin_update_(x.cuda(), score.cuda(), 0.3, 0.2, **options)
    assert torch.equal(got.cpu(), fl.langevin_update_(x.clone(), score, 0.3, 0.2, **options))


def test_chain_agrees_with_the_cpu_to_rounding():
    net = fl.models.ConvNet(8, 1, 8).double()
    x0 = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    expected = fl.Langevin(log_density=net, n_steps=5, seed=1)(x0)
    got = fl.Langevin(log_density=net.cuda(), n_steps=5, seed=1)(x0.cuda())
    assert torch.allclose(got.cpu(), expected, atol=1e-9)


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
        fl.Langevin(energy, n_steps=1, precision=precision, seed=1)(torch.zeros(1, 2, device="cuda"))
    assert seen == [("ieee", "ieee"), ("tf32", "tf32")]
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_training_and_resuming(tmp_path):
    options = {"out": tmp_path, "batch_size": 8, "features": 4, "sampler": {"n_steps": 3}, "progress": False}
    result = fl.train("digits", n_iterations=3, device="cuda", **options)
    assert next(result.model.parameters()).is_cuda
    again = fl.train("digits", n_iterations=5, device="cuda", resume=True, out=tmp_path, progress=False)
    assert again.history[-1]["iteration"] == 5
