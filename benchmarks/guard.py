"""`make bench-quick`: compares fastlangevin with the eager loop on a few works, and with the ratios in `floors.json`.

    python benchmarks/guard.py [WORK …] [--update]

Ratios are of interleaved rounds of one run, never of absolute times. They differ between processors, so each has floors
of its own. Those were measured on an idle machine, and a run requires one. The exit code is 1 if a work's ratio has
fallen by more than 30 % or its check fails, or if there are no floors of this processor. `--update` writes the ratios
of this run as the new floors. With names of works, only those: any of `works.WORKS` and `works.NETWORKS`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import comparison
import processor
from contenders import BASELINE, CONTENDERS, OURS
from timing import in_turns, one_round, paired_ratio, rounds_for
from works import NETWORKS, WORKS, Work

FLOORS = Path(__file__).with_name("floors.json")
LOSS = 0.30
ALL_WORKS: dict[str, Callable[[], Work]] = WORKS | NETWORKS
NAMES = (
    *("mixture", "double-well", "mlp-2-64-64-1", "mlp-128-200-200-1", "convnet-1x8x8-32", "convnet-1x16x16-32"),
    *("swish-cnn", "jem", "igebm-parametrization", "improved-cd", "latent-prior", "latent-posterior"),
    *("mlp-classifier", "ncsn", "formula-20"),
)
BUDGET, LEAST_ROUNDS, MOST_ROUNDS = 4.0, 7, 31  # seconds per work


def measure(names: Iterable[str]) -> tuple[dict[str, float], list[str]]:
    """The median ratio of each work, and the reasons for works without a ratio."""
    ratios, failures = {}, []
    contenders = {name: CONTENDERS[name] for name in (OURS, BASELINE)}
    for name in names:
        calls, rows = comparison.admit(ALL_WORKS[name](), contenders)
        failures += [f"{name}: {comparison.text(row)}" for row in rows]
        if set(calls) == set(contenders):
            seconds = in_turns(calls, rounds_for(one_round(calls), BUDGET, LEAST_ROUNDS, MOST_ROUNDS))
            ratios[name], _ = paired_ratio(seconds[BASELINE], seconds[OURS])
    return ratios, failures


def lost(ratios: Mapping[str, float], floors: Mapping[str, float]) -> list[str]:
    """The works whose ratio has fallen by more than LOSS, or that have no floor or no ratio, with the figures."""
    complaints = [f"{name}: no floor in {FLOORS.name} (--update)" for name in ratios if name not in floors]
    for name, floor in floors.items():
        if name not in ratios:
            complaints.append(f"{name}: not measured, the floor is {floor:.2f}×")
        elif ratios[name] < (1 - LOSS) * floor:
            complaints.append(
                f"{name}: {ratios[name]:.2f}× the eager loop, {1 - ratios[name] / floor:.0%} below {floor:.2f}×"
            )
    return complaints


def read_floors() -> dict[str, dict[str, float]]:
    """The ratio of each work, of each processor."""
    return json.loads(FLOORS.read_text()) if FLOORS.exists() else {}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"default: {', '.join(NAMES)}")
    parser.add_argument("--update", action="store_true", help="write the measured ratios as the new floors")
    options = parser.parse_args(arguments)
    for name in options.works:
        if name not in ALL_WORKS:
            parser.error(f"no work {name!r}, known are {', '.join(ALL_WORKS)}")
    names = options.works or NAMES
    all_floors, kind = read_floors(), processor.name()
    floors = all_floors.get(kind, {})
    if not floors and set(names) & set(NAMES) and not options.update:
        print(f"{FLOORS.name} has no floors of this processor, {kind} (--update)", file=sys.stderr)
        return 1
    ratios, failures = measure(names)
    for name, ratio in ratios.items():
        floor = f"floor {floors[name]:.2f}×" if name in floors else "no floor yet"
        print(f"{name:24} {ratio:7.2f}× the eager loop, {floor}")
    guarded = {name: ratio for name, ratio in ratios.items() if name in NAMES}
    if options.update and not failures:
        kept = {name: floors[name] for name in NAMES if name in floors}
        all_floors[kind] = kept | {n: round(ratio, 2) for n, ratio in guarded.items()}
        FLOORS.write_text(json.dumps(all_floors, indent=2) + "\n")
        return 0
    complaints = failures + lost(guarded, {name: floor for name, floor in floors.items() if name in names})
    for complaint in complaints:
        print(f"LOST: {complaint}", file=sys.stderr)
    if complaints:
        load, cores = os.getloadavg()[0], os.cpu_count()
        print(
            f"The load is {load:.1f} on {cores} cores. The ratio itself may halve if other programs use a core: "
            "results from a busy machine are not valid.",
            file=sys.stderr,
        )
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
