"""On a GPU: training, its synchronization, and resuming on another device."""

from __future__ import annotations

import pytest
import torch

import fastlangevin as fl
from fastlangevin import kernels
from fastlangevin.data import digits
from fastlangevin.runs import checkpoint
from fastlangevin.training import iteration_graph
from fastlangevin.training.iteration_graph import IterationGraph

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def test_training_and_resuming(tmp_path):
    options = {"out": tmp_path, "batch_size": 8, "features": 4, "sampler": {"n_steps": 3}, "progress": False}
    result = fl.train("digits", n_iterations=3, device="cuda", **options)
    assert next(result.model.parameters()).is_cuda
    again = fl.train("digits", n_iterations=5, device="cuda", resume=True, out=tmp_path, progress=False)
    assert again.history[-1]["iteration"] == 5


@pytest.mark.parametrize("from_host", [False, True], ids=["data-on-the-gpu", "data-on-the-host"])
@pytest.mark.parametrize("log_every", [100, 1])
def test_an_iteration_does_not_synchronize(monkeypatch, from_host, log_every):
    """Between the sixth iteration and the last, logging included, torch detects no synchronization."""
    if kernels.select(None, torch.device("cuda")).name == "reference":
        pytest.skip("the reference backend, the only one available here, copies its coefficients synchronously")
    first, last = 5, 12  # from the first replay on
    step = IterationGraph.step
    strict = []

    def step_under_watch(self):
        watched = first <= self._state.iteration < last
        assert self.declined is None
        torch.cuda.set_sync_debug_mode("error" if watched else "default")
        strict.append(watched)
        return step(self)

    monkeypatch.setattr(IterationGraph, "step", step_under_watch)
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


@pytest.mark.parametrize("options", [{}, {"start": "buffer", "buffer": {"capacity": 64}, "ema": 0.9}], ids=str)
def test_captured_iterations_train_like_others(monkeypatch, options):
    """In float64, but for a state whose rounding to float32 another order of sums has changed."""
    data = torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
    given = {"n_iterations": 12, "batch_size": 16, "sampler": {"n_steps": 5}, "progress": False, "device": "cuda"}
    replay, replays = torch.cuda.CUDAGraph.replay, []
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda self: (replays.append(self), replay(self))[1])

    def run():
        torch.manual_seed(1)
        replays.clear()
        result = fl.train(data, fl.models.MLP(2, (32,)).double(), log_every=100, **given, **options)
        network = result.model if result.ema is None else result.ema
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    captured = run()
    assert len(replays) == 12 - 3 and len(set(map(id, replays))) == 1
    monkeypatch.setattr(iteration_graph, "_unsupported", lambda *_: "left out")
    assert torch.allclose(captured, run(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_continues_on_another_device(tmp_path, first, second):
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
