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
def element(i, first_row, PIXELS: tl.constexpr, PLANES: tl.constexpr, M: tl.constexpr):
    """The row-major index in the state of element i of a tile of M rows, in the order (plane, row)."""
    row = first_row + i % M
    return ((row // PIXELS).to(tl.int64) * PLANES + i // M) * PIXELS + row % PIXELS


@triton.jit
def _noise(
    N: tl.constexpr,
    first_row,
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
        first = element(4 * tl.arange(0, N // 4), first_row, PIXELS, PLANES, M)
        return normals((offset + first) // 4, seed, step, stream)
    else:
        index = offset + element(tl.arange(0, N), first_row, PIXELS, PLANES, M)
        four = tl.reshape(normals(index // 4, seed, step, stream), [N, 4])
        return tl.sum(tl.where((index % 4)[:, None] == tl.arange(0, 4)[None, :], four, 0.0), 1)


@triton.jit
def score_of_tile(
    g_pointer,
    w_pointer,
    unscale_pointer,
    image,  # (M,), from g_pointer on
    y,
    x,
    inside,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDED: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """The score at M pixels (y, x) of the state: (PADDED * M,), in the order (plane, row)."""
    M: tl.constexpr = y.shape[0]
    TAPS: tl.constexpr = KERNEL * KERNEL
    bottom, right = y + 1, x + 1
    k = tl.arange(0, K)
    origin = (image * HEIGHT + bottom // STRIDE) * WIDTH + right // STRIDE
    gradients = (origin * DEPTH)[:, None] + k[None, :]
    weights = tl.arange(0, N)[None, :] * (TAPS * DEPTH) + k[:, None]
    acc = tl.zeros((M, N), tl.float32)
    for t in range(TAPS * (DEPTH // K)):
        r, s, channel = t % TAPS // KERNEL, t % KERNEL, t // TAPS * K
        gy, gx = bottom - r, right - s
        has = inside & (gy >= 0) & (gy < STRIDE * HEIGHT) & (gx >= 0) & (gx < STRIDE * WIDTH)
        if STRIDE == 2:
            has = has & (gy % 2 == 0) & (gx % 2 == 0)
        g_at = (r // STRIDE * WIDTH + s // STRIDE) * DEPTH - channel
        a = tl.load(g_pointer - g_at + gradients, mask=has[:, None], other=0.0, cache_modifier=".ca")
        b = tl.load(w_pointer + ((r * KERNEL + s) * DEPTH + channel) + weights)
        acc = tl.dot(a, b, acc, input_precision="tf32")
    parts = tl.reshape(acc, [M, N // PADDED, PADDED])
    is_first = tl.arange(0, N // PADDED)[None, :, None] == 0
    planes = tl.sum(tl.where(is_first, parts, 0.0), 1)
    return tl.reshape(tl.trans(planes), [PADDED * M]) * tl.load(unscale_pointer)


@triton.jit
def moved(
    x,  # (PADDED * M,), in the order (plane, row)
    score,
    first_row,
    step_size,
    noise_std,
    seed,
    step,
    step_size_pointer,
    noise_std_pointer,
    seed_pointer,
    step_pointer,
    clip,
    lo,
    hi,
    stream,
    offset,
    HAS_NOISE: tl.constexpr,
    HAS_CLIP: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
    ON_DEVICE: tl.constexpr,
    WHOLE_GROUPS: tl.constexpr,
    NOISE_FIRST: tl.constexpr,  # `arguments.NoiseFirst`: unless `no`, the noise is that of the next step
    PIXELS: tl.constexpr,
    PLANES: tl.constexpr,
    M: tl.constexpr,
):
    """The next state of a tile, whose operations are rounded one by one."""
    if HAS_CLIP:
        limit = scalar(clip, None, False, tl.float32)
        score = clamp(score, -limit, limit)
    x = tl.fma(scalar(step_size, step_size_pointer, ON_DEVICE, tl.float32), score, x)
    if HAS_BOUNDS and NOISE_FIRST != 0:
        x = clamp(x, scalar(lo, None, False, tl.float32), scalar(hi, None, False, tl.float32))
    if HAS_NOISE:
        seed = key(seed, seed_pointer, ON_DEVICE)
        step = key(step, step_pointer, ON_DEVICE)
        z = _noise(x.shape[0], first_row, offset, seed, step, stream, WHOLE_GROUPS, PIXELS, PLANES, M)
        x = tl.fma(scalar(noise_std, noise_std_pointer, ON_DEVICE, tl.float32), z, x)
    if HAS_BOUNDS and NOISE_FIRST != 1:
        x = clamp(x, scalar(lo, None, False, tl.float32), scalar(hi, None, False, tl.float32))
    return x


@triton.jit(do_not_specialize=VALUES, do_not_specialize_on_alignment=NUMBERS)
def input_kernel(
    g_pointer,  # (B, HEIGHT, WIDTH, DEPTH)
    w_pointer,  # (N, KERNEL, KERNEL, DEPTH): CHANNELS rows, then zeros
    unscale_pointer,  # one float32
    x_pointer,  # (B, CHANNELS, STRIDE * HEIGHT, STRIDE * WIDTH) float32
    out_pointer,  # likewise: the next state, which may be in place of the last, or the score
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
    first_row = tl.program_id(0) * M
    row = first_row + tl.arange(0, M)
    first_image = first_row // (H * W)
    g_pointer += first_image.to(tl.int64) * (HEIGHT * WIDTH * DEPTH)
    pixel = (row // (H * W) - first_image, row // W % H, row % W)
    tensors = (g_pointer, w_pointer, unscale_pointer)
    new = score_of_tile(*tensors, *pixel, row < rows, HEIGHT, WIDTH, DEPTH, KERNEL, STRIDE, PADDED, N, K)
    i = tl.arange(0, PADDED * M)
    at = element(i, first_row, H * W, CHANNELS, M)
    inside = (first_row + i % M < rows) & (i // M < CHANNELS)
    if UPDATE:
        x = tl.load(x_pointer + at, mask=inside, other=0.0)
        numbers = (step_size, noise_std, seed, step, step_size_pointer, noise_std_pointer, seed_pointer, step_pointer)
        limits = (clip, lo, hi, stream, offset)
        new = moved(
            x,
            new,
            first_row,
            *numbers,
            *limits,
            HAS_NOISE=HAS_NOISE,
            HAS_CLIP=HAS_CLIP,
            HAS_BOUNDS=HAS_BOUNDS,
            ON_DEVICE=ON_DEVICE,
            WHOLE_GROUPS=WHOLE_GROUPS,
            NOISE_FIRST=0,
            PIXELS=H * W,
            PLANES=CHANNELS,
            M=M,
        )
    tl.store(out_pointer + at, new, mask=inside)
