"""Samples some elements of states, given the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .base import Sampler


def inpaint(
    sampler: Sampler,
    x: Tensor,
    mask: Tensor,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    n_steps: int | None = None,
    chain_offset: int | None = None,
    step: int | None = None,
) -> Tensor:
    """Samples the elements of x where mask is false, given those where it is true, which stay as they are.

    The chains start at `sampler.initial` in the elements that are sampled, and at x in the others. The score of the
    joint density, restricted to the sampled elements, is that of their conditional density given the others, so the
    chain is one of Langevin dynamics of p(x_sampled | x_given).

    Args:
        sampler: a `Langevin`.
        x: (B, *event), floating point; finite where it is given. Not modified.
        mask: bool, of a shape that broadcasts to x's; true where x is given.
        args, kwargs, n_steps, chain_offset, step: as in a call of the sampler, whose counter advances as in one.

    Returns:
        (B, *event), of x's dtype and layout.

    Raises:
        TypeError, ValueError, …: as a call of the sampler.

    Examples:
        >>> sampler = fl.Langevin(log_density=fl.models.ConvNet(8, 1, features=8), n_steps=10, seed=1)
        >>> images, _ = fl.digits()
        >>> given = torch.arange(8)[:, None] < 4  # the upper half; broadcasts to (1, 8, 8)
        >>> completed = fl.inpaint(sampler, images[:16], given)
        >>> torch.equal(completed[..., :4, :], images[:16, :, :4])
        True
    """
    if not isinstance(x, Tensor) or not isinstance(mask, Tensor):
        wrong, got = ("mask", mask) if isinstance(x, Tensor) else ("x", x)
        raise TypeError(f"{wrong} must be a tensor, got {type(got).__name__}")
    start = sampler.initial(x.shape, chain_offset=chain_offset, step=step, device=x.device, dtype=x.dtype)
    x0 = torch.where(mask, x.detach(), start)
    return sampler(x0, *args, kwargs=kwargs, n_steps=n_steps, chain_offset=chain_offset, step=step, mask=mask)
