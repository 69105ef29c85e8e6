"""The loop that one writes by hand, as in the paper's own code: contiguous float32, eager, `autograd.grad`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def chain(
    log_density: Callable[[Tensor], Tensor], x0: Tensor, n_steps: int, *, step_size: float, noise_std: float
) -> Tensor:
    x = x0.clone()
    for _ in range(n_steps):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(log_density(x).sum(), x)
        x = x.detach().add_(gradient, alpha=step_size)
        if noise_std:
            x.add_(torch.randn_like(x), alpha=noise_std)
    return x
