"""The masses of a chain's velocities, and the type of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ..kernels.arguments import Momentum

UNIT_MASS = Momentum(None, None, None)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type of velocities of states like x."""
    return torch.promote_types(x.dtype, torch.float32)


def masses_column(momentum: Momentum, n: int) -> tuple[Sequence[Tensor], ...]:
    """Masses as columns of a step table, the same at each step: tensors that a captured graph reads from memory."""
    return () if momentum.masses is None else tuple([m] * n for m in momentum if m is not None)


def momentum_of_column(columns: Sequence[Sequence[float | Tensor]]) -> Momentum:
    return Momentum(*(cast(Tensor, column[0]) for column in columns)) if columns else UNIT_MASS
