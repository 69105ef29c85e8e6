"""ebmkit's LangevinDynamics: x ← x - η∇U + noise_scale·z."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from .eager import by_hand
from .installed import missing

if TYPE_CHECKING:
    from works import Work

MISSING = missing("ebm", "ebmkit")


def supports(work: Work) -> str | None:
    return None


def make(work: Work) -> Callable[[Tensor, int, float], Tensor]:
    from ebm.samplers import LangevinDynamics

    def energy(x: Tensor) -> Tensor:
        return -work.log_density(x)

    def chain(x0: Tensor, n_steps: int, noise_std: float) -> Tensor:
        sampler = LangevinDynamics(work.step_size, n_steps, noise_scale=noise_std)
        with by_hand("fp32", x0.device.type):
            return sampler.sample(energy, x0)

    return chain
