"""Piecewise-constant schedules over the iterations of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from ..validation import check_int, check_positive

PiecewiseConstant = float | Sequence[Sequence[float]]


def check(name: str, value: object, *, positive: bool) -> float | list[list[float]]:
    """Returns the schedule as a number, or as [[iteration, value], …] with the first iteration 0.

    Raises:
        ValueError: neither of these; iterations that do not start at 0 and increase; or a value that is negative, not
            finite or, if `positive`, zero.
    """
    if isinstance(value, Real):
        return check_number(name, value, positive=positive)
    wanted = f"{name} must be a number, or pairs (iteration, value) whose first iteration is 0, got {value!r}"
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(wanted)
    pairs: list[list[float]] = []
    for pair in value:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise ValueError(wanted)
        iteration = check_int(f"{name}'s iteration", pair[0], 0)
        if (iteration != 0) if not pairs else iteration <= pairs[-1][0]:
            raise ValueError(f"{name}'s iterations must start at 0 and increase, got {value!r}")
        pairs.append([iteration, check_number(f"{name} from iteration {iteration}", pair[1], positive=positive)])
    return pairs


def at(schedule: float | list[list[float]], iteration: int) -> float:
    """The value of a schedule, as returned by `check`, at an iteration."""
    if isinstance(schedule, list):
        return next(value for start, value in reversed(schedule) if start <= iteration)
    return schedule


def check_number(name: str, value: object, *, positive: bool = False) -> float:
    """Returns the value as a float. Raises ValueError unless it is finite and not negative (or positive)."""
    if positive:
        return check_positive(name, value)
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value!r}")
    return float(value)
