"""Convolutions of 3×3 windows and step 1 by Winograd's minimal filtering: csrc/cpu/program_winograd_impl.h."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .instructions import PANEL, WINOGRAD_PLACES, Axis, winograd_tiles

_GROUP_WORDS = 2**18  # 1 MiB of weights
_TILE = 64
_ORDER = (1, 2, 0, 3)  # of places y, in time and in the packed weights
_GAIN = 1.1
_TRANSFORMS = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))


def group_width(y: Axis, x: Axis, n_in: int, n_out: int) -> int:
    """Of a convolution from n_in to n_out channels, the output channels whose weights are read together, or 0 if direct
    arithmetic is faster, or as fast to a tenth: by its geometry alone, since the bits differ.

    Besides its products, a transformed input takes as long as 8 multiply-adds in every group, and a tile's sums as 160
    for each output channel, by measurement with AVX2 and AVX-512 (docs/performance.md).
    """
    if any((axis.window, axis.step) != (3, 1) for axis in (y, x)):
        return 0
    width = max(_TILE, _GROUP_WORDS // (WINOGRAD_PLACES * n_in) // _TILE * _TILE)
    padded = -(-n_out // PANEL) * PANEL
    products = WINOGRAD_PLACES * n_in * (padded + 8 * math.ceil(padded / width))
    tiles = winograd_tiles(y) * winograd_tiles(x)
    direct = _inside(y) * _inside(x) * n_in * -(-n_out // 8) * 8
    return width if _GAIN * tiles * (products + 160 * padded) < direct else 0


def _inside(axis: Axis) -> int:
    """The inputs that the outputs of an axis read, without padding."""
    taps = range(0, axis.window * axis.dilation, axis.dilation)
    return sum(0 <= axis.first + i + tap < axis.extent for i in range(axis.n) for tap in taps)


def transformed(weights: Tensor, width: int) -> list[Tensor]:
    """(3, 3, channels of the input, of the output) as (4, channels of the input, of the output) for each group of
    `width` and place y, in the order in which they are read, rounded once.
    """
    transform = torch.tensor(_TRANSFORMS, dtype=torch.float64)
    wide = torch.kron(transform, transform) @ weights.reshape(9, -1).double()
    wide = wide.float().view(4, 4, *weights.shape[2:])
    return [group[y] for group in wide.split(width, 3) for y in _ORDER]
