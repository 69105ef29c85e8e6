"""Measures tiles on the current GPU, inside the graph in which they run. This takes minutes per network and runs only
on request: `scripts/tune_convnet.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
import triton
from torch import Tensor

from ...arguments import UpdateArgs
from . import measured
from .launches import Packed, gpu_of, step_
from .measured import Key, Measured, Tile

_SHAPES = (  # rows, columns, warps
    *((64, 128, 4), (128, 64, 4), (128, 128, 4), (128, 128, 8)),
    *((256, 64, 8), (512, 64, 8), (128, 256, 8), (256, 128, 8)),
)
_STAGES, _DEPTHS, _SPLITS = (2, 3, 4, 5), (64, 128, 256), (1, 2, 4, 8, 16)


def tune(packed: Packed, x: Tensor) -> Measured:
    """The fastest tile of each matrix product in Langevin steps of x, and whether dependent launches are faster, for
    this network, batch and precision. All later workspaces on this GPU use them.

    Each is judged by the time of a whole step in a CUDA graph, with the other kernels as they are by then: what one
    leaves in the caches is what the next finds.
    """
    gpu = gpu_of(x.device)
    own = measured.BY_GPU.setdefault(gpu.name, Measured())
    keys = [la.key for la in packed.workspace(len(x)).launches if la.name in ("forward", "backward")]
    for key in dict.fromkeys(keys):
        tile = next(la.tile for la in packed.workspace(len(x)).launches if la.key == key)
        for candidates in (_shapes, _depths, _splits):
            times = {each: _time(packed, x, own, key, each) for each in (tile, *candidates(tile))}
            tile = min(times, key=times.__getitem__)
        own.tiles[key] = tile
    if gpu.major >= 9:
        seconds = {}
        for own.dependent_launch in (False, True):
            packed.forget_workspace()
            seconds[own.dependent_launch] = _step_time(packed, x)
        own.dependent_launch = seconds[True] < seconds[False]
    packed.forget_workspace()
    return own


def _shapes(tile: Tile) -> Iterator[Tile]:
    for rows, columns, warps in _SHAPES:
        for stages in _STAGES:
            yield replace(tile, rows=rows, columns=columns, warps=warps, stages=stages)


def _depths(tile: Tile) -> Iterator[Tile]:
    for depth in _DEPTHS:
        yield replace(tile, depth=depth)


def _splits(tile: Tile) -> Iterator[Tile]:
    for split in _SPLITS:
        yield replace(tile, split=split)


def _time(packed: Packed, x: Tensor, own: Measured, key: Key, tile: Tile) -> float:
    """Milliseconds of a step with a tile; infinity if it does not fit the GPU."""
    own.tiles[key] = tile
    packed.forget_workspace()
    try:
        return _step_time(packed, x)
    except triton.runtime.errors.OutOfResources:
        return math.inf


def _step_time(packed: Packed, x: Tensor) -> float:
    """Milliseconds of a step that leaves the state as it is, with its numbers on the device as in a captured chain."""
    still = torch.zeros((), dtype=torch.float64, device=x.device)
    counter = torch.zeros((), dtype=torch.int64, device=x.device)
    args = UpdateArgs(still, still, counter, counter, 0, 0, None, None, None)
    return triton.testing.do_bench_cudagraph(lambda: step_(packed, x, args), return_mode="median")
