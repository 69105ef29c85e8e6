"""Intervals of values, and the linear map between them."""

from __future__ import annotations

from torch import Tensor

Range = tuple[float, float]
UNIT: Range = (-1.0, 1.0)  # what `load_data` scales to and pictures are drawn from


def rescaled(x: Tensor, source: Range, target: Range) -> Tensor:
    """Maps x linearly from one interval to another. Returns x itself if the intervals are equal."""
    if source == target:
        return x
    (a, b), (lo, hi) = source, target
    return (x - a) * ((hi - lo) / (b - a)) + lo
