"""The share of the multiply-add peak that chains reach on one thread, the core's other hardware thread idle or busy.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/peak_shares.py [WORK …] [--seconds S]

A core with two hardware threads starts half as many instructions for each while both are busy, and on a rented machine
the other one may be somebody else's. So each call is timed between two counts of the instructions that start in a
cycle, as CPU time; rounds in which that changes are left out. Steps cost what a call of 2 K steps takes beyond one of
K, and a call what is left. Prints a table in Markdown: medians and quartiles of the share of the floor (`works.py`),
and the median milliseconds of a call besides its steps. WORK: names in `works.WORKS` and `works.NETWORKS`. For
processors with AVX-512.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable

import torch
from rooflines import processor_rates
from timing import spread
from works import NETWORKS, WORKS, Work

import fastlangevin as fl

ALL = WORKS | NETWORKS
NAMES = tuple(name for name in WORKS if name.startswith(("mlp", "convnet")))
CALL_SECONDS = 0.02  # that K steps take, so that few calls see the other thread come or go
LOOPS = 50_000  # of a count: 0.1 to 0.3 ms
IDLE, BUSY = 3.5, 3.2  # instructions a cycle: more than the one, less than the other


def seconds(call: Callable[[], object]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


class Rates:
    """What this thread could do at a moment."""

    def __init__(self, library: ctypes.CDLL) -> None:
        instructions, cycles, multiply_adds = (
            12 * LOOPS / seconds(lambda name=name: getattr(library, name)(LOOPS))
            for name in ("instructions", "cycles", "multiply_adds")
        )
        self.instructions = instructions / cycles
        self.multiply_adds = 16 * multiply_adds


def state(rates: list[Rates]) -> str | None:
    if all(r.instructions > IDLE for r in rates):
        return "idle"
    return "busy" if all(r.instructions < BUSY for r in rates) else None


def sampler(work: Work, n_steps: int) -> Callable[[], object]:
    options = {"step_size": work.step_size, "noise_std": work.noise_std, **work.options}
    own = fl.Langevin(**{work.kind: work.module}, n_steps=n_steps, seed=1, **options)
    return lambda: own(work.x0, *work.args)


def measure(work: Work, library: ctypes.CDLL, budget: float) -> dict[str, list[tuple[float, float]]]:
    """Shares and the seconds of a call besides its steps, by the state of the other thread."""
    one = sampler(work, 1)
    one()
    n_steps = max(1, round(CALL_SECONDS / seconds(one)))
    calls = [sampler(work, n_steps), sampler(work, 2 * n_steps)]
    found: dict[str, list[tuple[float, float]]] = {"idle": [], "busy": []}
    for call in calls:
        call()
    end = time.monotonic() + budget
    while time.monotonic() < end:
        rates, times = [Rates(library)], []
        for call in calls:
            times.append(seconds(call))
            rates.append(Rates(library))
        if (now := state(rates)) is not None and times[1] > times[0]:
            floor = n_steps * work.lanes / max(r.multiply_adds for r in rates)
            found[now].append((floor / (times[1] - times[0]), 2 * times[0] - times[1]))
    return found


def row(name: str, found: dict[str, list[tuple[float, float]]]) -> str:
    cells = [name]
    for rounds in found.values():
        if len(rounds) < 4:
            cells += ["", ""]
            continue
        shares, rests = zip(*rounds, strict=True)
        middle, (low, high) = spread(list(shares))
        cells += [f"{middle:.0%} [{low:.0%}, {high:.0%}], {len(rounds)}", f"{spread(list(rests))[0] * 1e3:.2f}"]
    return f"| {' | '.join(cells)} |"


def main(names: list[str], budget: float) -> None:
    torch.set_num_threads(1)
    library = processor_rates()
    if library is None:
        raise SystemExit("the processor has no AVX-512")
    heads = ["work", "share, other thread idle [quartiles], rounds", "a call, ms", "busy", "a call, ms"]
    print(f"| {' | '.join(heads)} |\n| {' | '.join('---' for _ in heads)} |")
    for name in names:
        print(row(name, measure(ALL[name](), library, budget)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="WORK")
    parser.add_argument("--seconds", type=float, default=20.0, help="a work")
    options = parser.parse_args()
    for name in options.works:
        if name not in ALL:
            parser.error(f"no work {name!r}, known are {', '.join(ALL)}")
    main(options.works or list(NAMES), options.seconds)
