"""torchebm's Hamiltonian Monte Carlo."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..eager import by_hand
from ..installed import missing

if TYPE_CHECKING:
    from family_works import FamilyWork

MISSING = missing("torchebm")


def supports(work: FamilyWork) -> str | None:
    return None if work.kind == "hmc" else f"it has no sampler of the kind {work.kind!r}"


def make(work: FamilyWork) -> Callable[[Tensor, int], Tensor]:
    before = torch.get_float32_matmul_precision()  # its import sets another one
    from torchebm.core import BaseModel
    from torchebm.samplers import HamiltonianMonteCarlo

    torch.set_float32_matmul_precision(before)

    class Energy(BaseModel):
        def forward(self, x: Tensor) -> Tensor:
            return work.module(x)

    options = {"step_size": work.options["step_size"], "n_leapfrog_steps": work.options["n_leapfrog"]}
    sampler = HamiltonianMonteCarlo(Energy(device=work.x0.device), device=work.x0.device, **options)

    def chain(x0: Tensor, n_steps: int) -> Tensor:
        with by_hand("fp32", x0.device.type):
            return sampler.sample(x=x0.clone(), n_steps=n_steps)

    return chain
