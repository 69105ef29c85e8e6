"""The input gradient of a convolution, times the derivative of the LeakyReLU before it, as an implicit matrix product.

Stride 2 takes four products, one for each parity of (y, x): a pixel of the input depends on 2×2 of the 4×4 taps, and no
product is wasted. Rows are then the pixels of one parity, in the order of the gradient's pixels.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .dependent import after_the_last_kernel
from .parts import is_last_split, sum_of_splits, to_compute


@triton.jit
def deactivate(acc, pixel, inside, first_column, mask_pointer, y_pointer, slope, CHANNELS: tl.constexpr):
    M: tl.constexpr = acc.shape[0]
    N: tl.constexpr = acc.shape[1]
    column = first_column + tl.arange(0, N)
    word = first_column // 32 + tl.arange(0, N // 32)
    mask_at = pixel.to(tl.int64)[:, None] * (CHANNELS // 32) + word[None, :]
    words = tl.load(mask_pointer + mask_at, mask=inside[:, None], other=0)
    positive = (words[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1
    acc = tl.reshape(acc, [M, N // 32, 32])
    acc = tl.reshape(tl.where(positive != 0, acc, acc * slope), [M, N])
    y_at = pixel.to(tl.int64)[:, None] * CHANNELS + column[None, :]
    tl.store(y_pointer + y_at, to_compute(acc, y_pointer.dtype.element_ty), mask=inside[:, None])


@triton.jit
def backward_kernel(
    g_pointer,  # (B, HEIGHT, WIDTH, DEPTH)
    w_pointer,  # (CHANNELS, KERNEL, KERNEL, DEPTH); with DESCRIPTOR a tensor descriptor of (CHANNELS, KERNEL² DEPTH)
    mask_pointer,  # (B, STRIDE * HEIGHT, STRIDE * WIDTH, CHANNELS / 32) int32
    y_pointer,  # (B, STRIDE * HEIGHT, STRIDE * WIDTH, CHANNELS)
    partial_pointer,
    lock_pointer,
    rows: tl.int32,
    slope: tl.float32,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    SPLIT: tl.constexpr,
    DESCRIPTOR: tl.constexpr,
    PDL: tl.constexpr,
):
    after_the_last_kernel(PDL)
    SIDE: tl.constexpr = KERNEL // STRIDE
    TAPS: tl.constexpr = SIDE * SIDE
    STEPS: tl.constexpr = TAPS * (DEPTH // K) // SPLIT
    row = tl.program_id(0) * M + tl.arange(0, M)
    column = tl.program_id(1) * N + tl.arange(0, N)
    split = tl.program_id(2) % SPLIT
    parity = tl.program_id(2) // SPLIT if STRIDE == 2 else 3
    py, px = parity // 2, parity % 2
    k = tl.arange(0, K)
    first_image = tl.program_id(0) * M // (HEIGHT * WIDTH)
    g_pointer += first_image.to(tl.int64) * (HEIGHT * WIDTH * DEPTH)
    image = row // (HEIGHT * WIDTH)
    y, x = row // WIDTH % HEIGHT, row % WIDTH
    origin = ((image - first_image) * HEIGHT + y + py) * WIDTH + x + px
    gradients = (origin * DEPTH)[:, None] + k[None, :]
    weights = column[None, :] * (KERNEL * KERNEL * DEPTH) + k[:, None]
    acc = tl.zeros((M, N), tl.float32)
    for step in range(STEPS):
        t = split * STEPS + step
        # A pixel's taps are consecutive: they read the same gradients, which the first of them leaves in L1.
        r, s, channel = t % TAPS // SIDE, t % SIDE, t // TAPS * K
        tap = (1 - py + STRIDE * r) * KERNEL + 1 - px + STRIDE * s
        gy, gx = y + py - r, x + px - s
        inside = (row < rows) & (gy >= 0) & (gy < HEIGHT) & (gx >= 0) & (gx < WIDTH)
        a = tl.load(
            g_pointer - ((r * WIDTH + s) * DEPTH - channel) + gradients,
            mask=inside[:, None],
            other=0.0,
            cache_modifier=".ca",
        )
        if DESCRIPTOR:
            b = w_pointer.load([tl.program_id(1) * N, tap * DEPTH + channel]).T
        else:
            b = tl.load(w_pointer + (tap * DEPTH + channel) + weights)
        acc = tl.dot(a, b, acc, input_precision="tf32")
    out_y, out_x = STRIDE * y + (STRIDE - 1) * py, STRIDE * x + (STRIDE - 1) * px
    pixel = (image * (STRIDE * HEIGHT) + out_y) * (STRIDE * WIDTH) + out_x
    if SPLIT == 1:
        deactivate(acc, pixel, row < rows, tl.program_id(1) * N, mask_pointer, y_pointer, slope, CHANNELS)
    else:
        tile = (tl.program_id(2) // SPLIT * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0)
        tile += tl.program_id(0)
        if is_last_split(acc, partial_pointer, lock_pointer, tile, split, SPLIT, M, N):
            acc = sum_of_splits(partial_pointer, tile, SPLIT, M, N)
            deactivate(acc, pixel, row < rows, tl.program_id(1) * N, mask_pointer, y_pointer, slope, CHANNELS)
