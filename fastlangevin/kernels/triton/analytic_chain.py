"""Whole chains of energies in closed form on a GPU: each warp runs all steps of its chains, whose states stay in
registers. All numbers are read from device memory, so that a captured graph uses their current values.

A double well is computed element by element, with the operations of `csrc/cpu/analytic_chain_impl.h` in their order. A
mixture's squares are summed in an order that the layout of registers does not change: a chain's bits do not depend on
the launch.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..arguments import ChainArgs
from ..operators import written
from . import whole_chain
from .device import on
from .noise import normals
from .whole_chain import before_the_score, limits, move, sizes

MOST_DIMENSIONS = 128  # of a mixture: up to here nothing is spilled (tests/kernels/triton/test_analytic_chain.py)
GROUPS = 32  # of four elements that a program of a double well has: one a thread
# All registers that a thread can have: otherwise the assembler spills a few to fit another program.
OPTIONS = {"num_warps": 1, "maxnreg": 255, "enable_fp_fusion": False}
_ELEMENTS = 128  # that a program of a mixture has at least


@triton.jit
def _sum_features(a, DOUBLINGS: tl.constexpr):
    """(N, 2^DOUBLINGS) to (N,): neighbours, then pairs of neighbours, and so on."""
    for _ in tl.static_range(DOUBLINGS):
        even, odd = tl.split(tl.reshape(a, [a.shape[0], a.shape[1] // 2, 2]))
        a = even + odd
    return tl.reshape(a, [a.shape[0]])


@triton.jit
def _component(x, mean, precision, constant, DOUBLINGS: tl.constexpr):
    """precision · (mean - x), and constant - ½ Σ precision · (mean - x)²."""
    away = mean - x
    pull = away * precision
    return pull, tl.fma(_sum_features(pull * away, DOUBLINGS), -0.5, constant)


@triton.jit
def _mixture_score(
    x,
    constants_pointer,
    means_pointer,
    precisions_pointer,
    n_components: tl.int64,
    DIMENSION: tl.constexpr,
    DOUBLINGS: tl.constexpr,
):
    feature = tl.arange(0, x.shape[1])[None, :]
    inside = feature < DIMENSION
    greatest = tl.full([x.shape[0]], float("-inf"), tl.float32)
    for c in range(n_components):
        mean = tl.load(means_pointer + c * DIMENSION + feature, mask=inside, other=0.0)
        precision = tl.load(precisions_pointer + c * DIMENSION + feature, mask=inside, other=0.0)
        _, logit = _component(x, mean, precision, tl.load(constants_pointer + c), DOUBLINGS)
        greatest = tl.where(logit > greatest, logit, greatest)
    total, s = tl.zeros_like(greatest), tl.zeros_like(x)
    for c in range(n_components):
        mean = tl.load(means_pointer + c * DIMENSION + feature, mask=inside, other=0.0)
        precision = tl.load(precisions_pointer + c * DIMENSION + feature, mask=inside, other=0.0)
        pull, logit = _component(x, mean, precision, tl.load(constants_pointer + c), DOUBLINGS)
        weight = tl.exp(logit - greatest)
        total += weight
        s = tl.fma(pull, weight[:, None], s)
    return s * tl.div_rn(1.0, total)[:, None]


@triton.jit(do_not_specialize=["offset", "n", "n_components", "n_steps"])
def mixture_chain_kernel(
    x_pointer,  # (B, DIMENSION)
    constants_pointer,  # (n_components) float32
    means_pointer,  # (n_components, DIMENSION) float32
    precisions_pointer,  # (n_components, DIMENSION) float32
    step_sizes_pointer,  # (n_steps) float64
    noise_stds_pointer,  # (n_steps) float64
    seed_pointer,  # int64
    step_pointer,  # int64: of the first step
    limits_pointer,  # grad_clip, lo, hi, float32
    offset: tl.int64,  # a whole number of groups
    n: tl.int64,
    n_components: tl.int64,
    n_steps: tl.int64,
    HAS_NOISE: tl.constexpr,
    HAS_CLIP: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
    NOISE_FIRST: tl.constexpr,
    SKIP: tl.constexpr,  # lanes of the first group that precede x
    DIMENSION: tl.constexpr,
    DOUBLINGS: tl.constexpr,  # 2^DOUBLINGS: the next power of two
    GROUPS: tl.constexpr,
    BLOCK: tl.constexpr,  # chains, a multiple of four
):
    PADDED: tl.constexpr = 2**DOUBLINGS
    program = tl.program_id(0).to(tl.int64)
    chain, feature = tl.arange(0, BLOCK)[:, None], tl.arange(0, PADDED)[None, :]
    inside = (program * BLOCK + chain < n) & (feature < DIMENSION)
    place = chain * DIMENSION + feature
    x_pointer += program * BLOCK * DIMENSION
    x = tl.load(x_pointer + place, mask=inside, other=0.0)
    group = offset // 4 + program * (BLOCK * DIMENSION // 4) + tl.arange(0, GROUPS)
    drawn = tl.reshape(tl.where(feature < DIMENSION, SKIP + place, 0), [BLOCK * PADDED])
    seed, step = tl.load(seed_pointer), tl.load(step_pointer)
    clip, lo, hi = limits(limits_pointer)
    for k in range(n_steps):
        eta, sigma = sizes(step_sizes_pointer, noise_stds_pointer, k)
        z = x
        if HAS_NOISE:
            some = normals(group, seed, step + k, tl.zeros_like(seed))
            if SKIP > 0 or DIMENSION != PADDED:
                some = tl.gather(some, drawn, 0)
            z = tl.reshape(some, [BLOCK, PADDED])
        x = before_the_score(x, z, sigma, lo, hi, NOISE_FIRST)
        s = _mixture_score(x, constants_pointer, means_pointer, precisions_pointer, n_components, DIMENSION, DOUBLINGS)
        x = move(x, s, z, eta, sigma, clip, lo, hi, HAS_NOISE, HAS_CLIP, HAS_BOUNDS, NOISE_FIRST)
    tl.store(x_pointer + place, x, mask=inside)


@triton.jit(do_not_specialize=["first_group", "n", "n_steps"])
def double_well_chain_kernel(
    x_pointer,  # (n)
    well_pointer,  # barrier, width, float32
    step_sizes_pointer,  # (n_steps) float64
    noise_stds_pointer,  # (n_steps) float64
    seed_pointer,  # int64
    step_pointer,  # int64: of the first step
    limits_pointer,  # grad_clip, lo, hi, float32
    first_group: tl.int64,
    n: tl.int64,
    n_steps: tl.int64,
    HAS_NOISE: tl.constexpr,
    HAS_CLIP: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
    NOISE_FIRST: tl.constexpr,
    SKIP: tl.constexpr,  # lanes of the first group that precede x
    GROUPS: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    index = program * (4 * GROUPS) + tl.arange(0, 4 * GROUPS) - SKIP
    inside = (index >= 0) & (index < n)
    x = tl.load(x_pointer + index, mask=inside, other=0.0)
    group = first_group + program * GROUPS + tl.arange(0, GROUPS)
    barrier, width = tl.load(well_pointer), tl.load(well_pointer + 1)
    per_square = tl.div_rn(1.0, width * width)
    slope = -4.0 * barrier * per_square
    seed, step = tl.load(seed_pointer), tl.load(step_pointer)
    clip, lo, hi = limits(limits_pointer)
    for k in range(n_steps):
        eta, sigma = sizes(step_sizes_pointer, noise_stds_pointer, k)
        z = x
        if HAS_NOISE:
            z = normals(group, seed, step + k, tl.zeros_like(seed))
        x = before_the_score(x, z, sigma, lo, hi, NOISE_FIRST)
        s = slope * x * (x * x * per_square - 1.0)
        x = move(x, s, z, eta, sigma, clip, lo, hi, HAS_NOISE, HAS_CLIP, HAS_BOUNDS, NOISE_FIRST)
    tl.store(x_pointer + index, x, mask=inside)


def unsupported(dimension: int) -> str | None:
    """Why mixtures of this many dimensions have no chains here, or None if they do."""
    if dimension > MOST_DIMENSIONS:
        return f"the mixture has {dimension} dimensions, more than {MOST_DIMENSIONS}"
    return None


def mixture_(constants: Tensor, means: Tensor, precisions: Tensor, x: Tensor, args: ChainArgs) -> None:
    """Like `kernels.cpu.analytic_chain.mixture_`, with numbers from Python or tensors."""
    shape = mixture_constants(x.shape[1], args.offset % 4)
    with on(x.device):
        mixture_chain_kernel[(triton.cdiv(len(x), shape["BLOCK"]),)](
            *(x, constants, means, precisions, *whole_chain.numbers(x, args)),
            *(args.offset - args.offset % 4, len(x), len(constants), len(args.step_sizes)),
            **whole_chain.parts(args),
            **shape,
            **OPTIONS,
        )
    written(x)


def double_well_(barrier: float, width: float, x: Tensor, args: ChainArgs) -> None:
    """Like `kernels.cpu.analytic_chain.double_well_`, with numbers from Python or tensors."""
    well = whole_chain.filled(x, barrier, width)
    with on(x.device):
        double_well_chain_kernel[(triton.cdiv(x.numel() + args.offset % 4, 4 * GROUPS),)](
            *(x, well, *whole_chain.numbers(x, args)),
            *(args.offset // 4, x.numel(), len(args.step_sizes)),
            **whole_chain.parts(args),
            GROUPS=GROUPS,
            **OPTIONS,
        )
    written(x)


def mixture_constants(dimension: int, skip: int) -> dict[str, int]:
    """The constants of a mixture's kernel, and how many chains a program has."""
    padded = triton.next_power_of_2(dimension)
    block = max(4, _ELEMENTS // padded)
    return {
        "DIMENSION": dimension,
        "DOUBLINGS": padded.bit_length() - 1,
        "GROUPS": triton.next_power_of_2(triton.cdiv(block * dimension + skip, 4)),
        "BLOCK": block,
    }
