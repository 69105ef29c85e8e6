"""posteriors' SGLD, in place: θ ← θ + η∇log p + sqrt(2ηT)·z, so T is σ² / 2η; θ is the whole batch of chains."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .eager import by_hand
from .installed import missing

if TYPE_CHECKING:
    from works import Work

MISSING = missing("posteriors")


def supports(work: Work) -> str | None:
    return None


def make(work: Work) -> Callable[[Tensor, int, float], Tensor]:
    from posteriors import sgmcmc

    def log_posterior(x: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        return work.log_density(x).sum(), torch.tensor([])

    def chain(x0: Tensor, n_steps: int, noise_std: float) -> Tensor:
        temperature = noise_std**2 / (2 * work.step_size)
        transform = sgmcmc.sgld.build(log_posterior, lr=work.step_size, temperature=temperature)
        state = transform.init(x0.clone())
        with by_hand("fp32", x0.device.type):
            for _ in range(n_steps):
                state, _ = transform.update(state, None, inplace=True)
        return state.params

    return chain
