"""The score from the first layer's gradient, and the Langevin update with it.

Rows are pixels of the state in the order (image, y, x), columns its few channels, padded for the tensor cores. The sums
are then rearranged to the state's layout, NCHW: M pixels of each plane.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..noise import normals
from ..update import NUMBERS, VALUES, clamp, key, scalar
from .dependent import after_the_last_kernel


@triton.jit
def _element(i, PIXELS: tl.constexpr, PLANES: tl.constexpr, M: tl.constexpr):
    """The row-major index in the state of element i of a tile, in the order (plane, row)."""
    row = tl.program_id(0) * M + i % M
    return ((row // PIXELS).to(tl.int64) * PLANES + i // M) * PIXELS + row % PIXELS


@triton.jit
def _noise(
    N: tl.constexpr,
    offset,
    seed,
    step,
    stream,
    WHOLE_GROUPS: tl.constexpr,
    PIXELS: tl.constexpr,
    PLANES: tl.constexpr,
    M: tl.constexpr,
):
    """The deviates of a tile's N elements: four per group if groups start at every fourth one, else one by one."""
    if WHOLE_GROUPS:
        first = _element(4 * tl.arange(0, N // 4), PIXELS, PLANES, M)
        return normals((offset + first) // 4, seed, step, stream)
    else:
        index = offset + _element(tl.arange(0, N), PIXELS, PLANES, M)
        four = tl.reshape(normals(index // 4, seed, step, stream), [N, 4])
        return tl.sum(tl.where((index % 4)[:, None] == tl.arange(0, 4)[None, :], four, 0.0), 1)


@triton.jit(do_not_specialize=VALUES, do_not_specialize_on_alignment=NUMBERS)
def input_kernel(
    g_pointer,  # (B, HEIGHT, WIDTH, DEPTH)
    w_pointer,  # (N, KERNEL, KERNEL, DEPTH): CHANNELS rows, then zeros
    unscale_pointer,  # one float32
    x_pointer,  # (B, CHANNELS, STRIDE * HEIGHT, STRIDE * WIDTH) float32: the state to update, or the output score
    rows: tl.int32,
    step_size: tl.int64,
    noise_std: tl.int64,
    seed: tl.int64,
    step: tl.int64,
    step_size_pointer,
    noise_std_pointer,
    seed_pointer,
    step_pointer,
    clip: tl.int64,
    lo: tl.int64,
    hi: tl.int64,
    stream: tl.int64,
    offset: tl.int64,
    UPDATE: tl.constexpr,
    HAS_NOISE: tl.constexpr,
    HAS_CLIP: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
    ON_DEVICE: tl.constexpr,
    WHOLE_GROUPS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PDL: tl.constexpr,
):
    after_the_last_kernel(PDL)
    H: tl.constexpr = STRIDE * HEIGHT
    W: tl.constexpr = STRIDE * WIDTH
    PADDED: tl.constexpr = CHANNELS if CHANNELS <= 2 else 4
    TAPS: tl.constexpr = KERNEL * KERNEL
    row = tl.program_id(0) * M + tl.arange(0, M)
    first_image = tl.program_id(0) * M // (H * W)
    g_pointer += first_image.to(tl.int64) * (HEIGHT * WIDTH * DEPTH)
    image = row // (H * W) - first_image
    bottom, right = row // W % H + 1, row % W + 1
    k = tl.arange(0, K)
    origin = (image * HEIGHT + bottom // STRIDE) * WIDTH + right // STRIDE
    gradients = (origin * DEPTH)[:, None] + k[None, :]
    weights = tl.arange(0, N)[None, :] * (TAPS * DEPTH) + k[:, None]
    acc = tl.zeros((M, N), tl.float32)
    for t in range(TAPS * (DEPTH // K)):
        r, s, channel = t % TAPS // KERNEL, t % KERNEL, t // TAPS * K
        y, x = bottom - r, right - s
        inside = (row < rows) & (y >= 0) & (y < H) & (x >= 0) & (x < W)
        if STRIDE == 2:
            inside = inside & (y % 2 == 0) & (x % 2 == 0)
        g_at = (r // STRIDE * WIDTH + s // STRIDE) * DEPTH - channel
        a = tl.load(g_pointer - g_at + gradients, mask=inside[:, None], other=0.0, cache_modifier=".ca")
        b = tl.load(w_pointer + ((r * KERNEL + s) * DEPTH + channel) + weights)
        acc = tl.dot(a, b, acc, input_precision="tf32")

    parts = tl.reshape(acc, [M, N // PADDED, PADDED])
    is_first = tl.arange(0, N // PADDED)[None, :, None] == 0
    planes = tl.sum(tl.where(is_first, parts, 0.0), 1)
    score = tl.reshape(tl.trans(planes), [PADDED * M]) * tl.load(unscale_pointer)

    i = tl.arange(0, PADDED * M)
    element = _element(i, H * W, CHANNELS, M)
    inside = (tl.program_id(0) * M + i % M < rows) & (i // M < CHANNELS)
    if UPDATE:
        x = tl.load(x_pointer + element, mask=inside, other=0.0)
        if HAS_CLIP:
            limit = scalar(clip, None, False, tl.float32)
            score = clamp(score, -limit, limit)
        x = tl.fma(scalar(step_size, step_size_pointer, ON_DEVICE, tl.float32), score, x)
        if HAS_NOISE:
            seed = key(seed, seed_pointer, ON_DEVICE)
            step = key(step, step_pointer, ON_DEVICE)
            z = _noise(PADDED * M, offset, seed, step, stream, WHOLE_GROUPS, H * W, CHANNELS, M)
            x = tl.fma(scalar(noise_std, noise_std_pointer, ON_DEVICE, tl.float32), z, x)
        if HAS_BOUNDS:
            x = clamp(x, scalar(lo, None, False, tl.float32), scalar(hi, None, False, tl.float32))
        tl.store(x_pointer + element, x, mask=inside)
    else:
        tl.store(x_pointer + element, score, mask=inside)
