"""What Triton kernels of whole chains share: the numbers that they read from device memory, so that a captured graph
uses their current values, and the two parts of a step around the score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..arguments import ChainArgs
from .update import clamp


@triton.jit
def limits(pointer):
    """grad_clip, lo, hi."""
    return tl.load(pointer), tl.load(pointer + 1), tl.load(pointer + 2)


@triton.jit
def sizes(step_sizes_pointer, noise_stds_pointer, k):
    """η and σ of step k."""
    return tl.load(step_sizes_pointer + k).to(tl.float32), tl.load(noise_stds_pointer + k).to(tl.float32)


@triton.jit
def before_the_score(x, z, sigma, lo, hi, NOISE_FIRST: tl.constexpr):
    if NOISE_FIRST > 0:
        x = tl.fma(sigma, z, x)
    if NOISE_FIRST == 2:
        x = clamp(x, lo, hi)
    return x


@triton.jit
def move(
    x,
    s,
    z,
    eta,
    sigma,
    clip,
    lo,
    hi,
    HAS_NOISE: tl.constexpr,
    HAS_CLIP: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
    NOISE_FIRST: tl.constexpr,
):
    """The part of a step after the score s."""
    if HAS_CLIP:
        s = clamp(s, -clip, clip)
    x = tl.fma(eta, s, x)
    if HAS_NOISE and NOISE_FIRST == 0:
        x = tl.fma(sigma, z, x)
    if HAS_BOUNDS:
        x = clamp(x, lo, hi)
    return x


class Numbers(NamedTuple):
    """The numbers of K steps, on the state's device, in the order of the kernels' arguments."""

    step_sizes: Tensor  # (K,) float64
    noise_stds: Tensor  # (K,) float64
    seed: Tensor  # int64
    step: Tensor  # int64: of the first step
    limits: Tensor  # grad_clip, lo, hi, float32


def numbers(x: Tensor, args: ChainArgs) -> Numbers:
    """From Python numbers, or tensors on x's device. x is float32."""
    step_sizes, noise_stds = (_on(x, values, torch.float64) for values in (args.step_sizes, args.noise_stds))
    seed, step = _on(x, [args.seed, args.steps[0]], torch.int64)
    clip, lo, hi = args.grad_clip, args.lo, args.hi
    of_all = (
        math.inf if clip is None else clip,
        -math.inf if lo is None else lo,
        math.inf if hi is None else hi,
    )
    return Numbers(step_sizes, noise_stds, seed, step, filled(x, *of_all))


def parts(args: ChainArgs) -> dict[str, Any]:
    """Which parts of a step the kernel has, and how many lanes of the first group precede x."""
    return {
        "HAS_NOISE": args.has_noise or args.noise_first is not False,
        "HAS_CLIP": args.grad_clip is not None,
        "HAS_BOUNDS": args.lo is not None or args.hi is not None,
        "NOISE_FIRST": int(args.order),
        "SKIP": args.offset % 4,
    }


def filled(like: Tensor, *values: float) -> Tensor:
    """The values as a tensor, by fills: a copy from the host cannot be captured."""
    return torch.cat([like.new_full((1,), value) for value in values])


def _on(x: Tensor, values: Sequence[float | Tensor], dtype: torch.dtype) -> Tensor:
    """Python numbers, or tensors on x's device, as one tensor on x's device."""
    if isinstance(values[0], Tensor):
        return torch.stack(list(values))  # type: ignore[arg-type]
    return torch.tensor([int(n) if dtype == torch.int64 else n for n in values], dtype=dtype, device=x.device)
