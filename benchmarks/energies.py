"""What energies cost beside scores, which a Metropolis test needs at every step.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/energies.py [THREADS …]

Prints a table in Markdown, on 1 and 2 threads by default: the milliseconds of a score, and how much longer energies and
scores take, in one pass and by torch's operators for the energies. Calls alternate, in rounds of several of each;
medians of the ratios of a round. THREADS: numbers of threads.
"""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Callable

import torch
from public_networks import PUBLIC_ENERGIES
from timing import Call, in_turns, paired_ratio
from torch import Tensor, nn

import fastlangevin as fl
from fastlangevin.network.inputs import Inputs
from fastlangevin.score import BoundScore
from fastlangevin.score.autograd import AutogradScore
from fastlangevin.score.graph import GraphScore

ROUNDS, SECONDS = 15, 0.05  # of a round, for each way
Case = Callable[[], tuple[Callable[..., Tensor], Tensor, tuple[Tensor, ...], str]]


def convnet(channels: int, size: int, n_chains: int) -> tuple[nn.Module, Tensor, tuple[Tensor, ...], str]:
    network = fl.models.ConvNet(size, channels, 32).requires_grad_(False)
    return network, torch.rand(n_chains, channels, size, size) * 2 - 1, (), "convnet"


def mlp(width: int, n_chains: int) -> tuple[nn.Module, Tensor, tuple[Tensor, ...], str]:
    layers = [nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1), nn.Flatten(0)]
    return nn.Sequential(*layers).requires_grad_(False), torch.randn(n_chains, 2), (), "mlp"


def public(name: str) -> tuple[nn.Module, Tensor, tuple[Tensor, ...], str]:
    work = PUBLIC_ENERGIES[name]()
    return work.module, work.x0, work.args, "graph"


CASES: dict[str, Case] = {
    "convnet 3×32×32, n_f = 32, 64 chains": functools.partial(convnet, 3, 32, 64),
    "convnet 3×32×32, n_f = 32, 1 chain": functools.partial(convnet, 3, 32, 1),
    "convnet 1×8×8, n_f = 32, 64 chains": functools.partial(convnet, 1, 8, 64),
    "convnet 1×8×8, n_f = 32, 1 chain": functools.partial(convnet, 1, 8, 1),
    "Swish CNN 1×28×28, native program, 64 chains": functools.partial(public, "swish-cnn"),
    "JEM 3×32×32, native program, 64 chains": functools.partial(public, "jem"),
    "MLP 2-128-128-1, torch's operators, 100 chains": functools.partial(mlp, 128, 100),
    "MLP 2-512-512-1, torch's operators, 1,000 chains": functools.partial(mlp, 512, 1000),
}


def apart(score: BoundScore, x: Tensor) -> Tensor:
    """Energies by torch's operators, and scores: two evaluations."""
    if isinstance(score, GraphScore):
        GraphScore.energy_and_score(score, x)[0]
    elif isinstance(score, AutogradScore):
        AutogradScore.energy(score, x)
    return score(x)


def repeated(call: Call, n: int) -> Call:
    def run() -> None:
        for _ in range(n):
            call()

    return run


def row(name: str) -> str:
    torch.manual_seed(0)
    energy, x, args, engine = CASES[name]()
    score = fl.Langevin(log_density=energy, engine=engine, seed=1)._score.bind(x, Inputs(args))
    calls: dict[str, Call] = {
        "score": lambda: score(x),
        "both": lambda: score.energy_and_score(x),
        "apart": lambda: apart(score, x),
    }
    first = in_turns(calls, 3)
    n = max(1, round(SECONDS / min(first["score"])))
    seconds = in_turns({key: repeated(call, n) for key, call in calls.items()}, ROUNDS)
    cells = [f"{statistics.median(seconds['score']) / n * 1e3:.3f}"]
    for way in ("both", "apart"):
        median, (low, high) = paired_ratio(seconds[way], seconds["score"])  # how much longer it takes
        cells.append(f"{100 * (median - 1):+.1f} % ({100 * (low - 1):+.1f} … {100 * (high - 1):+.1f})")
    return f"| {name} | {torch.get_num_threads()} | {' | '.join(cells)} |"


def main() -> None:
    print("| energy | threads | score, ms | energies in the same pass | energies by torch's operators |")
    print("| --- | --- | --- | --- | --- |")
    for n_threads in [int(n) for n in sys.argv[1:]] or [1, 2]:
        torch.set_num_threads(n_threads)
        for name in CASES:
            print(row(name), flush=True)


if __name__ == "__main__":
    main()
