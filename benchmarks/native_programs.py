"""Native programs beside the graph by torch's operators, which runs where there is none, and the eager loops.

    python benchmarks/native_programs.py [WORK …]

Prints a table in Markdown: median ratios to the eager loop over seven interleaved rounds of whole chains, with engine
"graph" also where "auto" takes another. WORK: names in `works.NETWORKS`, by default all that have a native program.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from unittest import mock

import torch
from contenders import eager
from timing import in_turns, paired_ratio
from torch import Tensor
from works import NETWORKS, Work

import fastlangevin as fl
from fastlangevin.score.graph import Recording

ROUNDS = 7
COLUMNS = ("native program", "torch's operators", "eager, channels last")


def sampler(work: Work) -> fl.Langevin:
    options = {"n_steps": work.n_steps, "step_size": work.step_size, "noise_std": work.noise_std, **work.options}
    return fl.Langevin(**{work.kind: work.module}, engine="graph", seed=1, **options)


def by_operators(work: Work) -> Callable[[], Tensor]:
    own = sampler(work.with_own_network())

    def run() -> Tensor:
        with mock.patch.object(Recording, "native", "torch's operators are asked for"):
            return own(work.x0, *work.args)

    return run


def ratios(work: Work) -> dict[str, float] | None:
    """By column; None if there is no native program."""
    native = sampler(work.with_own_network())
    native(work.x0, *work.args)
    if not any("computes with a native program" in reason for reason in native.plan.reasons):
        return None
    loops = {"eager": "contiguous", **({COLUMNS[2]: "channels_last"} if work.is_convnet else {})}
    calls: dict[str, Callable[[], object]] = {
        COLUMNS[0]: lambda: native(work.x0, *work.args),
        COLUMNS[1]: by_operators(work),
    }
    for name, layout in loops.items():
        loop = eager.make(work.with_own_network(), layout=layout)
        calls[name] = lambda loop=loop: loop(work.x0, work.n_steps, work.noise_std)
    in_turns(calls, 1)
    seconds = in_turns(calls, ROUNDS)
    return {name: paired_ratio(seconds["eager"], times)[0] for name, times in seconds.items() if name != "eager"}


def main(names: list[str]) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print(f"| network | {' | '.join(COLUMNS)} |\n| --- |{' --- |' * len(COLUMNS)}")
    for name in names:
        found = ratios(NETWORKS[name]())
        if found is not None:
            cells = (f"{found[c]:.2f}" if c in found else "" for c in COLUMNS)
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="WORK")
    options = parser.parse_args()
    for name in options.works:
        if name not in NETWORKS:
            parser.error(f"no work {name!r}, known are {', '.join(NETWORKS)}")
    main(options.works or list(NETWORKS))
