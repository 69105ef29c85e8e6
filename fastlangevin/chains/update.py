"""The fused Langevin update: gradient step, noise and limits in one pass over the state."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels
from ..kernels.arguments import UpdateArgs
from ..noise import check_offset, check_seed, check_step, check_stream
from ..validation import Bounds, check_bounds, check_grad_clip, check_scale, check_state_dtype
from .clip import clip_norm


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
    grad_clip_norm: float | None = None,
    bounds: Bounds | None = None,
    backend: str | None = None,
) -> Tensor:
    """One unadjusted Langevin step, in place; returns x.

        s = clip(score·min(1, grad_clip_norm / ‖score‖₂), ±grad_clip)
        x ← clamp(fma(noise_std, z, fma(step_size, s, x)), lo, hi)

    in float32 for float32 states and, rounded once at the end, for bfloat16 and float16; in float64, with float32 z,
    for float64 states. z is `noise.normal(x.shape, seed=seed, step=step, stream=stream, offset=offset)`: its elements
    are numbered in row-major order of x's shape whatever its strides. NaN stays NaN through both limits. Langevin
    dynamics at temperature T has noise_std = sqrt(2 · step_size · T).

    Args:
        score: -∇U(x) = ∇ log p(x); None for noise alone.
        step_size: η ≥ 0, a float or a float64 tensor of one element (read at each call, so that torch.compile does
            not recompile for a new value); or of (B,), one for each chain of x (B, *event). Rounded once to float32
            unless x is float64.
        noise_std: σ ≥ 0, likewise; None for no noise.
        seed, step, stream, offset: of the noise stream, see `noise.normal`.
        grad_clip: limit on every element of the score, before the step. None: no limit.
        grad_clip_norm: limit on the norm of each chain's score, x being (B, *event), before the other one; its squares
            are added in float64. For 16-bit states the scaled score is rounded to the state's type. None: no limit.
        bounds: (lo, hi), limits on the new state; None for one that is not limited.
        backend: "reference", "cpu", "triton", "cuda", or None for the fastest on x's device.

    Raises:
        TypeError, ValueError: an argument is not as described above.
        RuntimeError: x or score requires grad while gradients are recorded: the update is not differentiable.
        BackendUnavailable: the requested backend does not support x's device.

    Examples:
        >>> x = torch.zeros(64, 2)
        >>> for k in range(10):  # Langevin dynamics of N(0, 1), with a score of one's own
        ...     x = fl.langevin_update_(x, -x, step_size=0.1, noise_std=0.2**0.5, seed=1, step=k)
        >>> x.shape
        torch.Size([64, 2])

        Without a score it is noise alone:

        >>> x = fl.langevin_update_(torch.zeros(3), None, step_size=0.0, noise_std=1.0, seed=1, step=0)
        >>> torch.equal(x, fl.noise.normal((3,), seed=1, step=0))
        True
    """
    _check_state(x, score)
    if score is None and noise_std is None:
        raise ValueError("score and noise_std are both None: there is nothing to do")
    if score is not None and step_size is None:
        raise ValueError("step_size must be given with a score, got None")
    lo, hi = check_bounds(bounds) or (None, None)
    args = UpdateArgs(
        check_scale("step_size", step_size, x),
        check_scale("noise_std", noise_std, x),
        check_seed(seed),
        check_step(step),
        check_stream(stream),
        check_offset(offset),
        check_grad_clip(grad_clip),
        lo,
        hi,
    )
    limit = check_grad_clip(grad_clip_norm, "grad_clip_norm")
    chosen = kernels.select(backend, x.device)
    if x.numel():
        if score is not None and limit is not None:
            score = clip_norm(score, limit)
        chosen.update(x, score, args)
    return x


def _check_state(x: Tensor, score: Tensor | None) -> None:
    check_state_dtype("x", x)
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
