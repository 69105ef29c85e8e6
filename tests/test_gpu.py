"""On a GPU, through the reference backend: the same noise and updates as on a CPU, chains, and training."""

from __future__ import annotations

import pytest
import torch

import fastlangevin as fl
from fastlangevin import checkpoint, kernels, training
from fastlangevin.data import digits

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


@pytest.mark.parametrize("from_host", [False, True], ids=["data-on-the-gpu", "data-on-the-host"])
@pytest.mark.parametrize("log_every", [100, 1])
def test_a_steady_iteration_waits_for_nothing(monkeypatch, from_host, log_every):
    """Between the second iteration and the last, logging included, nothing that torch can tell makes the host wait."""
    if kernels.select(None, torch.device("cuda")).name == "reference":
        pytest.skip("the reference backend, which is all there is here, copies its coefficients synchronously")
    first, last = 2, 9
    step = training._Trainer.step
    strict = []

    def step_under_watch(self):
        watched = first <= self.iteration < last
        torch.cuda.set_sync_debug_mode("error" if watched else "default")
        strict.append(watched)
        return step(self)

    monkeypatch.setattr(training._Trainer, "step", step_under_watch)
    data = digits()[0]
    if from_host:
        data = torch.utils.data.TensorDataset(data)
    options = {"batch_size": 8, "features": 4, "sampler": {"n_steps": 3}, "progress": False, "device": "cuda"}
    try:
        result = fl.train(data, n_iterations=last + 1, log_every=log_every, value_range=(-1, 1), **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sum(strict) == last - first
    assert [row["iteration"] for row in result.history] == list(range(1, last + 2) if log_every == 1 else [last + 1])


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_goes_on_on_another_device(tmp_path, first, second):
    options = {"batch_size": 8, "features": 4, "sampler": {"n_steps": 3}, "progress": False}
    fl.train("digits", out=tmp_path, n_iterations=3, device=first, **options)
    fl.train("digits", out=tmp_path, n_iterations=6, device=second, resume=True, progress=False)
    tensors, meta = checkpoint.load(checkpoint.newest(tmp_path / "checkpoints"))
    assert meta["optimizer_groups"][0]["capturable"] is (second == "cuda")
    assert tensors["optimizer.0.step"] == 6


def test_adam_is_capturable():
    options = {"batch_size": 8, "features": 4, "sampler": {"n_steps": 3}, "progress": False}
    optimizers = []
    init = torch.optim.Adam.__init__

    def spy(self, *args, **kwargs):
        init(self, *args, **kwargs)
        optimizers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "__init__", spy)
        fl.train("digits", n_iterations=1, device="cuda", **options)
    (adam,) = optimizers
    assert all(state["step"].is_cuda for state in adam.state.values())
