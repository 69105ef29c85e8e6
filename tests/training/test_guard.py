"""Detection of divergence, and rollback."""

from __future__ import annotations

import json

import pytest
import torch
from support.error_bounds import gamma
from torch import nn

import fastlangevin as fl
from fastlangevin.runs import checkpoint
from fastlangevin.training import gap_history
from fastlangevin.training import guard as guards
from fastlangevin.training.gap_history import GapHistory
from fastlangevin.training.state import TrainingState

SMALL = {"features": 4, "batch_size": 8, "sampler": {"n_steps": 5}, "sample_steps": 5, "progress": False}


class Late:
    """Replaces a copy from a GPU by one that arrives only when it is waited for."""

    is_asynchronous = True

    def __init__(self, x):
        self._x = x

    def arrived(self):
        return False

    def value(self):
        return self._x


def guard_of(gap=10.0, saturation=0.99, bounds=None, data_range=(-1.0, 1.0), relative=20.0):
    limits = {"max_energy_gap": gap, "max_saturation": saturation, "max_relative_gap": relative}
    return guards.Guard(GapHistory(), bounds, data_range=data_range, **limits)


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
    guard = guard_of()
    guard.look(1, guard.watch(*numbers(9.0, -0.9), torch.zeros(4, 3)))
    with pytest.raises(fl.TrainingDiverged, match=f"training diverged at iteration 2: .*{words}") as caught:
        guard.look(2, guard.watch(*numbers(*energies), torch.full((4, 3), x)))
    assert caught.value.iteration == 2 and isinstance(caught.value, fl.ChainDiverged)


def test_saturation_is_measured_on_the_bounds():
    guard = guard_of(saturation=0.75, bounds=(0.0, 1.0), data_range=(0.0, 1.0))
    guard.look(1, guard.watch(*numbers(0.0, 0.0), torch.tensor([[0.0, 1.0, 0.5, 0.999]])))
    with pytest.raises(fl.TrainingDiverged, match="75.0% of the samples' values are on the bounds"):
        guard.look(2, guard.watch(*numbers(0.0, 0.0), torch.tensor([[0.0, 1.0, 0.5, 1.0]])))


def test_samples_that_are_far_out_from_the_start_may_return():
    """As those of a linear log-density, whose chains drift by n_steps · step_size · ∇f until training has turned it."""
    guard, returned, resumed = guard_of(), guard_of(), guard_of()
    far, near = (guard.watch(*numbers(0.0, 0.0), torch.full((4, 3), x)) for x in (11.0, 0.0))
    for iteration in range(1, 101):
        guard.look(iteration, far)
    with pytest.raises(fl.TrainingDiverged, match="iteration 101: 100.0% of the samples' values"):
        guard.look(101, far)
    returned.look(1, far)
    returned.look(2, near)
    resumed._history.load_state_dict(returned._history.state_dict())
    with pytest.raises(fl.TrainingDiverged, match="iteration 3:"):
        resumed.look(3, far)


def test_no_limits():
    guard = guard_of(float("inf"), float("inf"), (0.0, 1.0), (0.0, 1.0))
    guard.look(1, guard.watch(*numbers(1e30, 0.0), torch.zeros(3)))
    with pytest.raises(fl.TrainingDiverged, match="not finite"):
        guard.look(2, guard.watch(*numbers(float("inf"), 0.0), torch.zeros(3)))


def test_late_values_are_checked_one_iteration_later(monkeypatch):
    monkeypatch.setattr(guards, "ToHost", Late)
    guard = guard_of(saturation=float("inf"))
    guard.look(1, guard.watch(*numbers(99.0, 0.0), torch.zeros(3)))
    with pytest.raises(fl.TrainingDiverged, match="iteration 1:"):
        guard.look(2, guard.watch(*numbers(0.0, 0.0), torch.zeros(3)))
    guard.look_at_all()
    guard.look(3, guard.watch(*numbers(99.0, 0.0), torch.zeros(3)))
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


def test_goes_further_back_each_time_it_diverges_again_soon(tmp_path, capsys):
    """It diverges four times at iteration 5: after the checkpoints of 4, 2 and 0."""
    result = train(tmp_path, Trap(10, 12, 18), on_divergence="rollback", n_iterations=22, progress=True)
    assert [(record["iteration"], record["back_to"]) for record in result.rollbacks] == [(5, 4), (5, 2), (5, 0)]
    assert [record["lr"] for record in result.rollbacks] == pytest.approx([5e-4, 2.5e-4, 1.25e-4])
    assert len({record["seed"] for record in result.rollbacks}) == 3
    assert [row["iteration"] for row in result.history] == list(range(1, 23))
    printed = capsys.readouterr().out.replace("\n", " ")
    assert printed.count("further back than the last time") == 2 and "back to iteration 2 (further" in printed
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        f"{i:08d}.safetensors" for i in (18, 20, 22)
    ]


def test_a_later_divergence_starts_again_from_the_newest_checkpoint(tmp_path):
    """With two checkpoints kept, iteration 15 is no longer soon after 5: back_to is the newest again."""
    options = {"on_divergence": "rollback", "n_iterations": 16, "keep_checkpoints": 2}
    result = train(tmp_path, Trap(10, 12 + 2 * 10), **options)
    assert [(record["iteration"], record["back_to"]) for record in result.rollbacks] == [(5, 4), (15, 14)]


def test_checkpoints_before_a_rollback_are_kept_while_it_is_suspect(tmp_path):
    """Iteration 9 is still soon after 5, and the checkpoints of 6 and 8 are newer than that of 4."""
    options = {"on_divergence": "rollback", "n_iterations": 10, "keep_checkpoints": 2}
    result = train(tmp_path, Trap(10, 12 + 2 * 4), **options)
    assert [(record["iteration"], record["back_to"]) for record in result.rollbacks] == [(5, 4), (9, 2)]


def test_a_divergence_that_develops_more_slowly_is_still_soon(tmp_path):
    """From iteration 0 it diverged after 5 iterations and, though no more checkpoints are kept, again after 17."""
    options = {"on_divergence": "rollback", "n_iterations": 18, "keep_checkpoints": 1}
    result = train(tmp_path, Trap(10, 12 + 2 * 16), checkpoint_every=5, **options)
    assert [(record["iteration"], record["back_to"]) for record in result.rollbacks] == [(5, 0), (17, 0)]


def test_returns_to_before_the_gaps_went_out_of_proportion(tmp_path, monkeypatch):
    """The energy of samples is off from iteration 9 on, which is noticed at 11: the checkpoints of 9 and 10 are bad."""
    monkeypatch.setattr(gap_history, "_FEWEST", 4)
    monkeypatch.setattr(gap_history, "_PATIENCE", 3)

    class Off(Trap):
        def forward(self, x):
            f = super().forward(x)
            off = torch.is_grad_enabled() and not x.requires_grad and self.calls in (19, 21, 23)
            return f + 1e3 if off else f

    result = train(tmp_path, Off(), on_divergence="rollback", n_iterations=12, checkpoint_every=1)
    (record,) = result.rollbacks
    assert (record["iteration"], record["back_to"]) == (11, 8) and "for 3 iterations" in record["reason"]
    assert "max_relative_gap=20" in record["reason"]
    with pytest.raises(fl.TrainingDiverged, match="00000008.* was saved before the divergence") as caught:
        train(tmp_path, Off(), overwrite=True, n_iterations=12, checkpoint_every=1)
    assert (caught.value.iteration, caught.value.since) == (11, 9)
    train(tmp_path, Off(), overwrite=True, n_iterations=12, max_relative_gap=float("inf"))


def test_killed_during_a_rollback(tmp_path, monkeypatch):
    """The resume repeats the divergence and the rollback, and ends with the weights of a run that was not killed."""
    options = {"on_divergence": "rollback"}
    whole = train(tmp_path / "whole", Trap(10, 12), **options)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "remove_after", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", Trap(10), **options)
    roll_back = TrainingState.roll_back
    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "roll_back", lambda *a: (roll_back(*a), killed()))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", Trap(2), **options, resume=True)
    parts = train(tmp_path / "parts", Trap(2, 4), **options, resume=True)
    assert parts.rollbacks == whole.rollbacks and len(whole.rollbacks) == 2
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("damage", ["cut short", "NaN"])
def test_a_damaged_target_costs_no_checkpoint(tmp_path, damage):
    """It diverges at 7, returns to 6, and again: the next target is 4, which was damaged in the meantime."""

    class Damaging(Trap):
        def forward(self, x):
            target = tmp_path / "checkpoints" / "00000004.safetensors"
            if self.calls == 15 and target.exists():
                tensors, meta = checkpoint.load(target)
                tensors["model.net.0.weight"].view(-1)[0] = torch.nan
                checkpoint.save(target, tensors, meta)
                if damage == "cut short":
                    target.write_bytes(target.read_bytes()[:-100])
            return super().forward(x)

    with pytest.raises(fl.CheckpointError, match=r"00000004\.safetensors .*older checkpoint .*00000002"):
        train(tmp_path, Damaging(14, 16), on_divergence="rollback")
    names = sorted(path.stem for path in (tmp_path / "checkpoints").glob("*.safetensors"))
    assert names == ["00000002", "00000004", "00000006"]


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
