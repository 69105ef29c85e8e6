"""Detects chains that are not finite, without synchronizing with a GPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ChainDiverged
from ..transfer import ToHost


def n_not_finite(x: Tensor) -> Tensor:
    """How many chains of x, (B, *event), hold a NaN or an infinity."""
    return (~torch.isfinite(x)).reshape(len(x), math.prod(x.shape[1:])).any(dim=1).sum()


def is_finite(x: Tensor) -> bool:
    """Whether all of x is finite. Waits for x's device."""
    return not (x - x).any()  # 0 for a finite number, else NaN


def report(x: Tensor, first_step: int, step: int | None) -> ChainDiverged:
    """The error for the states x at the end of a call, where `step` was the first step that was not finite."""
    return _error(int(n_not_finite(x)), len(x), first_step, step)


class PendingCheck:
    """The number of chains that are not finite, while it is copied from the device to the host."""

    def __init__(self, x: Tensor, first_step: int) -> None:
        self._n_chains = len(x)
        self._first_step = first_step
        self._count = ToHost(n_not_finite(x))

    def raise_if_diverged(self) -> None:
        """Waits for the number, which has usually arrived by the next call."""
        n_diverged = int(self._count.value())
        if n_diverged:
            raise _error(n_diverged, self._n_chains, self._first_step, None)


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
