"""Detects chains that are not finite, or that no longer move, without synchronizing with a GPU."""

from __future__ import annotations

import math
import warnings
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ChainDiverged, level_of_the_caller
from ..transfer import ToHost

_MOST_PENDING = 64  # calls
STUCK = 100  # proposals that are rejected in a row


def n_not_finite(x: Tensor) -> Tensor:
    """How many chains of x, (B, *event), hold a NaN or an infinity."""
    return (~torch.isfinite(x)).reshape(len(x), math.prod(x.shape[1:])).any(dim=1).sum()


def is_finite(x: Tensor) -> bool:
    """Whether all of x is finite. Waits for x's device."""
    # A sum with a NaN or an infinity is not finite; another may overflow. x - x: 0 for a finite number, else NaN.
    return math.isfinite(x.sum().item()) or not (x - x).any()


def report(x: Tensor, first_step: int, step: int | None) -> ChainDiverged:
    """The error for the states x at the end of a call, where `step` was the first step that was not finite."""
    return _error(int(n_not_finite(x)), len(x), first_step, step)


class PendingChecks:
    """The checks of calls whose numbers of chains that are not finite are still being copied to the host, in order."""

    def __init__(self) -> None:
        self._checks: deque[_Check | _StuckCheck] = deque()

    def __len__(self) -> int:
        return len(self._checks)

    def add(self, x: Tensor, first_step: int) -> None:
        """Queues the check of x, the states at the end of a call. Does not wait."""
        self.add_count(n_not_finite(x), len(x), first_step)

    def add_count(self, n_diverged: Tensor, n_chains: int, first_step: int) -> None:
        """The same, of a number that is known on the device."""
        self._checks.append(_Check(n_chains, first_step, ToHost(n_diverged)))

    def add_stuck(self, n_stuck: Tensor, n_chains: int) -> None:
        """Queues the warning of chains that no longer move."""
        self._checks.append(_StuckCheck(n_chains, ToHost(n_stuck)))

    def raise_arrived(self) -> None:
        """Raises `ChainDiverged` for the first call known to have diverged. Does not wait, so that calls can queue on a
        GPU, unless very many are queued.
        """
        while self._checks and (self._checks[0].number.arrived() or len(self._checks) > _MOST_PENDING):
            self._checks.popleft().raise_if_diverged()

    def raise_all(self) -> None:
        """Waits for all checks, and raises `ChainDiverged` for the first that fails. All are then forgotten."""
        checks, self._checks = self._checks, deque()
        for check in checks:
            check.raise_if_diverged()


@dataclass(frozen=True)
class _Check:
    n_chains: int
    first_step: int
    number: ToHost

    def raise_if_diverged(self) -> None:
        """Waits for the number."""
        n_diverged = int(self.number.value())
        if n_diverged:
            raise _error(n_diverged, self.n_chains, self.first_step, None)


@dataclass(frozen=True)
class _StuckCheck:
    n_chains: int
    number: ToHost

    def raise_if_diverged(self) -> None:
        """Waits for the number, and warns instead."""
        warn_of_stuck(int(self.number.value()), self.n_chains)


def warn_of_stuck(n_stuck: int, n_chains: int) -> None:
    """Warns if any chains no longer move."""
    if n_stuck:
        warnings.warn(
            f"{n_stuck} of {n_chains} chains rejected their last {STUCK} proposals or more: lower step_size, for "
            "example by warm_up, which finds one",
            RuntimeWarning,
            stacklevel=level_of_the_caller(),
        )


def _error(n_diverged: int, n_chains: int, first_step: int, step: int | None) -> ChainDiverged:
    where = (
        "by the end of the call"
        if step is None
        else f"first at step {step} of the call (noise step {first_step + step})"
    )
    return ChainDiverged(
        f"{n_diverged} of {n_chains} chains are not finite, {where}: lower step_size, or set grad_clip or bounds",
        step=step,
        n_chains=n_diverged,
    )
