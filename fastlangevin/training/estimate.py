"""An estimate of how long a training takes, from its first iterations."""

from __future__ import annotations

import time

from ..recipes import small

_TIMED = 3  # iterations, after the first, which also compiles, loads and allocates
_SLOW = 10.0  # seconds of one or more iterations after which not to wait for another one
_FEWEST = 20  # iterations for which an estimate is worth a line
_LONG = 3600.0  # seconds on a CPU from which on to say what is shorter
_RECIPE = "Small images train in half an hour with --recipe small (in Python: **fastlangevin.recipes.small). "
_SHORTER = "Fewer --iterations or --steps, or a smaller --batch-size, shorten any run. Ctrl-C stops it and saves"


class Estimate:
    """Times the iterations of a training from `first` to `last`.

    The line comes after the fourth iteration, or earlier if those after the first take 10 seconds. A first iteration
    that takes 10 seconds has a line of its own.

    Args:
        n_steps: of each iteration's chains. The recipe `small` is named to those who take more steps in all.
    """

    def __init__(self, first: int, last: int, n_steps: int, on_cpu: bool) -> None:
        self._first, self._last, self._on_cpu = first, last, on_cpu
        self._is_small = last * n_steps <= small["n_iterations"] * small["sampler"]["n_steps"]
        self._next: int | None = first + 1 if last - first >= _FEWEST else None  # the next iteration to time
        self._started = time.monotonic()
        self._has_hinted = False

    def begin(self) -> None:
        """Starts the clock, before the first iteration."""
        self._started = time.monotonic()

    def after(self, iteration: int) -> str | None:
        """Returns the line to print after an iteration, if there is one."""
        if iteration != self._next:
            return None
        seconds, n_timed = time.monotonic() - self._started, iteration - self._first - 1
        self._next = iteration + 1
        if n_timed == 0:
            self.begin()
            return self._line(iteration, seconds, ", if all take as long as the first") if seconds >= _SLOW else None
        if n_timed < _TIMED and seconds < _SLOW:
            return None
        self._next = None
        return self._line(iteration, seconds / n_timed)

    def _line(self, iteration: int, each: float, condition: str = "") -> str:
        left = self._last - iteration
        line = f"about {duration(each * left)} for the other {left:,} iterations, {each:.2g} s each{condition}"
        if self._on_cpu and each * left > _LONG and not self._has_hinted:
            self._has_hinted = True
            line += f": that is long without a GPU. {'' if self._is_small else _RECIPE}{_SHORTER}"
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
