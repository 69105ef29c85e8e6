"""The handwritten loop, as in the code of the paper: contiguous, eager, `autograd.grad`.

In channels_last the noise is drawn contiguous, because `randn_like` of a channels_last CPU tensor is nine times slower.
float32 is strict for any flags of the process, and TF32 is requested explicitly.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastlangevin.score import precision as precisions

if TYPE_CHECKING:
    from works import Work

MISSING = None


def supports(work: Work, *, precision: str = "fp32", layout: str = "contiguous") -> str | None:
    if precision in ("tf32", "fp16") and work.device != "cuda":
        return f"{precision} is for GPUs"
    if precision in precisions.HALF and not work.is_network:
        return "autocast applies to products and convolutions, and the density has none"
    if layout == "channels_last" and not work.is_convnet:
        return "channels_last is for images"
    return None


def make(work: Work, *, precision: str = "fp32", layout: str = "contiguous") -> Callable[[Tensor, int, float], Tensor]:
    is_last = layout == "channels_last"
    work = _channels_last(work) if is_last else work
    score = torch.no_grad()(work.score) if work.kind == "score" else by_autograd(work.log_density)

    def run(x0: Tensor, n_steps: int, noise_std: float) -> Tensor:
        x0 = x0.to(memory_format=torch.channels_last) if is_last else x0
        with by_hand(precision, x0.device.type):
            return chain(score, x0, n_steps, step_size=work.step_size, noise_std=noise_std, **work.options)

    return run


def _channels_last(work: Work) -> Work:
    """The network, its weights and the arguments that are images in channels_last."""
    module = copy.deepcopy(work.module).to(memory_format=torch.channels_last)
    args = (a.contiguous(memory_format=torch.channels_last) if a.dim() == 4 else a for a in work.args)
    return dataclasses.replace(work, module=module, args=tuple(args))


def by_autograd(log_density: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def score(x: Tensor) -> Tensor:
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(log_density(x).sum(), x)
        return gradient

    return score


def chain(
    score: Callable[[Tensor], Tensor],
    x0: Tensor,
    n_steps: int,
    *,
    step_size: float,
    noise_std: float,
    grad_clip: float | None = None,
    bounds: tuple[float, float] | None = None,
    noise_first: bool | str = False,
) -> Tensor:
    def add_noise_(x: Tensor) -> None:
        if noise_std:
            x.add_(torch.randn(x.shape, dtype=x.dtype, device=x.device), alpha=noise_std)

    x = x0.clone()
    for _ in range(n_steps):
        if noise_first:
            add_noise_(x)
        if noise_first == "clamp":
            x.clamp_(*bounds)
        s = score(x)
        if grad_clip is not None:
            s.clamp_(-grad_clip, grad_clip)
        x = x.detach().add_(s, alpha=step_size)
        if not noise_first:
            add_noise_(x)
        if bounds is not None:
            x.clamp_(*bounds)
    return x


@contextlib.contextmanager
def by_hand(precision: str, device: str) -> Iterator[None]:
    """Autocast with its weight cache, as users run it; for float32 the flags that the sampler sets."""
    if precision in precisions.HALF:
        with torch.autocast(device, precisions.HALF[precision]):
            yield
    else:
        with precisions.Running(precision, torch.device(device)):
            yield


def make_update(n: int, device: str) -> Callable[[float, float], Tensor]:
    """Bytes per element: 12 (read x and score, write x) + 4 (write noise) + 12 (read x and noise, write x), 28."""
    x, score = torch.zeros(n, device=device), torch.ones(n, device=device)
    return lambda step_size, noise_std: x.add_(score, alpha=step_size).add_(torch.randn_like(x), alpha=noise_std)
