"""The fused update and filling with deviates in Triton, with the contract of `fastlangevin.langevin_update_`.

A program processes BLOCK groups of four elements. Numbers are passed by value (a float64 as its bits: Triton would pass
a Python float as float32) or, for torch.compile and captured graphs, read from device memory.
"""

from __future__ import annotations

import functools
import math
import struct

import triton
import triton.language as tl
from torch import Tensor

from ..arguments import UpdateArgs, is_per_chain, n_chains
from .device import on
from .noise import normals, uniforms

# The alignment of these pointers must not specialise the kernel: the numbers of a captured chain are adjacent, and only
# the kernel of the first one has been compiled when the capture starts.
NUMBERS = ("step_size_pointer", "noise_std_pointer", "seed_pointer", "step_pointer")
# Nor must the values: Triton would compile again for a step divisible by 16, and for step 1.
VALUES = ("step_size", "noise_std", "seed", "step", "clip", "lo", "hi", "stream", "offset", "first_group", "chain_size")
# Nor sizes and strides: a layout would be compiled for each class of eleven numbers.
LAYOUT = ("n1", "n2", "n3", "x0", "x1", "x2", "x3", "s0", "s1", "s2", "s3")
BLOCK, WARPS = 256, 4  # groups per program: two per thread, whose 16-byte loads are in flight together
STRIDED_DIMENSIONS = 4


@triton.jit
def clamp(a, lo, hi):
    # NaN compares false and is kept, which tl.minimum, tl.maximum and tl.clamp do not guarantee.
    a = tl.where(a < lo, lo, a)
    return tl.where(a > hi, hi, a)


# Written out for bfloat16 because Triton's interpreter truncates to it and loses its subnormals.
@triton.jit
def widen(a, dtype: tl.constexpr):
    if a.dtype == tl.bfloat16:
        return (a.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return a.to(dtype)


@triton.jit
def narrow(a, dtype: tl.constexpr):
    if dtype == tl.bfloat16:
        bits = a.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where(a != a, 0x7FC0, rounded).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return a.to(dtype)


@triton.jit
def scalar(bits: tl.int64, pointer, ON_DEVICE: tl.constexpr, dtype: tl.constexpr):
    """A float64, by value or from memory, rounded once to the compute dtype."""
    if ON_DEVICE:
        return tl.load(pointer).to(dtype)
    else:
        return bits.to(tl.int64).to(tl.float64, bitcast=True).to(dtype)


@triton.jit
def _of_elements(bits, pointer, chain, inside, ON_DEVICE: tl.constexpr, PER_CHAIN: tl.constexpr, dtype: tl.constexpr):
    """The same for elements: one number for all of them, or one for each chain."""
    if PER_CHAIN:
        return tl.load(pointer + chain, mask=inside, other=0.0).to(dtype)
    else:
        return scalar(bits, pointer, ON_DEVICE, dtype)


@triton.jit
def key(value: tl.int64, pointer, ON_DEVICE: tl.constexpr):
    if ON_DEVICE:
        return tl.load(pointer)
    else:
        return value.to(tl.int64)


@triton.jit
def _strided(index, n1, n2, n3, s0, s1, s2, s3):
    """The memory offset of a logical index into four dimensions; the divisions have the width of the index."""
    i2, i3 = index // n3.to(index.dtype), index % n3.to(index.dtype)
    i1, i2 = i2 // n2.to(index.dtype), i2 % n2.to(index.dtype)
    i0, i1 = i1 // n1.to(index.dtype), i1 % n1.to(index.dtype)
    return i0.to(tl.int64) * s0 + i1.to(tl.int64) * s1 + i2.to(tl.int64) * s2 + i3.to(tl.int64) * s3


@triton.jit(do_not_specialize=(*VALUES, *LAYOUT), do_not_specialize_on_alignment=NUMBERS)
def update_kernel(
    x_pointer,
    score_pointer,
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
    first_group: tl.int64,
    n: tl.int64,
    n1: tl.int64,
    n2: tl.int64,
    n3: tl.int64,
    x0: tl.int64,
    x1: tl.int64,
    x2: tl.int64,
    x3: tl.int64,
    s0: tl.int64,
    s1: tl.int64,
    s2: tl.int64,
    s3: tl.int64,
    chain_size: tl.int64,  # elements of a chain
    STEP_SIZE_PER_CHAIN: tl.constexpr,
    NOISE_STD_PER_CHAIN: tl.constexpr,
    HAS_SCORE: tl.constexpr,
    HAS_NOISE: tl.constexpr,
    HAS_CLIP: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
    ON_DEVICE: tl.constexpr,
    STRIDED: tl.constexpr,
    SKIP: tl.constexpr,  # lanes of the first group that precede x
    WIDE: tl.constexpr,  # more elements than 32-bit indices can address
    BLOCK: tl.constexpr,
):
    dtype: tl.constexpr = tl.float64 if x_pointer.dtype.element_ty == tl.float64 else tl.float32
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    index = program * (4 * BLOCK) + tl.arange(0, 4 * BLOCK) - SKIP
    inside = index < n if SKIP == 0 else (index >= 0) & (index < n)
    x_at = x_pointer + (_strided(index, n1, n2, n3, x0, x1, x2, x3) if STRIDED else index)
    x = widen(tl.load(x_at, mask=inside, other=0.0), dtype)
    chain = index // chain_size.to(index.dtype) if STEP_SIZE_PER_CHAIN or NOISE_STD_PER_CHAIN else index
    if HAS_SCORE:
        score_at = score_pointer + (_strided(index, n1, n2, n3, s0, s1, s2, s3) if STRIDED else index)
        score = widen(tl.load(score_at, mask=inside, other=0.0), dtype)
        if HAS_CLIP:
            limit = scalar(clip, None, False, dtype)
            score = clamp(score, -limit, limit)
        eta = _of_elements(step_size, step_size_pointer, chain, inside, ON_DEVICE, STEP_SIZE_PER_CHAIN, dtype)
        x = tl.fma(eta, score, x)
    if HAS_NOISE:
        group = first_group + program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        z = normals(group, key(seed, seed_pointer, ON_DEVICE), key(step, step_pointer, ON_DEVICE), stream)
        sigma = _of_elements(noise_std, noise_std_pointer, chain, inside, ON_DEVICE, NOISE_STD_PER_CHAIN, dtype)
        x = tl.fma(sigma, z.to(dtype), x)
    if HAS_BOUNDS:
        x = clamp(x, scalar(lo, None, False, dtype), scalar(hi, None, False, dtype))
    tl.store(x_at, narrow(x, x_pointer.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=VALUES, do_not_specialize_on_alignment=NUMBERS[2:])
def fill_kernel(
    out_pointer,
    seed: tl.int64,
    step: tl.int64,
    seed_pointer,
    step_pointer,
    stream: tl.int64,
    first_group: tl.int64,
    n: tl.int64,
    UNIFORM: tl.constexpr,
    ON_DEVICE: tl.constexpr,
    SKIP: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64) if WIDE else tl.program_id(0)
    index = program * (4 * BLOCK) + tl.arange(0, 4 * BLOCK) - SKIP
    inside = index < n if SKIP == 0 else (index >= 0) & (index < n)
    group = first_group + program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    seed = key(seed, seed_pointer, ON_DEVICE)
    step = key(step, step_pointer, ON_DEVICE)
    z = uniforms(group, seed, step, stream) if UNIFORM else normals(group, seed, step, stream)
    tl.store(out_pointer + index, z, mask=inside)


def update(x: Tensor, score: Tensor | None, args: UpdateArgs) -> None:
    """Launches the update of x. The first four of `args` are either Python numbers or tensors."""
    layout = _layout(x, x if score is None else score)
    if layout is None:
        dense = x.contiguous()
        if score is not None:
            score = score.contiguous()
        update(dense, score, args)
        x.copy_(dense)
        return
    skip, n = args.offset % 4, x.numel()
    numbers, parts = kernel_arguments(args)
    with on(x.device):
        update_kernel[(triton.cdiv(n + skip, 4 * BLOCK),)](
            *(x, score, *numbers, args.stream, args.offset // 4, n, *layout, n // max(1, n_chains(x))),
            STEP_SIZE_PER_CHAIN=is_per_chain(args.step_size),
            NOISE_STD_PER_CHAIN=is_per_chain(args.noise_std),
            HAS_SCORE=score is not None,
            **parts,
            STRIDED=layout != _DENSE,
            SKIP=skip,
            WIDE=is_wide(n),
            BLOCK=BLOCK,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )


def fill(out: Tensor, seed: Tensor | int, step: Tensor | int, stream: int, offset: int, uniform: bool) -> None:
    """Launches the filling of a contiguous float32 tensor. Seed and step are ints, or tensors on its device."""
    on_device = isinstance(seed, Tensor)
    skip, n = offset % 4, out.numel()
    with on(out.device):
        fill_kernel[(triton.cdiv(n + skip, 4 * BLOCK),)](
            *(out, *((0, 0, seed, step) if on_device else (seed, step, None, None))),
            *(stream, offset // 4, n),
            UNIFORM=uniform,
            ON_DEVICE=on_device,
            SKIP=skip,
            WIDE=is_wide(n),
            BLOCK=BLOCK,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )


_DENSE = (1,) * (STRIDED_DIMENSIONS - 1) + (0,) * (2 * STRIDED_DIMENSIONS)


def _layout(x: Tensor, score: Tensor) -> tuple[int, ...] | None:
    """n1 … n3, x's strides and score's strides for the kernel; None for more dimensions than it supports."""
    if x.is_contiguous() and score.is_contiguous():
        return _DENSE
    return _merged(tuple(x.shape), x.stride(), score.stride())


@functools.lru_cache(maxsize=256)
def _merged(
    shape: tuple[int, ...], x_strides: tuple[int, ...], score_strides: tuple[int, ...]
) -> tuple[int, ...] | None:
    dimensions: list[tuple[int, int, int]] = []
    for n, a, b in zip(shape, x_strides, score_strides, strict=True):
        if n == 1:
            continue
        if dimensions and dimensions[-1][1:] == (n * a, n * b):
            n *= dimensions.pop()[0]
        dimensions.append((n, a, b))
    if len(dimensions) > STRIDED_DIMENSIONS:
        return None
    dimensions = [(1, 0, 0)] * (STRIDED_DIMENSIONS - len(dimensions)) + dimensions
    sizes, x_strides, score_strides = zip(*dimensions, strict=True)
    return (*sizes[1:], *x_strides, *score_strides)


def kernel_arguments(args: UpdateArgs) -> tuple[tuple[object, ...], dict[str, bool]]:
    """A kernel's arguments from `step_size` to `hi`, and which parts of the update they require."""
    step_size, noise_std, seed, step, _, _, grad_clip, lo, hi = args
    on_device = isinstance(seed, Tensor)
    four = (step_size, noise_std, seed, step)
    by_value = (0,) * 4 if on_device else (bits_of(step_size or 0.0), bits_of(noise_std or 0.0), seed, step)
    limits = (grad_clip or 0.0, -math.inf if lo is None else lo, math.inf if hi is None else hi)
    parts = {
        "HAS_NOISE": noise_std is not None,
        "HAS_CLIP": grad_clip is not None,
        "HAS_BOUNDS": lo is not None or hi is not None,
        "ON_DEVICE": on_device,
    }
    return (*by_value, *(four if on_device else (None,) * 4), *map(bits_of, limits)), parts


def bits_of(value: float | Tensor) -> int:
    """A float64's bits as an int64."""
    return struct.unpack("<q", struct.pack("<d", value))[0]


def is_wide(n: int) -> bool:
    return n > 2**31 - 4 * BLOCK
