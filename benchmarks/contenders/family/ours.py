"""The samplers of fastlangevin as a user calls them, with "auto" for every choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from family_works import Negative
from torch import Tensor

import fastlangevin as fl

if TYPE_CHECKING:
    from family_works import FamilyWork

MISSING = None
_CLASSES = {"mala": "MALA", "hmc": "HMC", "underdamped": "Underdamped", "tempering": "ParallelTempering"}


def supports(work: FamilyWork) -> str | None:
    return None


def make(work: FamilyWork) -> Callable[[Tensor, int], Tensor]:
    if work.kind == "annealed":
        levels = len(work.options["sigmas"])
        annealed = fl.AnnealedLangevin(
            score=work.module, steps_per_level=work.n_steps // levels, seed=1, **work.options
        )

        def anneal(x0: Tensor, n_steps: int) -> Tensor:
            assert n_steps == work.n_steps
            return annealed(x0)

        return anneal
    is_negative = isinstance(work.module, Negative)
    target = {"log_density": work.module.log_density} if is_negative else {"energy": work.module}
    sampler = getattr(fl, _CLASSES[work.kind])(**target, n_steps=work.n_steps, seed=1, **work.options)
    return lambda x0, n_steps: sampler(x0, n_steps=n_steps)
