"""Fused calls with a convolution or an input gradient, as an implicit matrix product whose tiles never leave registers
before the last instruction.

Rows are pixels of the result, columns its channels. Rows are in the order (image, y, x); before a mean over 2×2 pixels
these four follow each other; of the gradient of stride 2 a program has pixels of one parity of (y, x), which depend on
the same taps.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .machine import evaluate, store


@triton.jit
def _pixel(row, PARITY: tl.constexpr, POOLED: tl.constexpr, parity, H: tl.constexpr, W: tl.constexpr):
    """The pixel of all images in row-major order, by the order of rows."""
    if PARITY:
        return (row // (W // 2) * 2 + parity // 2) * W + row % (W // 2) * 2 + parity % 2
    elif POOLED:
        window, quarter = row // 4, row % 4
        return (window // (W // 2) * 2 + quarter // 2) * W + window % (W // 2) * 2 + quarter % 2
    else:
        return row


@triton.jit(do_not_specialize=["depth_steps"])
def product_kernel(
    a_pointer,  # (B, HEIGHT, WIDTH, DEPTH): the input, or the gradient at the result
    w_pointer,  # (channels of the result, KERNEL, KERNEL, of the input) of the convolution
    operand_pointers,
    output_pointers,
    rows: tl.int32,  # of the product; with parities, of each
    depth_steps: tl.int32,  # DEPTH / K: of a loop of known length the compiler would make a single block
    BEFORE: tl.constexpr,
    BEFORE_STORES: tl.constexpr,
    POOLED: tl.constexpr,
    MAIN: tl.constexpr,
    MAIN_STORES: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    H: tl.constexpr,  # of the product's result, as W and C
    W: tl.constexpr,
    C: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    GRADIENT: tl.constexpr,
    FLOAT: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    PARITY: tl.constexpr = GRADIENT and STRIDE == 2
    row = tl.program_id(0) * M + tl.arange(0, M)
    column = tl.program_id(1) * N + tl.arange(0, N)
    parity = tl.program_id(2)
    k = tl.arange(0, K)
    pixel = _pixel(row, PARITY, POOLED >= 0, parity, H, W)
    y, x = pixel // W % H, pixel % W
    # The offset of the tile's first image has 64 bits, offsets within the tile have 32.
    PER_ROW: tl.constexpr = H * W // 4 if PARITY else H * W
    first_image = tl.program_id(0) * M // PER_ROW
    a_pointer += first_image.to(tl.int64) * (HEIGHT * WIDTH * DEPTH)
    image = pixel // (H * W) - first_image
    taps_y, taps_x, first_y, first_x = KERNEL, KERNEL, 0, 0
    if PARITY:
        first_y, first_x = (parity // 2 + PADDING) % 2, (parity % 2 + PADDING) % 2
        taps_y, taps_x = (KERNEL + 1 - first_y) // 2, (KERNEL + 1 - first_x) // 2
    acc = tl.zeros((M, N), FLOAT)
    for step in range(taps_y * taps_x * depth_steps):
        # Taps of a channel are consecutive: they read the same pixels, which the first of them leaves in L1.
        tap, depth = step % (taps_y * taps_x), step // (taps_y * taps_x) * K
        if GRADIENT:
            r, s = first_y + tap // taps_x * STRIDE, first_x + tap % taps_x * STRIDE
            from_y, from_x = (y + PADDING - r) // STRIDE, (x + PADDING - s) // STRIDE
            w_at = ((depth + k) * (KERNEL * KERNEL))[:, None] * C + column[None, :] + (r * KERNEL + s) * C
        else:
            r, s = tap // taps_x, tap % taps_x
            from_y, from_x = y * STRIDE - PADDING + r, x * STRIDE - PADDING + s
            w_at = column[None, :] * (KERNEL * KERNEL * DEPTH) + k[:, None] + ((r * KERNEL + s) * DEPTH + depth)
        there = (row < rows) & (from_y >= 0) & (from_y < HEIGHT) & (from_x >= 0) & (from_x < WIDTH)
        a_at = ((image * HEIGHT + from_y) * WIDTH + from_x) * DEPTH + depth
        a = tl.load(a_pointer + a_at[:, None] + k[None, :], mask=there[:, None], other=0.0, cache_modifier=".ca")
        acc = tl.dot(a, tl.load(w_pointer + w_at), acc, input_precision="ieee")
    channel = column[None, :]
    inside = (row < rows)[:, None] & (channel < C)
    if POOLED >= 0:
        values = (acc,)
        i = pixel.to(tl.int64)[:, None] * C + channel
        values = evaluate(values, BEFORE, operand_pointers, i, pixel[:, None], channel, inside, C, H, W, FLOAT)
        store(values, BEFORE_STORES, output_pointers, i, inside)
        mean = tl.sum(tl.reshape(values[POOLED] * 0.25, [M // 4, 4, N]), 1)
        window = tl.program_id(0) * (M // 4) + tl.arange(0, M // 4)
        inside = (window < rows // 4)[:, None] & (channel < C)
        i = window.to(tl.int64)[:, None] * C + channel
        values = evaluate(
            (mean,), MAIN, operand_pointers, i, window[:, None], channel, inside, C, H // 2, W // 2, FLOAT
        )
    else:
        i = pixel.to(tl.int64)[:, None] * C + channel
        values = evaluate((acc,), MAIN, operand_pointers, i, pixel[:, None], channel, inside, C, H, W, FLOAT)
    store(values, MAIN_STORES, output_pointers, i, inside)
