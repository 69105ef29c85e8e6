"""An estimate of how long a training takes, from its first iterations."""

from __future__ import annotations

import time

_TIMED = 3  # iterations, after the first, which also compiles, loads and allocates
_FEWEST = 20  # iterations for which an estimate is worth a line
_LONG = 3600.0  # seconds on a CPU from which on to say what is shorter


class Estimate:
    """Times the iterations after `first` of a training that ends with `last`."""

    def __init__(self, first: int, last: int, on_cpu: bool) -> None:
        self._first, self._last, self._on_cpu = first, last, on_cpu
        self._begun = False
        self._started: float | None = None

    def after(self, iteration: int) -> str | None:
        """Returns the line to print after an iteration, once; else None."""
        if self._last - self._first < _FEWEST:
            return None
        if iteration == self._first + 1 and not self._begun:
            self._begun, self._started = True, time.monotonic()
        if iteration != self._first + 1 + _TIMED or self._started is None:
            return None
        each = (time.monotonic() - self._started) / _TIMED
        self._started, left = None, self._last - iteration
        line = f"about {duration(each * left)} for the other {left:,} iterations, {each:.2g} s each"
        if self._on_cpu and each * left > _LONG:
            line += (
                ": that is long without a GPU. Small images train in half an hour with --recipe small (in Python: "
                "**fastlangevin.recipes.small); fewer --iterations or --steps, or a smaller --batch-size, shorten any "
                "run. Ctrl-C stops it and saves"
            )
        return line


def duration(seconds: float) -> str:
    """A duration in the two largest of its units: "45 s", "12 min", "3 h 20 min", "12 days 3 h"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 120:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} days {hours % 24} h"
