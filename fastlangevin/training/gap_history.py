"""The energy gaps of a run's recent iterations, and whether the newest ones are out of proportion to them."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Any

from ..runs.piecewise import check_number

_WINDOW = 300  # gaps that determine the scale
_FEWEST = 100  # gaps before which there is no scale: a run starts at gaps near 0, which first grow
_PATIENCE = 10  # iterations in a row above the limit
_SMALLEST = 1.0  # limit of the gaps, in nats, below which none is out of proportion


class GapHistory:
    """Judges |gap| against m + c·s: m is the median of |gap| over the last 300 iterations, s the median of ||gap| - m|.

    Ten iterations in a row above that limit are out of proportion. They do not count towards m and s; fewer do, because
    a gap returns from a peak. The limit is at least 1. Until there are 100 gaps there is none.

    Attributes:
        is_settled: whether the samples of an iteration have been within the guard's limits, so that leaving them is a
            divergence: an untrained network may send all chains far away, and training bring them back.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._above: list[float] = []
        self.is_settled = False

    def add(self, gap: float, c: float) -> int:
        """Adds the gap of the next iteration. Returns the number of iterations up to this one that are out of
        proportion: 0, or 10 and more.
        """
        limit = self.limit(c)
        if limit is not None and abs(gap) > limit:
            self._above.append(abs(gap))
        else:
            self._recent.extend([*self._above, abs(gap)])
            self._above.clear()
        return len(self._above) if len(self._above) >= _PATIENCE else 0

    def limit(self, c: float) -> float | None:
        """m + c·s, at least 1; None while it is not known."""
        if len(self._recent) < _FEWEST:
            return None
        m = statistics.median(self._recent)
        return max(m + c * statistics.median(abs(gap - m) for gap in self._recent), _SMALLEST)

    def state_dict(self) -> dict[str, Any]:
        return {"recent": list(self._recent), "above": list(self._above), "is_settled": self.is_settled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`. An empty dict, of a checkpoint without it, is an empty history.

        Raises:
            TypeError, ValueError, AttributeError: the state is not one of a history.
        """
        recent, above = ([check_number("a gap", gap) for gap in state.get(name, ())] for name in ("recent", "above"))
        is_settled = state.get("is_settled", bool(recent))
        if not isinstance(is_settled, bool):
            raise TypeError(f"is_settled must be a bool, got {is_settled!r}")
        self._recent.clear()
        self._recent.extend(recent)
        self._above, self.is_settled = above, is_settled
