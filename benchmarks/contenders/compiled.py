"""The whole step under torch.compile, noise included.

`fallback_random`: inductor's own random numbers are ten times slower on a CPU than torch's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor


def make_chain(
    log_density: Callable[[Tensor], Tensor], *, step_size: float, noise_std: float, precision: str = "fp32"
) -> Callable[[Tensor, int], Tensor]:
    """A function of x0 and n_steps. precision: "fp32", or "bf16" by autocast."""
    from torch._inductor import config

    def density(x: Tensor) -> Tensor:
        return log_density(x).sum()

    def step(x: Tensor) -> Tensor:
        half = torch.autocast(x.device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
        with half:
            gradient = torch.func.grad(density)(x)
        x = x + step_size * gradient
        return x + noise_std * torch.randn_like(x) if noise_std else x

    compiled = torch.compile(step, fullgraph=True)

    def chain(x0: Tensor, n_steps: int) -> Tensor:
        x = x0
        with config.patch(fallback_random=True), torch.no_grad():
            for _ in range(n_steps):
                x = compiled(x)
        return x

    return chain
