"""What a training returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..data.ranges import Range
from ..samplers.langevin import Langevin


@dataclass(frozen=True)
class TrainResult:
    """What `train` returns.

    Attributes:
        model: the trained network, a log-density, on the device it was trained on.
        sampler: of that network (of `ema` if there is one), with `sample_steps` steps, its counter where training
            left it.
        history: one dict per logged iteration, as in metrics.jsonl (`train`).
        out: the run's folder, or None if nothing was written.
        ema: the network of the averaged weights, or None.
        data_range: the interval that its data and samples lie in.
        rollbacks: one dict each, of this call: the iteration that diverged, the reason, and where training continued:
            back_to, lr, seed. (rollbacks.jsonl has those of all calls.)
    """

    model: nn.Module
    sampler: Langevin
    history: list[dict[str, Any]]
    out: Path | None
    ema: nn.Module | None
    data_range: Range
    rollbacks: list[dict[str, Any]]
