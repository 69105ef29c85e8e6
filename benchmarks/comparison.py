"""Selects the contenders that may be timed, and makes the rows of one work.

A row is a dict with "contender" and "status": "timed", or "missing", "unsupported" or "failed" with the "reason".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import checks
import torch
from contenders import BASELINE, CONTENDERS, OURS, Contender
from timing import Call, paired_ratio, spread
from works import Work

Row = dict[str, Any]
Floor = Callable[
    [str], tuple[float, str]
]  # maps a contender's name to its floor in seconds and the description of the floor


def admit(work: Work, contenders: Mapping[str, Contender] = CONTENDERS) -> tuple[dict[str, Call], list[Row]]:
    """The chains that pass the check, which also warms them up, and a row for each contender that is not timed."""
    calls: dict[str, Call] = {}
    rows: list[Row] = []
    expected = checks.Expected.of(work.with_own_network())
    for name, contender in contenders.items():
        if (why := contender.missing) is not None:
            rows.append({"contender": name, "status": "missing", "reason": why})
        elif (why := contender.supports(work)) is not None:
            rows.append({"contender": name, "status": "unsupported", "reason": why})
        else:
            chain, why = _checked(work, contender, expected)
            if why is None:
                calls[name] = functools.partial(chain, work.x0, work.n_steps, work.noise_std)
            else:
                rows.append({"contender": name, "status": "failed", "reason": why})
    return calls, rows


def _checked(work: Work, contender: Contender, expected: checks.Expected) -> tuple[Any, str | None]:
    torch.compiler.reset()  # torch.compile stops compiling a function after eight networks
    try:
        chain = contender.make(work.with_own_network())
        return chain, checks.disagreement(work.with_own_network(), chain, expected, contender.precision)
    except Exception as error:  # raised by a peer: the others are still timed
        return None, f"{type(error).__name__}: {error}".splitlines()[0][:200]


def timed_rows(seconds: Mapping[str, list[float]], floor: Floor) -> list[Row]:
    """A row for each timed contender, with the ratio to the time of the eager loop in the same round."""
    rows = []
    for name, values in seconds.items():
        median, quartiles = spread(values)
        ratio, ratio_quartiles = paired_ratio(seconds[BASELINE], values)
        row: Row = {"contender": name, "status": "timed", "rounds": len(values), "seconds": median}
        row |= {"quartiles": quartiles, "ratio": ratio, "ratio_quartiles": ratio_quartiles}
        if is_ours(name):
            least, what = floor(name)
            row |= {"of_floor": least / median, "floor": what}
        rows.append(row)
    return rows


def is_ours(contender: str) -> bool:
    return contender.startswith((OURS, "fl."))


def text(row: Row) -> str:
    """A row as one line of text."""
    if row["status"] != "timed":
        return f"{row['contender']:32} {row['status']}: {row['reason']}"
    low, high = row["ratio_quartiles"]
    line = f"{row['contender']:32} {row['ratio']:7.2f}× the eager loop [{low:.2f}, {high:.2f}]"
    return line + (f"  {row['of_floor']:.0%} of the floor, {row['floor']}" if "of_floor" in row else "")
