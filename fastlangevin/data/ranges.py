"""The intervals that values of data lie in."""

from __future__ import annotations

from torch import Tensor

Range = tuple[float, float]
UNIT: Range = (-1.0, 1.0)  # what `load_data` scales to and pictures are drawn from


def rescaled(x: Tensor, source: Range, target: Range) -> Tensor:
    """x mapped linearly from one interval to another: x itself where they are the same."""
    if source == target:
        return x
    (a, b), (lo, hi) = source, target
    return (x - a) * ((hi - lo) / (b - a)) + lo
