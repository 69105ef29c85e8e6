"""The samplers of the family beside the same ones of other libraries and by hand; and what they cost beside a score.

    make bench-family    # this file alone, about four minutes, and its table in docs/benchmarks.md

Overhead: seconds per score evaluation of a sampler over that of `fl.Langevin` on the same convnet. n transitions of
MALA and Underdamped evaluate n + 1 scores, those of HMC n·n_leapfrog + 1: the first is that of x0.
"""

from __future__ import annotations

import functools
import os

import family_checks
import pytest
import torch
from contenders.family import BASELINE, FAMILY, OURS
from family_works import FamilyWork, works
from timing import Call, in_turns, one_round, paired_ratio, rounds_for, spread
from works import DEVICE, Work, convnet

import fastlangevin as fl

BUDGET, LEAST_ROUNDS, MOST_ROUNDS = 8.0, 5, 31  # seconds per work, for all contenders together
NAMES = list(works(n_chains=8))
NETS = {"convnet-1x16x16-32": (16, 1, 32, 20), "convnet-3x32x32-32": (32, 3, 32, 10)}
Row = dict[str, object]

pytestmark = pytest.mark.skipif(DEVICE == "cuda", reason="the works are those of a CPU")


def admit(work: FamilyWork) -> tuple[dict[str, Call], list[Row]]:
    """The contenders that pass the check, which also warms them up, and a row for each one that is not timed."""
    calls: dict[str, Call] = {}
    rows: list[Row] = []
    eager = FAMILY[BASELINE].make(work)
    for name, module in FAMILY.items():
        if (why := module.MISSING) is not None:
            rows.append({"contender": name, "status": "missing", "reason": why})
        elif (why := module.supports(work)) is not None:
            rows.append({"contender": name, "status": "unsupported", "reason": why})
        else:
            try:
                chain = module.make(work)
                why = family_checks.disagreement(work, chain, eager)
            except Exception as error:  # raised by a peer: the others are still timed
                why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            if why is None:
                calls[name] = functools.partial(chain, work.x0, work.n_steps)
            else:
                rows.append({"contender": name, "status": "failed", "reason": why})
    return calls, rows


@pytest.mark.parametrize("name", NAMES)
def test_family(compare, benchmark, name):
    work = works()[name]
    calls, rows = admit(work)
    if OURS not in calls:
        pytest.fail(f"{work.title}: {[row for row in rows if row['contender'] == OURS]}")
    load = os.getloadavg()[0]
    rounds = rounds_for(one_round(calls), BUDGET, LEAST_ROUNDS, MOST_ROUNDS)
    seconds = benchmark.pedantic(in_turns, (calls, rounds), rounds=1)
    timed = [
        {"contender": name, "status": "timed", "rounds": rounds, **ratios(seconds[BASELINE], values)}
        | {"ours": paired_ratio(values, seconds[OURS])[0]}
        for name, values in seconds.items()
    ]
    compare.record("family", work.title, timed + rows, text=text, load=load)


def ratios(baseline: list[float], values: list[float]) -> dict[str, object]:
    ratio, quartiles = paired_ratio(baseline, values)
    return {"seconds": spread(values)[0], "ratio": ratio, "ratio_quartiles": quartiles}


def text(row: Row) -> str:
    if row["status"] != "timed":
        return f"{row['contender']:32} {row['status']}: {row['reason']}"
    low, high = row["ratio_quartiles"]
    line = f"{row['contender']:32} {row['ratio']:7.2f}× the eager loop [{low:.2f}, {high:.2f}]"
    return line if row["contender"] == OURS else f"{line}  fastlangevin is {row['ours']:.2f} times as fast"


def samplers(work: Work) -> dict[str, tuple[fl.Langevin, int]]:
    """Of each, the sampler and the number of score evaluations of a call, about work.n_steps."""
    options = {"log_density": work.module, "seed": 1}
    n, n_leapfrog = work.n_steps, 5
    return {
        "fl.Langevin": (fl.Langevin(n_steps=n, step_size=0.01, noise_std=None, **options), n),
        "fl.MALA": (fl.MALA(n_steps=n, step_size=0.01, **options), n + 1),
        "fl.HMC": (fl.HMC(n_steps=n // n_leapfrog, n_leapfrog=n_leapfrog, step_size=0.1, **options), n + 1),
        "fl.Underdamped": (fl.Underdamped(n_steps=n, step_size=0.1, **options), n + 1),
    }


@pytest.mark.parametrize("name", NETS)
def test_overhead(compare, benchmark, name):
    work = convnet(*NETS[name])
    found = samplers(work)
    calls = {name: functools.partial(sampler, work.x0) for name, (sampler, _) in found.items()}
    load = os.getloadavg()[0]
    rounds = rounds_for(one_round(calls), BUDGET, LEAST_ROUNDS, MOST_ROUNDS)
    seconds = benchmark.pedantic(in_turns, (calls, rounds), rounds=1)
    a_score = {name: [s / found[name][1] for s in values] for name, values in seconds.items()}
    rows = [
        {"contender": name, "status": "timed", "rounds": rounds}
        | dict(zip(("overhead", "quartiles"), paired_ratio(values, a_score["fl.Langevin"]), strict=True))
        for name, values in a_score.items()
    ]
    title = f"{work.title}, {len(work.x0)} chains, {work.n_steps} scores"
    compare.record("overhead", title, rows, text=overhead_text, load=load, threads=torch.get_num_threads())


def overhead_text(row: Row) -> str:
    low, high = row["quartiles"]
    return f"{row['contender']:32} {row['overhead']:6.3f}× the time per score of fl.Langevin [{low:.3f}, {high:.3f}]"
