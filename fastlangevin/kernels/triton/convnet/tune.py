"""Tiles measured on the current GPU. This takes minutes per network and runs only on request."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import triton
from torch import Tensor

from ..device import on
from .launches import Packed, Workspace
from .plan import TILES, Launch, Tile


def tune(packed: Packed, x: Tensor) -> dict[tuple[object, ...], Tile]:
    """The fastest tile of each matrix product of a score of x, by the keys of `TILES`, where they are stored too."""
    found: dict[tuple[object, ...], Tile] = {}
    for i, launch in enumerate(packed.workspace(len(x)).launches):
        if launch.name in ("forward", "backward") and launch.key not in found:
            times = {tile: _time(packed, x, i, launch.key, tile) for tile in _candidates(launch)}
            found[launch.key] = TILES[launch.key] = min(times, key=times.__getitem__)
    packed.forget_workspace()
    return found


def _candidates(launch: Launch) -> Iterator[Tile]:
    shipped = launch.tile
    yield shipped
    for rows, columns, warps in ((64, 128, 4), (128, 64, 4), (128, 128, 8), (128, 256, 8)):
        for stages in (3, 4):
            yield replace(shipped, rows=rows, columns=columns, warps=warps, stages=stages)
    for split in (1, 2):
        yield replace(shipped, split=split)


def _time(packed: Packed, x: Tensor, i: int, key: tuple[object, ...], tile: Tile) -> float:
    """Milliseconds; infinity if the tile does not fit the GPU."""
    TILES[key] = tile
    workspace = Workspace(packed, len(x))
    launch, arguments = workspace.launches[i], workspace.arguments(i, x)
    try:
        with on(x.device):
            return triton.testing.do_bench(lambda: launch(*arguments))
    except triton.runtime.errors.OutOfResources:
        return math.inf
