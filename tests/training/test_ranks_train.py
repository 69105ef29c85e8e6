"""A training on several ranks is that of one process: the same noise bit for bit, the same weights to rounding."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support.ranks import Failed, on_ranks, results, started, unwrapped
from support.thorough import thorough
from support.training_runs import tensors_of, weights
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import Dataset

import fastlangevin as fl
from fastlangevin.runs import checkpoint
from fastlangevin.training import train as training
from fastlangevin.training.state import TrainingState

ITEMS, LABELS = torch.linspace(-1, 1, 23 * 64).sin().view(23, 1, 8, 8), torch.arange(23) % 3
SHARED: dict[str, Any] = {
    **{"batch_size": 11, "n_iterations": 10, "lr": 1e-3, "lr_decay": 0.0, "data_noise": 0.1, "log_every": 5},
    **{"sampler": {"n_steps": 5, "step_size": 0.1, "noise_std": 0.1, "bounds": (-1.0, 1.0)}, "sample_steps": 5},
    **{"progress": False, "seed": 3, "max_saturation": float("inf")},
}
CASES: dict[str, dict[str, Any]] = {
    "noise": {"max_grad_norm": 0.1, "ema": 0.9, "clamp_data": True},
    "classes": {"class_conditional": True, "start": "buffer", "buffer": {"capacity": 30}},
    "kl": {"start": "data", "kl_weight": 0.5, "energy_penalty": 0.1},
    "indexed": {"start": "buffer", "buffer": {"capacity": 31, "policy": "indexed", "storage": "uint8"}},
    "mala": {"sampler": {"kind": "mala", "n_steps": 3, "step_size": 0.1}, "n_iterations": 6},
    "velocities": {
        **{"sampler": {"kind": "underdamped", "n_steps": 3, "step_size": 0.3, "friction": 0.1}, "n_iterations": 6},
        **{"start": "buffer", "buffer": {"capacity": 31}},
    },
}


class Network(nn.Module):
    """A small network in float64, with an embedding of classes that only some cases use."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 4, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(4, 3, 3, 2, 1), nn.SiLU(), nn.Flatten())
        )
        self.head, self.classes = nn.Linear(12, 1), nn.Embedding(3, 12)
        self.double()

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        features = self.body(x)
        return (self.head(features) if y is None else (features * self.classes(y)).sum(1, keepdim=True))[:, 0]


class Flat(nn.Module):
    """A log-density without a gradient in x, so that the chains are noise alone."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.level + 0 * x.sum((1, 2, 3))


def train(model: nn.Module | None = None, data: Any = None, **options: Any) -> tuple[fl.TrainResult, list]:
    """A training, and the first and last states of this rank's chains in each iteration."""
    steps, step = [], TrainingState.step

    def recorded(self, watch):
        made = step(self, watch)
        steps.append((made.x0.clone(), made.x.clone()))
        return made

    torch.manual_seed(dist.get_rank() if dist.is_initialized() else 0)  # rank 0's weights are those of all
    TrainingState.step = recorded
    try:
        labelled = (ITEMS, LABELS) if options.get("class_conditional") else ITEMS
        result = fl.train(labelled if data is None else data, model or Network(), **{**SHARED, **options})
    finally:
        TrainingState.step = step
    return result, steps


def _cases() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, options in CASES.items():
        result, steps = train(**options)
        average = None if result.ema is None else weights(result.ema)
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]
        found[name] = weights(result.model), average, rows, [x0 for x0, _ in steps], result.sampler.state_dict()
    found["flat"] = train(Flat(), start="buffer", buffer={"capacity": 20, "reinit": 0.2})[1]
    return found


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return unwrapped(on_ranks(1, _cases))[0]


@pytest.mark.parametrize("size", thorough([2, 3, 4], [3]))
def test_any_number_of_ranks_trains_as_one_process(one, size):
    by_rank = unwrapped(on_ranks(size, _cases))
    for name in CASES:
        expected, average, rows, first, state = one[name]
        for found in by_rank:
            assert torch.allclose(found[name][0], expected, rtol=0, atol=1e-10), (name, size)
            assert torch.equal(found[name][0], by_rank[0][name][0])
            assert average is None or torch.allclose(found[name][1], average, rtol=0, atol=1e-10)
            assert found[name][4] == state
            # Sums in float32, of numbers up to 10.
            for got, want in zip(found[name][2], rows, strict=True):
                assert got == pytest.approx(want, rel=1e-5, abs=1e-5), (name, size)
        for i, x0 in enumerate(first):
            got = torch.cat([found[name][3][i] for found in by_rank])
            # A buffer has the ends of chains, which are equal to rounding; else they start from noise alone.
            exact = "start" not in CASES[name] or CASES[name]["start"] == "data"
            assert torch.equal(got, x0) if exact else torch.allclose(got, x0, rtol=0, atol=1 / 64), (name, i)
    for i, (x0, x) in enumerate(one["flat"]):
        assert torch.equal(torch.cat([found["flat"][i][0] for found in by_rank]), x0)
        assert torch.equal(torch.cat([found["flat"][i][1] for found in by_rank]), x)


def _goes_on(out: Path, n: int, resume: bool) -> None:
    train(**CASES["classes"], ema=0.9, out=out, n_iterations=n, checkpoint_every=2, resume=resume)


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path):
    for n, size in enumerate((2, 1, 3), 1):
        unwrapped_none(on_ranks(size, _goes_on, tmp_path / "run", 2 * n, n > 1))
    unwrapped_none(on_ranks(1, _goes_on, tmp_path / "one", 6, False))
    got, expected = tensors_of(tmp_path / "run"), tensors_of(tmp_path / "one")
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        # The buffer's states are float32.
        atol = 1e-6 if name == "buffer.values" else 1e-10
        assert torch.allclose(got[name].double(), value.double(), rtol=0, atol=atol), name
    assert fl.load(tmp_path / "run", model=Network())[1].step == 30
    lines = [(folder / "metrics.jsonl").read_text().count("\n") for folder in (tmp_path / "run", tmp_path / "one")]
    assert lines[0] >= lines[1] > 0


def unwrapped_none(found: list[Any]) -> None:
    """`unwrapped` of a function that returns nothing."""
    assert not [f for f in found if isinstance(f, Failed)], next(f.trace for f in found if isinstance(f, Failed))


def _endless(out: Path) -> None:
    train(out=out, n_iterations=10**6, checkpoint_every=10, resume=True)


def wait_for_checkpoint(out: Path, iteration: int = 1) -> None:
    end = time.monotonic() + 60
    while (newest := checkpoint.newest(out / "checkpoints")) is None or int(newest.stem) < iteration:
        assert time.monotonic() < end, "no checkpoint after 60 s"
        time.sleep(0.05)


def test_a_signal_to_one_rank_stops_all_at_one_iteration(tmp_path):
    with started(3, _endless, tmp_path) as ranks:
        wait_for_checkpoint(tmp_path)
        os.kill(ranks[1].process.pid, signal.SIGTERM)
        found = results(ranks)
    assert [(f.kind, f.message) for f in found] == [("SystemExit", "143")] * 3
    newest = checkpoint.newest(tmp_path / "checkpoints")
    unwrapped_none(on_ranks(2, _goes_on_to, tmp_path, int(newest.stem) + 2))


def _goes_on_to(out: Path, n: int) -> None:
    train(out=out, n_iterations=n, checkpoint_every=10, resume=True)


@pytest.mark.parametrize("killed", [0, 2])
def test_the_others_end_when_one_is_killed_and_the_run_can_go_on(tmp_path, killed):
    with started(3, _endless, tmp_path) as ranks:
        wait_for_checkpoint(tmp_path)
        ranks[killed].process.kill()
        begun = time.monotonic()
        found = results(ranks)
        assert time.monotonic() - begun < 60
    assert found[killed] is None
    assert {f.kind for rank, f in enumerate(found) if rank != killed} == {"RankFailed"}
    newest = checkpoint.newest(tmp_path / "checkpoints")
    unwrapped_none(on_ranks(3, _goes_on_to, tmp_path, int(newest.stem) + 2))


class Failing(Dataset):
    """Items, one of which cannot be read after a while."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return len(ITEMS)

    def __getitem__(self, i: int) -> Tensor:
        self.reads += 1
        if self.reads > 400 and dist.get_rank() == 1:
            raise OSError("a broken disk")
        return ITEMS[i]


def _fails_to_read(out: Path) -> None:
    train(data=Failing(), out=out, n_iterations=10**4, checkpoint_every=10**4)


def test_data_that_one_rank_cannot_read_end_all_after_a_checkpoint(tmp_path):
    found = on_ranks(2, _fails_to_read, tmp_path)
    assert [(f.kind, f.message) for f in found] == [
        ("RankFailed", "rank 1 of 2 failed: OSError: a broken disk"),
        ("OSError", "a broken disk"),
    ]
    assert int(checkpoint.newest(tmp_path / "checkpoints").stem) > 10


def _diverges(out: Path | None) -> tuple[str, list[Any]]:
    said: list[Any] = []
    try:
        train(
            **{"out": out, "n_iterations": 40, "checkpoint_every": 5, "on_divergence": "rollback"},
            **{"max_rollbacks": 2, "max_energy_gap": 1e-3},
        )
    except fl.TrainingDiverged as error:
        said = [error.iteration, error.since, str(error).replace(str(out), "OUT")]
    return "diverged", said


def test_all_ranks_roll_back_together(tmp_path):
    one = unwrapped(on_ranks(1, _diverges, tmp_path / "one"))
    three = unwrapped(on_ranks(3, _diverges, tmp_path / "three"))
    assert one[0][1]
    assert three == one * 3
    lines = [(tmp_path / run / "rollbacks.jsonl").read_text() for run in ("one", "three")]
    assert lines[0].count("\n") == 2
    assert [line.count("\n") for line in lines] == [2, 2]


class NotFinite(nn.Module):
    """A log-density whose score is infinite at a bright image."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        bright = x.detach().flatten(1).mean(1) > 0.9
        return -self.level * x.square().sum((1, 2, 3)) * torch.where(bright, torch.inf, 1.0)


def _one_chain_diverges() -> str:
    items = ITEMS / 2
    items[14] = 1.0
    items[0, 0, 0, 0] = -1.0  # so that the range is (-1, 1)
    try:
        sampler = {"n_steps": 5, "step_size": 0.1, "noise_std": 0.1}
        train(NotFinite(), items, start="data", data_noise=0.0, sampler=sampler)
    except fl.ChainDiverged as error:
        return f"{type(error).__name__}, {error.n_chains} chain at step {error.step}: {error}"
    return "no error"


def test_a_chain_that_diverges_on_one_rank_is_an_error_of_all():
    """It says of how many chains of its rank."""
    one = unwrapped(on_ranks(1, _one_chain_diverges))[0]
    assert one.startswith("TrainingDiverged, 1 chain at step 0: training diverged at iteration 1: 1 of 11 chains")
    (said,) = set(unwrapped(on_ranks(3, _one_chain_diverges)))
    assert said in (one.replace("1 of 11", "1 of 3"), one.replace("1 of 11", "1 of 4"))


def _in_a_part_of_the_ranks() -> tuple[Any, ...]:
    """Ranks 0 and 2 train by themselves, and rank 1 does something else."""
    pair = dist.new_group([0, 2])
    if dist.get_rank() == 1:
        return (fl.distributed.shard(3).chain_offset,)
    result, steps = train(group=pair)
    return weights(result.model), [x0 for x0, _ in steps]


def test_a_group_is_a_part_of_the_ranks():
    first, other, second = unwrapped(on_ranks(3, _in_a_part_of_the_ranks))
    expected, steps = train()
    assert other == (1,)
    for found in (first, second):
        assert torch.allclose(found[0], weights(expected.model), rtol=0, atol=1e-10)
    for got in zip(first[1], second[1], steps, strict=True):
        assert torch.equal(torch.cat(got[:2]), got[2][0])


def _bad_input(folder: Path) -> list[str]:
    rank, messages = dist.get_rank(), []
    elsewhere = folder / f"rank{rank}"
    elsewhere.mkdir()
    os.chdir(elsewhere)
    training._SHOWN_WITHIN = 0.1
    for options in (
        {"batch_size": 2},
        {"lr": 0.1 * (rank + 1)},
        {"data": ITEMS + 0.001 * rank * ITEMS.sin()},
        {"out": "run"},
        {"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 2 + rank), nn.SiLU(), nn.Linear(2 + rank, 1))},
        {"timeout": 0.0},
        {"model": nn.parallel.DistributedDataParallel(Network())},
        {"out": folder / "main" if rank == 0 else None},
        {"optimizer": torch.optim.SGD if rank == 2 else None},
    ):
        try:
            train(**{"n_iterations": 1, **options})
            messages.append("no error")
        except Exception as error:
            messages.append(f"{type(error).__name__}: {error}")
    return messages


def test_bad_input_is_an_error_of_all_ranks(tmp_path):
    by_rank = unwrapped(on_ranks(3, _bad_input, tmp_path))
    few, lr, data, _, model, timeout, wrapped, out, optimizer = by_rank[0]
    assert few == "ValueError: batch_size, that of all ranks, must be at least their number, 3, got 2"
    assert lr == "ValueError: lr must be the same on all ranks, got 0.1 on rank 0 and 0.2 on rank 1"
    assert data.startswith("ValueError: data_fingerprint must be the same on all ranks, got '")
    assert model.startswith("ValueError: model's parameters must be the same on all ranks, got {")
    assert timeout == "ValueError: timeout must be positive and finite, got 0.0"
    assert wrapped.startswith("TypeError: model must be the network itself, whose gradients train sums over the ranks")
    assert out == "ValueError: out must be the same on all ranks, got a value on rank 0 and None on rank 1"
    assert optimizer == "ValueError: optimizer must be the same on all ranks, got None on rank 0 and a value on rank 2"
    assert not (tmp_path / "main").exists()
    for rank, found in enumerate(by_rank):
        assert found[:3] == [few, lr, data]
        assert found[4:] == [model, timeout, wrapped, out, optimizer]
        missing = "out='run' must be a folder that all ranks see, but rank 1 does not find the config.yaml that rank 0"
        own = f"FileNotFoundError: {missing.replace('rank 1', f'rank {rank}')}"
        assert found[3].startswith(own if rank else f"RankFailed: rank 1 of 3 failed: FileNotFoundError: {missing}")
