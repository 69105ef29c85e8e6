"""Measures tiles and cuDNN on the current GPU, inside the graph in which they run. This takes minutes per network and
runs only on request: `scripts/tune_convnet.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import triton
from torch import Tensor

from ...arguments import ChainArgs, UpdateArgs
from . import measured
from .launches import Packed, gpu_of
from .measured import CUDNN, Choice, Key, Measured, Tile
from .plan import DESCRIPTORS, between_key
from .steps import run_chain_, step_

_SHAPES = (  # rows, columns, warps
    *((64, 128, 4), (128, 64, 4), (128, 128, 4), (128, 128, 8)),
    *((256, 64, 8), (512, 64, 8), (128, 256, 8), (256, 128, 8)),
)
BETWEEN = ((32, 4), (64, 4), (128, 8))  # rows, warps
_BANDS, _CHAIN = (1, 2, 4, 8), 8  # programs an image; steps
_STAGES, _DEPTHS, _SPLITS = (2, 3, 4, 5), (64, 128, 256), (1, 2, 4, 8, 16)


def tune(packed: Packed, x: Tensor) -> Measured:
    """The fastest tile of each matrix product in Langevin steps of x, or that cuDNN is faster than it; the tile of one
    kernel between two steps, if that is faster than two; and whether dependent launches are faster: for this network,
    batch and precision. All later workspaces on this GPU use them.

    Each is judged by the time of a whole step in a CUDA graph, with the other kernels as they are by then: what one
    leaves in the caches is what the next finds.
    """
    gpu = gpu_of(x.device)
    own = measured.BY_GPU.setdefault(gpu.name, Measured())
    keys = [la.key for la in packed.workspace(len(x)).launches if la.key[0] in ("forward", "backward")]
    for key in dict.fromkeys(keys):
        own.choices.pop(key, None)
        packed.forget_workspace()
        launches = packed.workspace(len(x)).launches
        tile = next(la.choice for la in launches if la.key == key and isinstance(la.choice, Tile))
        for candidates in (_shapes, _depths, _splits, *((_descriptors,) if gpu.major in DESCRIPTORS else ())):
            times = {each: _time(packed, x, own, key, each) for each in (tile, *candidates(tile))}
            tile = min(times, key=times.__getitem__)
        faster = _time(packed, x, own, key, CUDNN) < times[tile]
        own.choices[key] = CUDNN if faster else tile
    _tune_between(packed, x, own)
    if gpu.major >= 9:
        seconds = {}
        for own.dependent_launch in (False, True):
            packed.forget_workspace()
            seconds[own.dependent_launch] = _chain_time(packed, x)
        own.dependent_launch = seconds[True] < seconds[False]
    packed.forget_workspace()
    return own


def _tune_between(packed: Packed, x: Tensor, own: Measured) -> None:
    key = between_key(packed.layers[0].geometry, len(x), packed.dtype.itemsize)
    own.choices.pop(key, None)
    packed.forget_workspace()
    apart = _chain_time(packed, x)
    times: dict[Tile, float] = {}
    if len(packed.layers) > 1:
        for rows, warps in BETWEEN:
            for stages in _STAGES[:2]:
                for bands in _BANDS:
                    own.choices[key] = tile = Tile(rows, 64, 64, warps, stages, bands)
                    packed.forget_workspace()
                    times[tile] = _unless_too_large(lambda: _chain_time(packed, x))
        del own.choices[key]
        tile = min(times, key=times.__getitem__)
        if times[tile] < apart:
            own.choices[key] = tile


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


def _descriptors(tile: Tile) -> Iterator[Tile]:
    for stages in _STAGES:
        yield replace(tile, descriptor=True, stages=stages)


def _time(packed: Packed, x: Tensor, own: Measured, key: Key, choice: Choice) -> float:
    """Milliseconds of a step with a choice; infinity for a tile that does not fit the GPU."""
    own.choices[key] = choice
    packed.forget_workspace()
    return _unless_too_large(lambda: _step_time(packed, x))


def _unless_too_large(time: Callable[[], float]) -> float:
    try:
        return time()
    except triton.runtime.errors.OutOfResources:
        return math.inf


def _step_time(packed: Packed, x: Tensor) -> float:
    """Milliseconds of a step that leaves the state as it is, with its numbers on the device as in a captured chain."""
    still, counter = _numbers(x)
    args = UpdateArgs(still, still, counter, counter, 0, 0, None, None, None)
    return triton.testing.do_bench_cudagraph(lambda: step_(packed, x, args), return_mode="median")


def _chain_time(packed: Packed, x: Tensor) -> float:
    """Milliseconds of a chain of such steps."""
    still, counter = _numbers(x)
    args = UpdateArgs(still, still, counter, counter, 0, 0, None, None, None)
    steps = ((still,) * _CHAIN, (still,) * _CHAIN, True, counter, (counter,) * _CHAIN)
    chain_args = ChainArgs(*steps, 0, None, None, None, False)

    def chain() -> None:
        if not run_chain_(packed, x, chain_args):
            for _ in range(_CHAIN):
                step_(packed, x, args)

    return triton.testing.do_bench_cudagraph(chain, return_mode="median")


def _numbers(x: Tensor) -> tuple[Tensor, Tensor]:
    """A step size and noise level of 0, and a seed and step."""
    zero = torch.zeros((), dtype=torch.float64, device=x.device)
    return zero, zero.long()
