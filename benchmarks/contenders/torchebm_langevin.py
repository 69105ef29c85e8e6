"""torchebm's LangevinDynamics: x ← x - η∇U + noise_scale·sqrt(2η)·z, so noise_scale is σ / sqrt(2η).

Its import sets torch's float32 matrix precision to "high" for the whole process; the setting is restored here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .eager import by_hand
from .installed import missing

if TYPE_CHECKING:
    from works import Work

MISSING = missing("torchebm")
_NO_NOISE = 1e-30  # it requires a positive scale


def supports(work: Work) -> str | None:
    return None


def make(work: Work) -> Callable[[Tensor, int, float], Tensor]:
    before = torch.get_float32_matmul_precision()
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    torch.set_float32_matmul_precision(before)

    class Energy(BaseModel):
        def forward(self, x: Tensor) -> Tensor:
            return -work.log_density(x)

    energy = Energy(device=work.x0.device)

    def chain(x0: Tensor, n_steps: int, noise_std: float) -> Tensor:
        scale = max(noise_std / math.sqrt(2 * work.step_size), _NO_NOISE)
        sampler = LangevinDynamics(energy, step_size=work.step_size, noise_scale=scale, device=work.x0.device)
        with by_hand("fp32", x0.device.type):
            return sampler.sample(x=x0.clone(), n_steps=n_steps)

    return chain
