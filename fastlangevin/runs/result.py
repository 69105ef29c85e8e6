"""The result of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..data.ranges import Range
from ..distributed.sharded_module import ShardedAverage
from ..samplers.base import Sampler


@dataclass(frozen=True, repr=False)
class TrainResult:
    """The result of `train`.

    Attributes:
        model: the trained network, a log-density, on the device on which it was trained.
        sampler: the run's sampler of that network (of `ema` if it is not None) with `sample_steps` steps. Its noise
            counter has the value at the end of training.
        history: one dict per logged iteration, as in metrics.jsonl; `train` describes the entries.
        out: the run's folder, or None if nothing was written.
        ema: the network with the averaged weights, or None. Of a network on which `fully_shard` was called a
            `distributed.ShardedAverage`; the sampler then has the averaged weights within ``with ema.applied()``.
        data_range: the interval of its data and samples.
        rollbacks: one dict per rollback of this call: the iteration that diverged, the reason, and the iteration
            (back_to), lr and seed with which training continued. (rollbacks.jsonl has those of all calls.)

    Examples:
        >>> result = fl.train("digits", n_iterations=2, features=8, ema=0.9, progress=False)
        >>> result
        TrainResult(ConvNet after 2 iterations)
        >>> result.history[-1]["iteration"], result.out, result.data_range, result.rollbacks
        (2, None, (-1.0, 1.0), [])
        >>> x = result.sampler.sample((4, 1, 8, 8))  # by the averaged weights, result.ema
    """

    model: nn.Module
    sampler: Sampler
    history: list[dict[str, Any]]
    out: Path | None
    ema: nn.Module | ShardedAverage | None
    data_range: Range
    rollbacks: list[dict[str, Any]]

    def __repr__(self) -> str:
        done = f"{self.history[-1]['iteration']} iterations" if self.history else "no logged iterations"
        out = "" if self.out is None else f", out={str(self.out)!r}"
        return f"TrainResult({type(self.model).__name__} after {done}{out})"
