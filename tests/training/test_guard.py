"""Detection of divergence, and rollback."""

from __future__ import annotations

import json

import pytest
import torch
from support.error_bounds import gamma
from torch import nn

import fastlangevin as fl
from fastlangevin.runs import checkpoint
from fastlangevin.training import guard as guards

SMALL = {"features": 4, "batch_size": 8, "sampler": {"n_steps": 5}, "sample_steps": 5, "progress": False}


class Late:
    """Replaces a copy from a GPU by one that arrives only when it is waited for."""

    def __init__(self, x):
        self._x = x

    def arrived(self):
        return False

    def value(self):
        return self._x


def numbers(data, samples):
    return torch.tensor(data), torch.tensor(samples)


@pytest.mark.parametrize(
    ("energies", "x", "words"),
    [
        ((float("nan"), 0.0), 0.0, "the energies are not finite .*lower lr"),
        ((0.0, float("inf")), 0.0, "the energies are not finite"),
        ((9.0, -2.0), 0.0, r"are \+11 apart \(max_energy_gap=10\): lower lr, raise energy_penalty"),
        ((-9.0, 2.0), 0.0, "are -11 apart"),
        ((0.0, 0.0), 11.0, "100.0% of the samples' values are outside -10 … 10"),
    ],
)
def test_divergence(energies, x, words):
    guard = guards.Guard(10.0, 0.99, None, (-1.0, 1.0))
    guard.look(1, *numbers(9.0, -0.9), torch.zeros(4, 3))
    with pytest.raises(fl.TrainingDiverged, match=f"training diverged at iteration 2: .*{words}") as caught:
        guard.look(2, *numbers(*energies), torch.full((4, 3), x))
    assert caught.value.iteration == 2 and isinstance(caught.value, fl.ChainDiverged)


def test_saturation_is_measured_on_the_bounds():
    guard = guards.Guard(10.0, 0.75, (0.0, 1.0), (0.0, 1.0))
    guard.look(1, *numbers(0.0, 0.0), torch.tensor([[0.0, 1.0, 0.5, 0.999]]))
    with pytest.raises(fl.TrainingDiverged, match="75.0% of the samples' values are on the bounds"):
        guard.look(2, *numbers(0.0, 0.0), torch.tensor([[0.0, 1.0, 0.5, 1.0]]))


def test_no_limits():
    guard = guards.Guard(None, None, (0.0, 1.0), (0.0, 1.0))
    guard.look(1, *numbers(1e30, 0.0), torch.zeros(3))
    with pytest.raises(fl.TrainingDiverged, match="not finite"):
        guard.look(2, *numbers(float("inf"), 0.0), torch.zeros(3))


def test_late_values_are_checked_one_iteration_later(monkeypatch):
    monkeypatch.setattr(guards, "ToHost", Late)
    guard = guards.Guard(10.0, None, None, (-1.0, 1.0))
    guard.look(1, *numbers(99.0, 0.0), torch.zeros(3))
    with pytest.raises(fl.TrainingDiverged, match="iteration 1:"):
        guard.look(2, *numbers(0.0, 0.0), torch.zeros(3))
    guard.look_at_all()
    guard.look(3, *numbers(99.0, 0.0), torch.zeros(3))
    with pytest.raises(fl.TrainingDiverged, match="iteration 3:"):
        guard.look_at_all()


class Trap(fl.models.ConvNet):
    """Returns NaN for the batches of training with these numbers: 1 is the initial check, then two per iteration."""

    def __init__(self, *numbers: int) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__(8, 1, 4)
        self.numbers, self.calls = numbers, 0

    def forward(self, x):
        f = super().forward(x)
        if torch.is_grad_enabled() and not x.requires_grad:
            self.calls += 1
            if self.calls in self.numbers:
                return f * float("nan")
        return f


def train(out, model, **options):
    options = {
        **SMALL,
        "checkpoint_every": 2,
        "log_every": 1,
        "lr": 1e-3,
        "lr_decay": 0.0,
        "n_iterations": 8,
        **options,
    }
    return fl.train("digits", model, out=out, **options)


def test_raises_with_advice_and_the_last_good_checkpoint(tmp_path):
    with pytest.raises(
        fl.TrainingDiverged, match=r"iteration 5: .*00000004\.safetensors was saved before the divergence"
    ):
        train(tmp_path, Trap(10))


def test_rolls_back_with_a_new_seed_and_half_the_lr(tmp_path, capsys):
    result = train(tmp_path, Trap(11), on_divergence="rollback", progress=True)
    (record,) = result.rollbacks
    assert record["iteration"] == 5 and record["back_to"] == 4 and record["lr"] == 5e-4
    assert "not finite" in record["reason"] and record["seed"] != 1
    assert [json.loads(line) for line in (tmp_path / "rollbacks.jsonl").read_text().splitlines()] == [record]
    assert [row["iteration"] for row in result.history] == list(range(1, 9))
    assert "diverged at iteration 5" in capsys.readouterr().out.replace("\n", " ")
    meta = checkpoint.load(checkpoint.newest(tmp_path / "checkpoints"))[1]
    assert meta["attempt"] == 1 and meta["sampler"]["seed"] == record["seed"] == result.sampler.seed
    assert meta["optimizer_groups"][0]["lr"] == 5e-4
    assert all(p.isfinite().all() for p in result.model.parameters())

    clean = train(tmp_path / "clean", Trap())
    first, second = ([row["energy_samples"] for row in r.history] for r in (clean, result))
    assert first[:4] == second[:4] and first[4:] != second[4:]


def test_raises_after_max_rollbacks(tmp_path):
    with pytest.raises(fl.TrainingDiverged, match="iteration 5"):
        train(tmp_path, Trap(10, 13), on_divergence="rollback", max_rollbacks=1)
    assert len((tmp_path / "rollbacks.jsonl").read_text().splitlines()) == 1


def test_a_resume_after_a_rollback_is_bit_for_bit(tmp_path):
    options = {"on_divergence": "rollback"}
    whole = train(tmp_path / "whole", Trap(11), **options)
    train(tmp_path / "parts", Trap(11), **options, n_iterations=6)
    parts = train(tmp_path / "parts", Trap(), **options, resume=True)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_buffer_is_rolled_back_too(tmp_path):
    options = {"on_divergence": "rollback", "start": "buffer", "buffer": {"capacity": 16}, "n_iterations": 5}
    result = train(tmp_path, Trap(11), **options)
    tensors, meta = checkpoint.load(tmp_path / "checkpoints" / "00000004.safetensors")
    assert (
        meta["buffer"]["step"] == 8 and meta["buffer"]["seed"] == result.rollbacks[0]["seed"] == meta["sampler"]["seed"]
    )
    assert tensors["buffer.counts"].tolist() == [32]


def test_a_gap_beyond_the_limit_is_detected_immediately(tmp_path):
    with pytest.raises(fl.TrainingDiverged, match="apart .max_energy_gap=0.0001"):
        train(tmp_path, None, max_energy_gap=1e-4)


def test_chains_that_are_not_finite_are_rolled_back_too(tmp_path):
    class Exploding(fl.models.ConvNet):
        calls = 0

        def forward(self, x):
            self.calls += 1
            f = super().forward(x)
            return f * float("nan") if 60 < self.calls < 66 else f

    result = train(tmp_path, Exploding(8, 1, 4), on_divergence="rollback", max_rollbacks=5)
    assert result.rollbacks and result.history[-1]["iteration"] == 8


def test_diagnostics_of_a_row():
    """energy_gap, score_norm and gradient_strength against their definitions, on an energy whose score is known. States
    are exact: a step halves them. Then come at most 70 roundings in a row: norms or squares of two elements, and means
    of 64.
    """

    class Quadratic(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Parameter(torch.tensor(0.25))

        def forward(self, x):
            return -self.c * x.square().sum(1)

    points = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)).mul(256).round().div(256).clamp(-4, 4)
    sampler = {"n_steps": 8, "step_size": 1.0, "noise_std": 0.0}
    options = {"n_iterations": 1, "batch_size": 64, "lr": 1e-20, "data_noise": 0.0, "value_range": (-4, 4)}
    (row,) = fl.train(points, Quadratic(), sampler=sampler, progress=False, **options).history
    x0 = 2 * fl.noise.uniform((64, 2), seed=1, step=0, stream=1).double() - 1
    u = lambda x: 0.25 * x.square().sum(1)
    last = x0 * 0.5**8
    data, samples = u(points.double() / 4).mean(), u(last).mean()
    assert abs(row["energy_gap"] - (data - samples)) <= gamma(70) * (data + samples)
    score_norm = 0.5 * last.norm(dim=1).mean()
    assert abs(row["score_norm"] - score_norm) <= gamma(70) * score_norm
    strength = 0.5 * torch.stack([x0[:8] * 0.5**k for k in (0, 2, 4, 6)]).norm(dim=2).mean()
    assert abs(row["gradient_strength"] - strength) <= gamma(70) * strength
