"""Fused calls without a product: each program computes BLOCK elements, of all channels of one pixel after another."""

from __future__ import annotations

import triton
import triton.language as tl

from .machine import evaluate, store

BLOCK, WARPS = 1024, 4  # eight elements a thread: 16 bytes of a half-precision tensor


@triton.jit
def pointwise_kernel(
    operand_pointers,
    output_pointers,
    n: tl.int64,  # elements of the main section
    BEFORE: tl.constexpr,
    BEFORE_STORES: tl.constexpr,
    POOLED: tl.constexpr,  # of the values of the section before, -1 for none
    MAIN: tl.constexpr,
    MAIN_STORES: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,  # of the main section, as C and W
    W: tl.constexpr,
    FLOAT: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    i = program * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    pixel, channel = i // C, i % C
    values = (i,)
    if POOLED >= 0:
        mean = tl.zeros((BLOCK,), FLOAT)
        for quarter in tl.static_range(4):
            at = (2 * (pixel // W) + quarter // 2) * (2 * W) + 2 * (pixel % W) + quarter % 2
            j = at * C + channel
            quarters = evaluate((i,), BEFORE, operand_pointers, j, at, channel, inside, C, 2 * H, 2 * W, FLOAT)
            store(quarters, BEFORE_STORES, output_pointers, j, inside)
            mean += quarters[POOLED] * 0.25
        values = (mean,)
    values = evaluate(values, MAIN, operand_pointers, i, pixel, channel, inside, C, H, W, FLOAT)
    store(values, MAIN_STORES, output_pointers, i, inside)
