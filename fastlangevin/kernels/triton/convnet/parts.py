"""Device functions that the forward and backward convolutions share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def to_compute(a, dtype: tl.constexpr):
    """Converts float32 to the dtype of the tensor cores' operands.

    float32 stands for TF32 and is rounded to its 10 bits. Tensor cores ignore the other 13, which by itself would round
    towards zero.
    """
    if dtype == tl.float32:
        rounded = (a.to(tl.uint32, bitcast=True) + 0x1000) & 0xFFFFE000
        return tl.where(a != a, a, rounded.to(tl.float32, bitcast=True))
    else:
        return a.to(dtype)


@triton.jit
def is_last_split(
    acc, partial_pointer, lock_pointer, tile, split, SPLIT: tl.constexpr, M: tl.constexpr, N: tl.constexpr
):
    """Stores a split's part of a tile's sum. Returns whether all parts of the tile are stored now.

    acc: (M, N) float32. The lock, zero before, is zero again after the last split.
    """
    at = (tile.to(tl.int64) * SPLIT + split) * (M * N) + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(partial_pointer + at, acc)
    tl.debug_barrier()  # all threads have written their part before one of them signals it
    last = tl.atomic_add(lock_pointer + tile, 1, sem="acq_rel", scope="gpu") == SPLIT - 1
    if last:
        tl.store(lock_pointer + tile, 0)
    return last


@triton.jit
def sum_of_splits(partial_pointer, tile, SPLIT: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """A tile's sum over its splits, in their order, so that a score has the same bits at every run."""
    at = tile.to(tl.int64) * (SPLIT * M * N) + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    acc = tl.load(partial_pointer + at, cache_modifier=".cg")
    for split in tl.static_range(1, SPLIT):
        acc += tl.load(partial_pointer + at + split * (M * N), cache_modifier=".cg")
    return acc
