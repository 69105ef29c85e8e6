"""The iterations of a training on several ranks beside those of one, in the same processes. torchrun starts it:

    torchrun --nproc-per-node=2 benchmarks/training_on_ranks.py digits [--device cuda]

Rounds run an iteration on rank 0 alone, one on all ranks with the same batch (strong scaling), and one with the batch
of one rank on each (weak scaling), so that all three see the same load of the machine; while rank 0 works alone, the
others wait asleep. An iteration on several ranks is as long as on its last rank. On a CPU every rank has one thread.

Further rounds time what the ranks exchange. Of each exchange, what it takes is the time on the rank that takes part in
it last and waits for nobody; what the average over the ranks is above that is waiting. Rank 0 prints JSON: a row for
each measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timing import once, paired_ratio, spread, synchronise
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import ProcessGroup

import fastlangevin as fl
from fastlangevin import recipes
from fastlangevin.distributed import start
from fastlangevin.distributed.ranks import Ranks
from fastlangevin.runs.resolution import resolve
from fastlangevin.training.guard import Guard
from fastlangevin.training.iteration_graph import IterationGraph
from fastlangevin.training.layout import load_for
from fastlangevin.training.state import TrainingState

WARMUP, EXCHANGE_ROUNDS = 5, 5  # the fourth iteration of a training on one GPU is captured as a graph
KINDS = ("votes", "gradients", "buffer")  # what is exchanged, in the order of the rows' texts
ALONE, STRONG, WEAK = "1 rank", "strong", "weak"
Row = dict[str, Any]
Exchange = tuple[str, float]  # its kind, and its seconds on a rank


@dataclass(frozen=True)
class Work:
    """A training: its data, its network (None: the default one) and its settings over those of a recipe."""

    title: str
    data: Callable[[], Any]
    model: Callable[[], nn.Module | None]
    recipe: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    value_range: tuple[float, float] | None = None
    rounds: int = 21

    def batches(self, size: int) -> dict[str, int]:
        """The batch of each measurement on `size` ranks."""
        batch = {**self.recipe, **self.options}["batch_size"]
        return {ALONE: batch, STRONG: batch, WEAK: batch * size}


def _images() -> Tensor:
    return torch.rand(256, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _points() -> Tensor:
    return torch.randn(4096, 2, generator=torch.Generator().manual_seed(0)).clamp(-3, 3) / 3


WORKS = {
    "digits": Work("digits: ConvNet 1×8×8, n_f = 64, K = 10", lambda: "digits", lambda: None, recipes.digits),
    "paper": Work(
        "ConvNet 3×32×32, n_f = 64, K = 100", _images, lambda: None, recipes.short_run, value_range=(-1.0, 1.0)
    ),
    "paper-cut": Work(
        "ConvNet 3×32×32, n_f = 64, K = 2",
        _images,
        lambda: None,
        recipes.short_run,
        {"batch_size": 8, "sampler": {"n_steps": 2, "step_size": 1.0, "noise_std": 0.01}},
        (-1.0, 1.0),
        rounds=7,
    ),
    "mlp": Work(
        "MLP 2→64→64→1, K = 20, replay buffer",
        _points,
        lambda: fl.models.MLP(2, (64, 64)),
        recipes.short_run,
        {
            "batch_size": 2048,
            "start": "buffer",
            "buffer": {"capacity": 10_000},
            "sampler": {"n_steps": 20, "step_size": 0.01, "noise_std": 0.1},
        },
        (-1.0, 1.0),
    ),
}


class TimedRanks(Ranks):
    """Ranks that time what they exchange while `exchanges` is a list.

    On CUDA an exchange is timed from when the device has nothing else to do to its end, which disturbs the iteration.
    """

    def __init__(self, group: ProcessGroup | None = None, host: ProcessGroup | None = None) -> None:
        super().__init__(group, host)
        self.exchanges: list[Exchange] | None = None

    def most(self, n: int) -> int:
        with self._timed("votes"):
            return super().most(n)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        with self._timed("gradients"):
            super().sum_(tensors)

    def exchange(self, x: Tensor, counts: Sequence[int], counts_received: Sequence[int]) -> Tensor:
        with self._timed("buffer"):
            return super().exchange(x, counts, counts_received)

    @contextlib.contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        if self.exchanges is None:
            yield
            return
        synchronise()
        began = time.perf_counter()
        yield
        synchronise()
        self.exchanges.append((kind, time.perf_counter() - began))


class Training:
    """A training whose iterations are those of `fl.train` that neither log nor save."""

    def __init__(self, work: Work, batch_size: int, ranks: Ranks, device: torch.device) -> None:
        torch.manual_seed(0)
        model = work.model()
        source = load_for(model, work.data(), None, image_size=None, value_range=work.value_range)
        settings = resolve({**work.options, "batch_size": batch_size}, work.recipe, source, model, None)
        network = settings.make_model() if model is None else model
        self.state = TrainingState(settings, source.to(device), network, device, ranks=ranks)
        self.state.check()
        self.state.share()
        self._guard = Guard.of(settings, self.state.gaps, self.state.sampler.bounds)
        self._graph = IterationGraph(self.state, self._guard.watch)

    def __call__(self) -> None:
        step = self._graph.step()
        self._guard.look(self.state.iteration, step.watched)


def measure(work: Work, ranks: TimedRanks, device: torch.device) -> list[Row]:
    """The rows of a work, the same on all ranks, which all call this."""
    batches = work.batches(ranks.size)
    trainings = {name: Training(work, batches[name], ranks, device) for name in (STRONG, WEAK)}
    if ranks.is_main:
        trainings = {ALONE: Training(work, batches[ALONE], Ranks(), device), **trainings}
    seconds: dict[str, list[float]] = {name: [] for name in batches}
    for i in range(WARMUP + work.rounds):
        for name in batches:
            ranks.most(0)  # all begin together
            here = once(trainings[name]) if name in trainings else 0.0
            longest = max(ranks.gather(here))
            if i >= WARMUP:
                seconds[name].append(longest)
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in (STRONG, WEAK)}
    for _ in range(EXCHANGE_ROUNDS):
        for name, parts in spent.items():
            ranks.most(0)
            ranks.exchanges = []
            trainings[name]()
            here_, ranks.exchanges = ranks.exchanges, None
            parts.append(spent_in(ranks.gather(here_)))
    return rows_of(seconds, spent, batches, ranks.size)


def spent_in(exchanges: Sequence[Sequence[Exchange]]) -> dict[str, float]:
    """The seconds of one iteration's exchanges, by kind, and those of "waiting", from the exchanges of each rank."""
    spent = dict.fromkeys((*KINDS, "waiting"), 0.0)
    for together in zip(*exchanges, strict=True):
        (kind,), times = {kind for kind, _ in together}, [seconds for _, seconds in together]
        spent[kind] += min(times)
        spent["waiting"] += statistics.fmean(times) - min(times)
    return spent


def rows_of(
    seconds: dict[str, list[float]], spent: dict[str, list[dict[str, float]]], batches: dict[str, int], size: int
) -> list[Row]:
    """A row for one rank, and one for each way to scale: seconds, efficiency, and seconds in each kind of exchange.

    The efficiency is the speed of `size` ranks, in items a second, relative to `size` times that of one, by paired
    rounds.
    """
    rows = []
    for name, values in seconds.items():
        median, quartiles = spread(values)
        row: Row = {"scaling": name, "ranks": 1 if name == ALONE else size, "batch": batches[name]}
        row |= {"rounds": len(values), "seconds": median, "quartiles": quartiles, "least": min(values)}
        if name in spent:
            share = batches[name] / (batches[ALONE] * size)
            ratio, ratio_quartiles = paired_ratio(seconds[ALONE], values)
            row |= {"efficiency": ratio * share, "efficiency_quartiles": [r * share for r in ratio_quartiles]}
            row["spent"] = {kind: statistics.median(s[kind] for s in spent[name]) for kind in (*KINDS, "waiting")}
        rows.append(row)
    return rows


def text(row: Row) -> str:
    """A row as one line of text."""
    what = ALONE if row["ranks"] == 1 else f"{row['ranks']} ranks, {row['scaling']} scaling"
    low, high = row["quartiles"]
    line = f"{what:24} batch {row['batch']:5} {row['seconds'] * 1e3:8.2f} ms [{low * 1e3:.2f}, {high * 1e3:.2f}], "
    line += f"least {row['least'] * 1e3:.2f}"
    if "spent" in row:
        line += "  efficiency {:.2f} [{:.2f}, {:.2f}]".format(row["efficiency"], *row["efficiency_quartiles"])
        line += "; ms in " + ", ".join(f"{kind} {s * 1e3:.2f}" for kind, s in row["spent"].items())
    return line


def main(name: str, device_type: str) -> None:
    torch.set_num_threads(1)
    device = start.local_device(torch.device(device_type))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    ranks = TimedRanks(dist.group.WORLD, dist.new_group(backend="gloo"))
    rows = measure(WORKS[name], ranks, device)
    if ranks.is_main:
        print(json.dumps(rows))
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    main(options.work, options.device)
