"""Times contenders in interleaved rounds, so that all are measured under the same conditions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Call = Callable[[], object]

SHORT = 0.05  # seconds


def spread(values: list[float]) -> tuple[float, tuple[float, float]]:
    """The median and the quartiles."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return statistics.median(ordered), (ordered[quarter], ordered[-1 - quarter])


def paired_ratio(baseline: list[float], values: list[float]) -> tuple[float, tuple[float, float]]:
    """The speed-up over the baseline, from the times of the same rounds: median and quartiles."""
    return spread([b / v for b, v in zip(baseline, values, strict=True)])


def once(call: Call) -> float:
    """Seconds of one call, until the device has finished."""
    synchronise()
    start = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - start


def settle(call: Call, seconds: float) -> None:
    """Before a call of so many seconds is timed, a short one is made once: it is then not timed while the threads of
    the library before still spin, nor while its own are waking.
    """
    if seconds < SHORT:
        call()
        synchronise()


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turns(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds per call, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(once(call))
    return seconds


def one_round(calls: Mapping[str, Call]) -> dict[str, float]:
    """Seconds of one call of each."""
    return {name: seconds[0] for name, seconds in in_turns(calls, 1).items()}


def rounds_for(one: Mapping[str, float], budget: float, least: int, most: int) -> int:
    """The number of rounds that fit into `budget` seconds, given the seconds of one round."""
    return max(least, min(most, int(budget / sum(one.values()))))
