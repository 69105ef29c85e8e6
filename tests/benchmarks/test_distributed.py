"""The benchmarks of several ranks: what they run, and what they make of the times."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import bench_distributed
import gradient_reduction
import pytest
import torch
import training_on_ranks
from support.ranks import on_ranks, unwrapped
from support.training_runs import weights
from torch import distributed as dist
from training_on_ranks import ALONE, STRONG, WEAK, TimedRanks, Training, Work

import fastlangevin as fl
from fastlangevin import recipes
from fastlangevin.distributed.ranks import Ranks

CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {"batch_size": 5, "sampler": {"n_steps": 2, "step_size": 0.1, "noise_std": 0.1}, "lr": 1e-3}
BUFFER = {"start": "buffer", "buffer": {"capacity": 20}}


def points() -> torch.Tensor:
    return torch.linspace(-1, 1, 40).sin().view(20, 2)


def work(**options: Any) -> Work:
    net = lambda: fl.models.MLP(2, (4,))
    return Work("small", points, net, recipes.short_run, {**OPTIONS, **options}, (-1.0, 1.0), rounds=3)


def _on_ranks() -> dict[str, Any]:
    ranks = TimedRanks(dist.group.WORLD, dist.new_group(backend="gloo"))
    found: dict[str, Any] = {}
    for name, options in {"noise": {}, "buffer": BUFFER}.items():
        training = Training(work(**options), 5, ranks, CPU)
        training()  # a buffer that is empty has no states to send
        ranks.exchanges = []
        training()
        found[name], ranks.exchanges = [kind for kind, _ in ranks.exchanges], None
    found["rows"] = training_on_ranks.measure(work(**BUFFER), ranks, CPU)
    torch.manual_seed(0)
    made = gradient_reduction.ways(fl.models.MLP(2, (4,)), ranks, *torch.randn(2, 3, 2))
    gradient_reduction.check(made)
    found["times"] = gradient_reduction.measure(made, ranks, 2)
    for name in made:
        wrong = {**made, name: lambda right=made[name]: [1.001 * g for g in right()]}
        try:
            gradient_reduction.check(wrong)
        except AssertionError:
            found.setdefault("refused", []).append(name)
    return found


def test_on_two_ranks():
    first, second = unwrapped(on_ranks(2, _on_ranks))
    assert first["noise"] == second["noise"] == ["votes", "gradients"]
    assert first["buffer"] == ["buffer", "votes", "buffer", "gradients"]
    rows = first["rows"]
    assert rows == second["rows"]
    assert [(row["scaling"], row["ranks"], row["batch"], row["rounds"]) for row in rows] == [
        (ALONE, 1, 5, 3),
        (STRONG, 2, 5, 3),
        (WEAK, 2, 10, 3),
    ]
    for row in rows[1:]:
        assert all(row["spent"][kind] > 0 for kind in training_on_ranks.KINDS)
    assert first["times"] == second["times"] and all(len(values) == 2 for values in first["times"].values())
    reducing = [name for name in first["times"] if not name.startswith("no reduction")]
    assert first["refused"] == reducing and len(reducing) == 4


@pytest.mark.parametrize("options", [{}, BUFFER])
def test_the_iterations_are_those_of_train(options):
    made = work(**options)
    training = Training(made, 5, Ranks(), CPU)
    for _ in range(3):
        training()
    torch.manual_seed(0)
    result = fl.train(
        points(), made.model(), n_iterations=3, progress=False, device="cpu", value_range=(-1, 1), **OPTIONS, **options
    )
    assert torch.equal(weights(training.state.model), weights(result.model))


def test_the_last_rank_to_come_waits_for_nobody():
    first = [("votes", 3.0), ("buffer", 1.0), ("votes", 0.5), ("gradients", 2.0)]
    second = [("votes", 1.0), ("buffer", 2.0), ("votes", 0.5), ("gradients", 8.0)]
    spent = training_on_ranks.spent_in([first, second])
    assert spent == {"votes": 1.5, "gradients": 2.0, "buffer": 1.0, "waiting": 1.0 + 0.5 + 3.0}


def test_efficiency_is_of_items_a_second_and_rank():
    parts = dict.fromkeys((*training_on_ranks.KINDS, "waiting"), 0.25)
    seconds = {ALONE: [1.0, 2.0, 4.0], STRONG: [0.5, 1.0, 1.0], WEAK: [2.0, 2.0, 8.0]}
    batches = work().batches(2)
    alone, strong, weak = training_on_ranks.rows_of(seconds, {STRONG: [parts], WEAK: [parts]}, batches, 2)
    assert alone["seconds"] == 2.0 and "efficiency" not in alone
    assert strong["efficiency"] == 1.0 and strong["efficiency_quartiles"] == [1.0, 2.0] and strong["least"] == 0.5
    assert weak["efficiency"] == 0.5 and weak["spent"] == parts
    line = training_on_ranks.text(weak)
    assert line.startswith("2 ranks, weak scaling    batch    10") and "efficiency 0.50" in line
    assert line.endswith("ms in votes 250.00, gradients 250.00, buffer 250.00, waiting 250.00")


def test_least_times_are_compared():
    Times, ours = gradient_reduction.Times, gradient_reduction.OURS
    lines = gradient_reduction.table("what", {"other": [Times(0.5, 8.0), Times(0.25, 9.0)], ours: [Times(0.5, 4.0)]})
    assert lines.splitlines()[2:] == [
        f"| {ours} | 500.00 | 1.00 | 4000.00 | 1.00 |",
        "| other | 250.00 | 0.50 | 8000.00 | 2.00 |",
    ]


def test_the_numbers_of_ranks():
    found = [bench_distributed.numbers_of_ranks(places) for places in (1, 2, 5, 64)]
    assert found == [[2], [2], [2, 4], [2, 4, 8]]
    assert "more than the 1 cores" in bench_distributed.title(work(), 2, 1)
    assert "more than" not in bench_distributed.title(work(), 2, 2)


def test_ranks_that_fail_are_an_error(monkeypatch):
    def run(command, **options):
        assert "--nproc-per-node=4" in command and options["env"]["OMP_NUM_THREADS"] == "1"
        out = "a line of torchrun\n" + json.dumps([{"ranks": 4}]) + "\n"
        return subprocess.CompletedProcess(command, code, out, "the reason")

    monkeypatch.setattr(subprocess, "run", run)
    code = 0
    assert bench_distributed.on_ranks("mlp", 4) == [{"ranks": 4}]
    code = 1
    with pytest.raises(RuntimeError, match="mlp on 4 ranks: the reason"):
        bench_distributed.on_ranks("mlp", 4)
