"""The fused Langevin update: gradient step, noise and limits in one pass over the state."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from .. import kernels
from ..noise import check_offset, check_seed, check_step, check_stream

STATE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def langevin_update_(
    x: Tensor,  # any shape, any strides
    score: Tensor | None,  # x's shape, dtype and device
    step_size: float | Tensor | None,
    noise_std: float | Tensor | None,
    *,
    seed: int | Tensor,
    step: int | Tensor,
    stream: int = 0,
    offset: int = 0,
    grad_clip: float | None = None,
    bounds: tuple[float, float] | None = None,
    backend: str | None = None,
) -> Tensor:
    """One unadjusted Langevin step, in place; returns x.

        s = clip(score, ±grad_clip)
        x ← clamp(fma(noise_std, z, fma(step_size, s, x)), lo, hi)

    in float32 for float32 states and, rounded once at the end, for bfloat16 and float16; in float64, with float32 z,
    for float64 states. z is `noise.normal(x.shape, seed=seed, step=step, stream=stream, offset=offset)`: its elements
    are numbered in row-major order of x's shape whatever its strides. NaN stays NaN through both limits. Langevin
    dynamics at temperature T has noise_std = sqrt(2 · step_size · T).

    Args:
        score: -∇U(x) = ∇ log p(x); None for noise alone.
        step_size: η ≥ 0, a float or a float64 tensor of one element (read at each call, so that torch.compile does
            not recompile for a new value); rounded once to float32 unless x is float64.
        noise_std: σ ≥ 0, likewise; None for no noise.
        seed, step, stream, offset: of the noise stream, see `noise.normal`.
        grad_clip: limit on every element of the score, before the step.
        bounds: (lo, hi), limits on the new state.
        backend: "reference", "cpu", "triton", "cuda", or None for the fastest on x's device.

    Raises:
        TypeError, ValueError: an argument that is not as above.
        RuntimeError: x, or score, requires grad where gradients are recorded: the update is not differentiable.
        BackendUnavailable: the backend asked for cannot serve x's device.
    """
    _check_state(x, score)
    if score is None and noise_std is None:
        raise ValueError("score and noise_std are both None: there is nothing to do")
    if score is not None and step_size is None:
        raise ValueError("step_size must be given with a score, got None")
    lo, hi = check_bounds(bounds) or (None, None)
    arguments = (
        check_scale("step_size", step_size),
        check_scale("noise_std", noise_std),
        *(check_seed(seed), check_step(step), check_stream(stream), check_offset(offset)),
        *(check_grad_clip(grad_clip), lo, hi),
    )
    chosen = kernels.select(backend, x.device)
    if x.numel():
        chosen.update(x, score, *arguments)
    return x


def check_grad_clip(grad_clip: float | None) -> float | None:
    if grad_clip is None:
        return None
    if not _is_number(grad_clip) or not grad_clip > 0:
        raise ValueError(f"grad_clip must be a positive number or None, got {grad_clip!r}")
    return float(grad_clip)


def check_bounds(bounds: tuple[float, float] | None) -> tuple[float, float] | None:
    if bounds is None:
        return None
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2 or not all(map(_is_number, bounds)):
        raise ValueError(f"bounds must be a pair of numbers (lo, hi) or None, got {bounds!r}")
    lo, hi = map(float, bounds)
    if not lo < hi:
        raise ValueError(f"bounds must have lo < hi, got ({lo}, {hi})")
    return lo, hi


def check_scale(name: str, value: float | Tensor | None) -> float | Tensor | None:
    """A step size or noise level: a number that is not negative, or a float64 tensor of one element."""
    if value is None or isinstance(value, torch.SymFloat):
        return value
    if isinstance(value, Tensor):
        if value.dtype != torch.float64 or value.numel() != 1:
            raise TypeError(
                f"{name} as a tensor must be float64 with one element, got {value.dtype} {tuple(value.shape)}"
            )
        return value
    if not _is_number(value):
        raise TypeError(f"{name} must be a float or a float64 tensor, got {type(value).__name__} {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return float(value)


def _is_number(value: object) -> bool:
    # The plain types first: an abstract base class is slow to ask, and torch.compile does not trace it.
    if isinstance(value, (int, float)):
        return not isinstance(value, bool)
    return isinstance(value, Real)


def _check_state(x: Tensor, score: Tensor | None) -> None:
    if not isinstance(x, Tensor) or x.dtype not in STATE_DTYPES:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a float32, float64, bfloat16 or float16 tensor, got {got}")
    if score is not None:
        if not isinstance(score, Tensor):
            raise TypeError(f"score must be a tensor or None, got {type(score).__name__}")
        if score.shape != x.shape:
            raise ValueError(f"score must have x's shape {tuple(x.shape)}, got {tuple(score.shape)}")
        if score.dtype != x.dtype or score.device != x.device:
            raise ValueError(
                f"score must have x's dtype and device ({x.dtype} on {x.device}), got {score.dtype} on {score.device}"
            )
    if 0 in x.stride() and any(n > 1 and stride == 0 for n, stride in zip(x.shape, x.stride(), strict=True)):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single memory location. "
            "Please clone() the tensor before performing the operation."
        )
    if torch.is_grad_enabled():
        if x.requires_grad and x.is_leaf:
            raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation.")
        if x.requires_grad or (score is not None and score.requires_grad):
            name = "x" if x.requires_grad else "score"
            raise RuntimeError(
                f"langevin_update_ is not differentiable and {name} requires grad: detach it, or call it under "
                "torch.no_grad()"
            )
