"""The handwritten loop, as in the code of the paper: contiguous, eager, `autograd.grad`.

In channels_last the noise is drawn contiguous, because `randn_like` of a channels_last CPU tensor is nine times slower.
float32 is strict for any flags of the process, and TF32 is requested explicitly.
"""

from __future__ import annotations

import contextlib
import copy
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
    module = copy.deepcopy(work.module).to(memory_format=torch.channels_last) if is_last else work.module
    sign = 1 if work.kind == "log_density" else -1

    def log_density(x: Tensor) -> Tensor:
        return sign * module(x)

    def run(x0: Tensor, n_steps: int, noise_std: float) -> Tensor:
        x0 = x0.to(memory_format=torch.channels_last) if is_last else x0
        with by_hand(precision, x0.device.type):
            return chain(log_density, x0, n_steps, step_size=work.step_size, noise_std=noise_std)

    return run


def chain(
    log_density: Callable[[Tensor], Tensor], x0: Tensor, n_steps: int, *, step_size: float, noise_std: float
) -> Tensor:
    x = x0.clone()
    for _ in range(n_steps):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(log_density(x).sum(), x)
        x = x.detach().add_(gradient, alpha=step_size)
        if noise_std:
            x.add_(torch.randn(x.shape, dtype=x.dtype, device=x.device), alpha=noise_std)
    return x


@contextlib.contextmanager
def by_hand(precision: str, device: str) -> Iterator[None]:
    """Autocast with its weight cache, as users run it; for float32 the flags that the sampler sets."""
    if precision in precisions.HALF:
        with torch.autocast(device, precisions.HALF[precision]):
            yield
    else:
        with precisions.running(precision, torch.device(device)):
            yield


def make_update(n: int, device: str) -> Callable[[float, float], Tensor]:
    """Bytes per element: 12 (read x and score, write x) + 4 (write noise) + 12 (read x and noise, write x), 28."""
    x, score = torch.zeros(n, device=device), torch.ones(n, device=device)
    return lambda step_size, noise_std: x.add_(score, alpha=step_size).add_(torch.randn_like(x), alpha=noise_std)
