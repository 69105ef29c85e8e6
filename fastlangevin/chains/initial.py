"""Initial states of chains: the distribution p0 of short runs, and checks of given states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from .. import noise
from ..network.target import Target
from ..validation import check_state_dtype, unknown
from .divergence import is_finite, n_not_finite

Init = Literal["uniform", "normal"] | Callable[..., Tensor]
_NAMES = ("uniform", "normal")


def check(init: Init) -> Init:
    if not callable(init) and init not in _NAMES:
        raise unknown("init", init, (*_NAMES, "a callable (shape, *, seed, step, chain_offset)"))
    return init


def draw(
    init: Init,
    shape: Sequence[int],
    *,
    bounds: tuple[float, float] | None,
    seed: int | Tensor,
    step: int | Tensor,
    chain_offset: int,
    offset: int,
    device: torch.device,
    dtype: torch.dtype,
    backend: str | None,
    std: float = 1.0,
) -> Tensor:
    """x0 of `shape`, from `Stream.INITIAL_STATE` at counter `step`.

    "uniform" is lo + (hi - lo)·u over the bounds, U(-1, 1) without bounds; "normal" is N(0, std²), clamped to the
    bounds if there are any. A callable is called with the shape and the keywords seed, step and chain_offset, and its
    result is used unchanged.
    """
    if callable(init):
        x0 = init(tuple(shape), seed=seed, step=step, chain_offset=chain_offset)
        if not isinstance(x0, Tensor) or tuple(x0.shape) != tuple(shape):
            got = tuple(x0.shape) if isinstance(x0, Tensor) else type(x0).__name__
            raise ValueError(f"init must return a tensor of shape {tuple(shape)}, got {got}")
        return x0.to(device=device, dtype=dtype)
    lo, hi = bounds or (-1.0, 1.0)
    if init == "uniform" and hi - lo > torch.finfo(torch.float32).max:
        raise ValueError(f"init='uniform' needs bounds whose difference is finite in float32, got ({lo}, {hi})")
    draw_from = noise.uniform if init == "uniform" else noise.normal
    x0 = draw_from(
        shape,
        seed=seed,
        step=step,
        stream=noise.Stream.INITIAL_STATE,
        offset=offset,
        device=device,
        backend=backend,
    )
    if init == "uniform":
        return x0.to(dtype).mul_(hi - lo).add_(lo)
    if std != 1.0:
        x0 = x0.to(torch.promote_types(dtype, torch.float32)).mul_(std)
    x0 = x0.to(dtype)
    if bounds is None:
        return x0
    return x0.clamp_(*(torch.tensor(bound, dtype=dtype).item() for bound in bounds))


def check_state(name: str, x: Tensor, target: Target) -> None:
    """Raises an error for a state from which chains of `target` cannot start."""
    check_state_dtype(name, x)
    if x.dim() == 0:
        raise ValueError(f"{name} must have a first dimension of chains, (B, *event), got a scalar")
    device = target.device()
    if device is not None and device != x.device:
        raise ValueError(f"{name} is on {x.device} and the {target.kind} on {device}: move one to the other")
    if x.is_meta:
        raise ValueError(f"{name} must have values, got a tensor on the meta device")
    if not x.is_cuda and not is_finite(x):  # on a GPU this would synchronize; the chain's own check detects it
        raise ValueError(f"{name} must be finite, got NaN or infinity in {int(n_not_finite(x))} of {len(x)} chains")
