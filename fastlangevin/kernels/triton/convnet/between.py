"""The end of a Langevin step and the beginning of the next one in one kernel: the score from the first layer's
gradient, the update with it, and the first layer at the new state.

A program has a band of rows of one image's activations. The convolution also reads the states of the row above its own
and of the row below, which are other programs'. It computes these itself, with the same bits, for the noise is counted:
no program waits for another. None reads what another one writes, so the state and the gradient, which the activations
replace, have two buffers each that take turns. The band's new state goes through memory of the program's own, 3.4 KB
for 18 rows of three planes in 16 bits, which stay in L1. Triton has no name for shared memory: what `tl.gather` finds
there is one tensor whose size is a power of two, stored anew at each gather.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..update import NUMBERS, VALUES
from .dependent import after_the_last_kernel
from .forward import activate, first_sums
from .input import element, moved, score_of_tile
from .parts import to_compute


@triton.jit(do_not_specialize=VALUES, do_not_specialize_on_alignment=NUMBERS)
def between_kernel(
    g_pointer,  # (B, HEIGHT, WIDTH, CHANNELS)
    backward_pointer,  # (16, KERNEL, KERNEL, CHANNELS): PLANES rows, then zeros
    unscale_pointer,  # one float32
    x_pointer,  # (B, PLANES, STRIDE * HEIGHT, STRIDE * WIDTH) float32
    out_pointer,  # likewise: the next state
    forward_pointer,  # (CHANNELS, PRODUCTS): (plane, y, x) and zeros
    bias_pointer,  # (CHANNELS,) float32
    y_pointer,  # (B, HEIGHT, WIDTH, CHANNELS), the next activations
    mask_pointer,  # (B, HEIGHT, WIDTH, CHANNELS / 32) int32
    band_pointer,  # for each program (PLANES, STRIDE * ROWS + 2, STRIDE * WIDTH) of the activations' type
    slope: tl.float32,
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
    HAS_NOISE: tl.constexpr,
    HAS_CLIP: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
    ON_DEVICE: tl.constexpr,
    WHOLE_GROUPS: tl.constexpr,
    NOISE_FIRST: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    PLANES: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    ROWS: tl.constexpr,  # of the activations, in a band
    PRODUCTS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    PDL: tl.constexpr,
):
    after_the_last_kernel(PDL)
    H: tl.constexpr = STRIDE * HEIGHT
    W: tl.constexpr = STRIDE * WIDTH
    PADDED: tl.constexpr = PLANES if PLANES <= 2 else 4
    BAND: tl.constexpr = STRIDE * ROWS + 2
    image = tl.program_id(1)
    first_y = tl.program_id(0) * (STRIDE * ROWS) - 1
    band_pointer += (image * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * (PLANES * BAND * W)
    gradients = g_pointer + image.to(tl.int64) * (HEIGHT * WIDTH * CHANNELS)

    i = tl.arange(0, PADDED * M)
    for tile in range((BAND * W + M - 1) // M):
        place = tile * M + tl.arange(0, M)
        y, x = first_y + place // W, place % W
        inside = (place < BAND * W) & (y >= 0) & (y < H)
        tensors = (gradients, backward_pointer, unscale_pointer)
        score = score_of_tile(*tensors, 0, y, x, inside, HEIGHT, WIDTH, CHANNELS, KERNEL, STRIDE, PADDED, 16, K)
        first_row = image * (H * W) + first_y * W + tile * M
        place = tile * M + i % M
        y = first_y + place // W
        inside = (place < BAND * W) & (y >= 0) & (y < H) & (i // M < PLANES)
        at = element(i, first_row, H * W, PLANES, M)
        state = tl.load(x_pointer + at, mask=inside, other=0.0)
        numbers = (step_size, noise_std, seed, step, step_size_pointer, noise_std_pointer, seed_pointer, step_pointer)
        limits = (clip, lo, hi, stream, offset)
        state = moved(
            state,
            score,
            first_row,
            *numbers,
            *limits,
            HAS_NOISE=HAS_NOISE,
            HAS_CLIP=HAS_CLIP,
            HAS_BOUNDS=HAS_BOUNDS,
            ON_DEVICE=ON_DEVICE,
            WHOLE_GROUPS=WHOLE_GROUPS,
            NOISE_FIRST=NOISE_FIRST,
            PIXELS=H * W,
            PLANES=PLANES,
            M=M,
        )
        is_own = (place >= W) & (place < (BAND - 1) * W)
        tl.store(out_pointer + at, state, mask=inside & is_own)
        kept = to_compute(state, band_pointer.dtype.element_ty)
        tl.store(band_pointer + i // M * (BAND * W) + place, kept, mask=inside)
    tl.debug_barrier()  # all threads have written their part of the band before one of them reads it

    for tile in range((ROWS * WIDTH + M - 1) // M):
        place = tile * M + tl.arange(0, M)
        y = tl.program_id(0) * ROWS + place // WIDTH
        inside = (place < ROWS * WIDTH) & (y < HEIGHT)
        top, left = y * STRIDE - 1, place % WIDTH * STRIDE - 1
        origin = (top - first_y) * W + left
        row = image * (HEIGHT * WIDTH) + tl.program_id(0) * (ROWS * WIDTH) + place
        for first_column in range(0, CHANNELS, N):
            windows = (origin, top, left, inside, first_column)
            acc = first_sums(band_pointer, forward_pointer, *windows, H, W, BAND * W, PLANES, KERNEL, N, PRODUCTS)
            outputs = (bias_pointer, y_pointer, mask_pointer, None, None)
            activate(acc, row, inside, first_column, *outputs, slope, HEIGHT * WIDTH, CHANNELS, False, False)
