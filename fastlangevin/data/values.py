"""Values of data: conversion to tensors, layout, extent, and scaling to [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..validation import is_dense
from .ranges import UNIT, Range

Layout = Literal["images", "as_given"]
LAYOUTS: tuple[Layout, ...] = ("images", "as_given")
_BYTES: Range = (0.0, 255.0)
_WIDE = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)  # more digits than float32
_HUGE = 1e38  # values up to it have a span that fits float32


def to_tensor(values: Tensor | np.ndarray, name: str) -> Tensor:
    """Converts values to a CPU tensor: uint8 unchanged, the rest to float32, or float64 where float32 would round.

    Args:
        name: of the values in an error.

    Raises:
        TypeError: not dense real numbers.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biuf":
            raise TypeError(f"{name} must hold real numbers, got dtype {values.dtype}")
        values = torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))
    if values.is_complex() or not is_dense(values):
        raise TypeError(f"{name} must be dense and real, got dtype {values.dtype}, layout {values.layout}")
    if values.is_meta:
        raise TypeError(f"{name} must have values, got a tensor on the meta device")
    if values.dtype != torch.uint8:
        values = values.to(torch.float64 if values.dtype in _WIDE else torch.float32)
    return values.detach().cpu()


def to_channels_first(values: Tensor, name: str, layout: Layout) -> Tensor:
    """Returns values of (N, *event), contiguous.

    With layout="images" (N, H, W) and (N, H, W, C), C = 1 or 3, become (N, C, H, W).
    """
    shape = tuple(values.shape)
    if len(shape) < 2 or 0 in shape[1:]:
        raise ValueError(
            f"{name} must have items of shape (D,), (H, W), (C, H, W) or another, not empty, got {shape[1:]}"
        )
    if layout == "as_given":
        return values.contiguous()
    if len(shape) == 3:
        values = values.unsqueeze(1)
    if len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        values = values.permute(0, 3, 1, 2)
    return values.contiguous()


def extent(values: Tensor, indices: Sequence[int]) -> Range:
    """The minimum and maximum of items, (n, *event).

    Args:
        indices: n indices of the items in their source, for an error.

    Raises:
        ValueError: NaN, an infinity or a magnitude above 1e38, with the index of the first such item.
    """
    low, high = (float(value) for value in values.aminmax())
    if not (low >= -_HUGE and high <= _HUGE):  # not: either is NaN where any value is
        bad = int((~(values.abs() <= _HUGE)).flatten(1).any(1).int().argmax())
        raise ValueError(f"data must be finite, got NaN, infinite or enormous values in item {indices[bad]}")
    return low, high


def source_range(dtype: torch.dtype, extent: Range, value_range: Range | None) -> Range | None:
    """The (lo, hi) to scale from, or None if neither the caller nor the values determine it."""
    if value_range is not None:
        check_within(extent, value_range)
        return value_range
    if dtype == torch.uint8:
        return _BYTES
    return next((r for r in ((0.0, 1.0), UNIT) if r[0] <= extent[0] and extent[1] <= r[1]), None)


def scaled(values: Tensor, source: Range) -> Tensor:
    """Scales values from `source` to float32 in [-1, 1]. A float32 tensor from (-1, 1) is returned without a copy."""
    lo, hi = source
    if source != UNIT:
        values = values if values.is_floating_point() else values.to(torch.float32)
        values = values.sub(lo).div_((hi - lo) / 2).sub_(1).clamp_(-1, 1)
    return values.to(torch.float32)


def check_within(extent: Range, value_range: Range) -> None:
    """Raises ValueError if values of this extent are outside `value_range`."""
    # In float32, whose 0.1 is greater than Python's and yet within 0 … 0.1.
    low, high, lo, hi = torch.tensor((*extent, *value_range), dtype=torch.float32, device="cpu").tolist()
    if not lo <= low <= high <= hi:
        raise ValueError(f"data must lie in {lo:g} … {hi:g}, got {low:g} … {high:g}; value_range= sets another range")


def check_value_range(name: str, value: Any) -> Range:
    """Returns a pair of finite numbers lo < hi whose difference fits float32, or raises ValueError."""
    try:
        lo, hi = map(float, value)
    except (TypeError, ValueError):
        lo = hi = math.nan
    if not torch.finfo(torch.float32).tiny <= hi - lo <= torch.finfo(torch.float32).max:
        raise ValueError(f"{name} must be two finite numbers (lo, hi) with lo < hi, got {value!r}")
    return lo, hi
