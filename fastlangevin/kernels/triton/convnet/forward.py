"""Convolution, bias, LeakyReLU and its sign mask in one kernel, as an implicit matrix product.

Rows are pixels of the output in the order (image, y, x), columns its channels; activations are NHWC. A bit of the mask
is set where the pre-activation is positive: bit c % 32 of word c // 32 of a pixel. The last layer's kernel writes
the gradient with respect to its pre-activation instead of the activation. With ENERGY it also writes parts of the
log-density: what follows the last activation is affine, and LeakyReLU is its argument times its derivative, so that,
but for an offset, the log-density is the product of the pre-activations with the gradients at them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .dependent import after_the_last_kernel
from .parts import is_last_split, sum_of_splits, to_compute


@triton.jit
def activate(
    acc,
    row,
    inside,
    first_column,
    bias_pointer,
    y_pointer,
    mask_pointer,
    last_pointer,
    parts_pointer,
    slope,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LAST: tl.constexpr,
    ENERGY: tl.constexpr,
):
    M: tl.constexpr = acc.shape[0]
    N: tl.constexpr = acc.shape[1]
    column = first_column + tl.arange(0, N)
    acc += tl.load(bias_pointer + column)[None, :]
    positive = acc > 0
    if LAST:
        last = tl.load(last_pointer + (row % PIXELS)[:, None] * CHANNELS + column[None, :])
        y = tl.where(positive, last, last * slope)
        if ENERGY:
            part_at = row.to(tl.int64) * (CHANNELS // N) + first_column // N
            tl.store(parts_pointer + part_at, tl.sum(acc * y, 1), mask=inside)
    else:
        y = tl.where(positive, acc, acc * slope)
        bits = tl.reshape(positive.to(tl.int32), [M, N // 32, 32]) << tl.arange(0, 32)[None, None, :]
        word = first_column // 32 + tl.arange(0, N // 32)
        mask_at = row.to(tl.int64)[:, None] * (CHANNELS // 32) + word[None, :]
        tl.store(mask_pointer + mask_at, tl.xor_sum(bits, 2), mask=inside[:, None])
    y_at = row.to(tl.int64)[:, None] * CHANNELS + column[None, :]
    tl.store(y_pointer + y_at, to_compute(y, y_pointer.dtype.element_ty), mask=inside[:, None])


@triton.jit
def first_sums(
    x_pointer,  # planes of PLANE_SIZE elements, rows of W
    w_pointer,
    origin,  # (M,) the place in memory of the pixel at (top, left), in plane 0
    top,
    left,
    inside,
    first_column,
    H: tl.constexpr,
    W: tl.constexpr,
    PLANE_SIZE: tl.constexpr,
    DEPTH: tl.constexpr,
    KERNEL: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """The first layer's sums at M pixels whose windows begin at (top, left) of an image, for N channels: (M, N)."""
    k = tl.arange(0, K)
    plane, r, s = k // (KERNEL * KERNEL), k // KERNEL % KERNEL, k % KERNEL
    y, x = top[:, None] + r[None, :], left[:, None] + s[None, :]
    inside = inside[:, None] & (plane < DEPTH)[None, :] & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    at = origin[:, None] + (plane * PLANE_SIZE + r * W + s)[None, :]
    a = to_compute(tl.load(x_pointer + at, mask=inside, other=0.0), w_pointer.dtype.element_ty)
    b = tl.load(w_pointer + (first_column + tl.arange(0, N))[None, :] * K + k[:, None])
    return tl.dot(a, b, input_precision="tf32")


@triton.jit
def first_kernel(
    x_pointer,  # (B, DEPTH, STRIDE * HEIGHT, STRIDE * WIDTH) float32
    w_pointer,  # (CHANNELS, K): (plane, y, x) and zeros
    bias_pointer,  # (CHANNELS,) float32
    y_pointer,  # (B, HEIGHT, WIDTH, CHANNELS)
    mask_pointer,  # (B, HEIGHT, WIDTH, CHANNELS / 32) int32
    last_pointer,  # (HEIGHT, WIDTH, CHANNELS) float32
    parts_pointer,  # (B, HEIGHT, WIDTH, CHANNELS / N) float32
    rows: tl.int32,
    slope: tl.float32,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    LAST: tl.constexpr,
    ENERGY: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PDL: tl.constexpr,
):
    """The first layer, from the state in its own layout, with all of its few products in one step."""
    after_the_last_kernel(PDL)
    H: tl.constexpr = STRIDE * HEIGHT
    W: tl.constexpr = STRIDE * WIDTH
    row = tl.program_id(0) * M + tl.arange(0, M)
    top, left = row // WIDTH % HEIGHT * STRIDE - 1, row % WIDTH * STRIDE - 1
    origin = (row // (HEIGHT * WIDTH)).to(tl.int64) * (DEPTH * H * W) + top * W + left
    first_column, inside = tl.program_id(1) * N, row < rows
    acc = first_sums(x_pointer, w_pointer, origin, top, left, inside, first_column, H, W, H * W, DEPTH, KERNEL, N, K)
    tensors = (bias_pointer, y_pointer, mask_pointer, last_pointer, parts_pointer)
    activate(acc, row, inside, first_column, *tensors, slope, HEIGHT * WIDTH, CHANNELS, LAST, ENERGY)


@triton.jit
def forward_kernel(
    x_pointer,  # (B, STRIDE * HEIGHT, STRIDE * WIDTH, DEPTH)
    w_pointer,  # (CHANNELS, KERNEL, KERNEL, DEPTH); with DESCRIPTOR a tensor descriptor of (CHANNELS, KERNEL² DEPTH)
    bias_pointer,
    y_pointer,
    mask_pointer,
    last_pointer,
    parts_pointer,
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
    LAST: tl.constexpr,
    ENERGY: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    SPLIT: tl.constexpr,
    DESCRIPTOR: tl.constexpr,
    PDL: tl.constexpr,
):
    after_the_last_kernel(PDL)
    H: tl.constexpr = STRIDE * HEIGHT
    W: tl.constexpr = STRIDE * WIDTH
    TAPS: tl.constexpr = KERNEL * KERNEL
    STEPS: tl.constexpr = TAPS * (DEPTH // K) // SPLIT
    row = tl.program_id(0) * M + tl.arange(0, M)
    column = tl.program_id(1) * N + tl.arange(0, N)
    split = tl.program_id(2)
    k = tl.arange(0, K)
    # The offset of the tile's first image has 64 bits, offsets within the tile have 32.
    first_image = tl.program_id(0) * M // (HEIGHT * WIDTH)
    x_pointer += first_image.to(tl.int64) * (H * W * DEPTH)
    top, left = row // WIDTH % HEIGHT * STRIDE - 1, row % WIDTH * STRIDE - 1
    origin = (row // (HEIGHT * WIDTH) - first_image) * (H * W) + top * W + left
    inputs = (origin * DEPTH)[:, None] + k[None, :]
    weights = column[None, :] * (TAPS * DEPTH) + k[:, None]
    acc = tl.zeros((M, N), tl.float32)
    for step in range(STEPS):
        t = split * STEPS + step
        tap, channel = t % TAPS, t // TAPS * K
        # The taps of one parity are consecutive: they read the same pixels, which the first of them leaves in L1.
        r = tap // 8 + tap // 2 % 2 * 2 if STRIDE == 2 else tap // KERNEL
        s = tap // 4 % 2 + tap % 2 * 2 if STRIDE == 2 else tap % KERNEL
        y, x = top + r, left + s
        inside = (row < rows) & (y >= 0) & (y < H) & (x >= 0) & (x < W)
        a = tl.load(
            x_pointer + ((r * W + s) * DEPTH + channel) + inputs, mask=inside[:, None], other=0.0, cache_modifier=".ca"
        )
        if DESCRIPTOR:
            b = w_pointer.load([tl.program_id(1) * N, (r * KERNEL + s) * DEPTH + channel]).T
        else:
            b = tl.load(w_pointer + ((r * KERNEL + s) * DEPTH + channel) + weights)
        acc = tl.dot(a, b, acc, input_precision="tf32")
    tensors = (bias_pointer, y_pointer, mask_pointer, last_pointer, parts_pointer)
    first_column = tl.program_id(1) * N
    if SPLIT == 1:
        activate(acc, row, row < rows, first_column, *tensors, slope, HEIGHT * WIDTH, CHANNELS, LAST, ENERGY)
    else:
        tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        if is_last_split(acc, partial_pointer, lock_pointer, tile, split, SPLIT, M, N):
            acc = sum_of_splits(partial_pointer, tile, SPLIT, M, N)
            activate(acc, row, row < rows, first_column, *tensors, slope, HEIGHT * WIDTH, CHANNELS, LAST, ENERGY)
