"""Convolutions of 2×2 and 3×3 windows and step 1 by Winograd's minimal filtering: csrc/cpu/program_winograd_impl.h."""

from __future__ import annotations

import math

from .instructions import PANEL, Axis, winograd_tiles

_GROUP_WORDS = 2**18  # 1 MiB of weights
_TILE = 64
_GAIN = 1.1


def group_width(y: Axis, x: Axis, n_in: int, n_out: int) -> int:
    """Of a convolution from n_in to n_out channels, the output channels whose weights are read together, or 0 if direct
    arithmetic is faster, or as fast to a tenth: by its geometry alone, since the bits differ.

    Besides its products, a transformed input takes as long as 8 multiply-adds in every group, and a sum as 10 for each
    output channel, by measurement with AVX2 and AVX-512 (docs/performance.md).
    """
    if (y.step, x.step) != (1, 1) or y.window != x.window or y.window not in (2, 3):
        return 0
    n = places(y.window)
    width = max(_TILE, _GROUP_WORDS // (n * n_in) // _TILE * _TILE)
    padded = -(-n_out // PANEL) * PANEL
    products = n * n_in * (padded + 8 * math.ceil(padded / width))
    tiles = winograd_tiles(y) * winograd_tiles(x)
    direct = _inside(y) * _inside(x) * n_in * -(-n_out // 8) * 8
    return width if _GAIN * tiles * (products + 10 * n * padded) < direct else 0


def places(window: int) -> int:
    """Of a tile of 2×2 outputs: as many inputs, and products of each channel."""
    return (window + 1) ** 2


def _inside(axis: Axis) -> int:
    """The inputs that the outputs of an axis read, without padding."""
    taps = range(0, axis.window * axis.dilation, axis.dilation)
    return sum(0 <= axis.first + i + tap < axis.extent for i in range(axis.n) for tap in taps)
