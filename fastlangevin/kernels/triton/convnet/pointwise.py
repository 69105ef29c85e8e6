"""What a layer does with the sums of its convolution, forwards and backwards, where cuDNN computes them: one pass over
them. cuDNN has rounded them to the type of the activations.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .backward import deactivate
from .dependent import after_the_last_kernel
from .forward import activate


@triton.jit
def activate_kernel(
    sums_pointer,  # (B, HEIGHT, WIDTH, CHANNELS), without the bias
    bias_pointer,  # (CHANNELS,) float32
    y_pointer,  # (B, HEIGHT, WIDTH, CHANNELS)
    mask_pointer,  # (B, HEIGHT, WIDTH, CHANNELS / 32) int32
    last_pointer,  # (HEIGHT, WIDTH, CHANNELS) float32
    parts_pointer,  # (B, HEIGHT, WIDTH, CHANNELS / N) float32
    rows: tl.int32,
    slope: tl.float32,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LAST: tl.constexpr,
    ENERGY: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PDL: tl.constexpr,
):
    after_the_last_kernel(PDL)
    row = tl.program_id(0) * M + tl.arange(0, M)
    acc = _sums(sums_pointer, row, rows, CHANNELS, N)
    tensors = (bias_pointer, y_pointer, mask_pointer, last_pointer, parts_pointer)
    activate(acc, row, row < rows, tl.program_id(1) * N, *tensors, slope, PIXELS, CHANNELS, LAST, ENERGY)


@triton.jit
def deactivate_kernel(
    sums_pointer,  # (B, HEIGHT, WIDTH, CHANNELS), the gradient at the activations
    mask_pointer,  # (B, HEIGHT, WIDTH, CHANNELS / 32) int32
    y_pointer,  # (B, HEIGHT, WIDTH, CHANNELS), the gradient at the pre-activations
    rows: tl.int32,
    slope: tl.float32,
    CHANNELS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    PDL: tl.constexpr,
):
    after_the_last_kernel(PDL)
    row = tl.program_id(0) * M + tl.arange(0, M)
    acc = _sums(sums_pointer, row, rows, CHANNELS, N)
    deactivate(acc, row, row < rows, tl.program_id(1) * N, mask_pointer, y_pointer, slope, CHANNELS)


@triton.jit
def _sums(sums_pointer, row, rows, CHANNELS: tl.constexpr, N: tl.constexpr):
    column = tl.program_id(1) * N + tl.arange(0, N)
    at = row.to(tl.int64)[:, None] * CHANNELS + column[None, :]
    return tl.load(sums_pointer + at, mask=(row < rows)[:, None], other=0.0).to(tl.float32)
