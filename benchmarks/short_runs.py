"""Short runs of MALA, HMC and underdamped dynamics beside Langevin's, at equal numbers of score evaluations.

    python benchmarks/short_runs.py --docs     # the table of docs/digits.md; about a minute for each row
    python benchmarks/short_runs.py --iterations 100 --only "MALA"

Each row trains the digits recipe with another sampler, whose chains evaluate the network's score EVALUATIONS times, and
samples with the same chains. The short runs of the recipe have the temperature noise_std² / (2 step_size), at
which the proposals of "MALA, the same proposals" are Langevin's and HMC's step size is sqrt(2 step_size).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import page_table

import fastlangevin as fl

EVALUATIONS = 10  # of the score, by a chain: a sampler other than Langevin evaluates that of x0 too
STEP_SIZE, NOISE_STD = 1.0, 0.03  # the recipe's
TEMPERATURE = NOISE_STD**2 / (2 * STEP_SIZE)
N_SAMPLES = 1024


@dataclass(frozen=True)
class Row:
    name: str
    sampler: dict[str, Any]


def hmc(n_leapfrog: int, step_size: float, temperature: float) -> dict[str, Any]:
    n_steps = (EVALUATIONS - 1) // n_leapfrog
    options = {"step_size": step_size, "temperature": temperature, "n_leapfrog": n_leapfrog}
    return {"kind": "hmc", "n_steps": n_steps, **options}


_TIME = math.sqrt(2 * STEP_SIZE)  # one leapfrog step of this length is one proposal of MALA
_MALA = {"kind": "mala", "n_steps": EVALUATIONS - 1}
_UNDERDAMPED = {"kind": "underdamped", "n_steps": EVALUATIONS - 1, "temperature": TEMPERATURE}
ROWS = (
    Row("Langevin", {"n_steps": EVALUATIONS, "step_size": STEP_SIZE, "noise_std": NOISE_STD}),
    Row("MALA, the same proposals", {**_MALA, "step_size": STEP_SIZE, "temperature": TEMPERATURE}),
    Row("MALA, a tenth of the step", {**_MALA, "step_size": STEP_SIZE / 10, "temperature": TEMPERATURE}),
    Row("HMC, 3 transitions of 3 steps", hmc(3, _TIME, TEMPERATURE)),
    Row("HMC, 1 transition of 9 steps", hmc(9, _TIME / 3, TEMPERATURE)),
    Row("underdamped, friction 1", {**_UNDERDAMPED, "step_size": _TIME / 2, "friction": 1.0}),
)
HEAD = ("sampler", "steps", "step size", "accepted", "Fréchet distance", "score, of 10", "rarest class", "training")


def run(row: Row, n_iterations: int | None) -> str:
    n_steps = row.sampler["n_steps"]
    settings: dict[str, Any] = {} if n_iterations is None else {"n_iterations": n_iterations}
    started = time.perf_counter()
    try:
        result = fl.train("digits", sampler=row.sampler, sample_steps=n_steps, seed=1, progress=False, **settings)
    except fl.TrainingDiverged as error:
        return line(row, "", f"diverged: {str(error).splitlines()[0]}", "", "", "")
    seconds = time.perf_counter() - started
    found = fl.evaluate(result, "digits", n=N_SAMPLES, fid=False, n_reconstruct=0, n_chains=0, progress=False)
    coverage = found["coverage"]
    distance = f"{found['pixels']['frechet_distance']:.2f}"
    score, rarest = f"{coverage['score']:.2f}", f"{coverage['rarest_share']:.3f}"
    return line(row, acceptance(result), distance, score, rarest, f"{seconds:.0f} s")


def acceptance(result: fl.TrainResult) -> str:
    """The share of accepted proposals in the chains of the trained network."""
    x0 = result.sampler.initial((256, 1, 8, 8), step=0)
    share = result.sampler.trace(x0, step=0, every=result.sampler.n_steps).statistics.get("acceptance")
    return "" if share is None else f"{share[-1].mean():.0%}"


def line(row: Row, *cells: str) -> str:
    steps = str(row.sampler["n_steps"])
    if "n_leapfrog" in row.sampler:
        steps += f" × {row.sampler['n_leapfrog']}"
    return "| " + " | ".join((row.name, steps, f"{row.sampler['step_size']:.3g}", *cells)) + " |"


def table(only: str, n_iterations: int | None) -> Iterator[str]:
    yield "| " + " | ".join(HEAD) + " |"
    yield "| " + " | ".join("---" for _ in HEAD) + " |"
    for row in ROWS:
        if only in row.name:
            yield run(row, n_iterations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, help="of a training; default: the recipe's")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--docs", action="store_true", help="write the table to docs/digits.md")
    options = parser.parse_args()
    lines = table(options.only, options.iterations)
    page_table.show(lines, "digits.md" if options.docs else None, "benchmarks/short_runs.py")


if __name__ == "__main__":
    main()
