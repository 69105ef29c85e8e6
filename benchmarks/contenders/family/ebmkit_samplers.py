"""ebmkit's samplers. Its underdamped dynamics is by the symplectic Euler method from velocity 0. MALA's energy and
gradient are computed at both ends of every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..eager import by_hand
from ..installed import missing

if TYPE_CHECKING:
    from family_works import FamilyWork

MISSING = missing("ebm", "ebmkit")


def supports(work: FamilyWork) -> str | None:
    return "its sampler takes an energy, and the work has a score" if work.kind == "annealed" else None


def make(work: FamilyWork) -> Callable[[Tensor, int], Tensor]:
    sampler = _sampler(work)

    def chain(x0: Tensor, n_steps: int) -> Tensor:
        with by_hand("fp32", x0.device.type):
            return sampler.sample(work.module, x0, steps=n_steps)

    return chain


def _sampler(work: FamilyWork) -> Any:
    from ebm import samplers

    options = dict(work.options)
    if work.kind == "hmc":
        return samplers.HMC(options["step_size"], leapfrog_steps=options["n_leapfrog"])
    if work.kind == "underdamped":
        return samplers.UnderdampedLangevin(**options)
    if work.kind == "tempering":
        step_size = options.pop("step_size")
        return samplers.ParallelTempering(samplers.MALA(step_size), **options)
    return samplers.MALA(**options)
