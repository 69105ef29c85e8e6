"""Checks that a contender of `bench_family.py` samples the density of the eager loop, before it is timed.

After one transition and after many, averages over the chains of the state, its square, the log-density, its squared
distance from x0 and whether it has moved are compared with the eager loop's. The chains of both are independent, so the
difference of two averages is within 5 standard errors of 0 (p = 6e-7). After one transition "moved" is the acceptance
rate, and the squared distance shows the step size. Libraries discretise underdamped dynamics differently, and scale the
steps of hotter replicas or do not: there the density alone is compared, after many steps, up to `FamilyWork.bias`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from family_works import FamilyWork
from torch import Tensor

MANY_STEPS = {"mala": 100, "hmc": 20, "underdamped": 200, "tempering": 150}  # of 10,000 chains a few seconds
STANDARD_ERRORS = 5.0
Chain = Callable[[Tensor, int], Tensor]  # (x0, n_steps) to x_n


def lengths(work: FamilyWork, many: int | None) -> tuple[int, ...]:
    if work.kind == "annealed":
        return (work.n_steps,)
    many = MANY_STEPS[work.kind] if many is None else many
    return (1, many) if work.has_one_dynamics else (many,)


def disagreement(work: FamilyWork, chain: Chain, eager: Chain, many: int | None = None) -> str | None:
    """Why `chain` does not sample as the eager loop does, or None."""
    for n_steps in lengths(work, many):
        torch.manual_seed(1)
        theirs = statistics(work, eager(work.x0, n_steps))
        torch.manual_seed(2)
        end = chain(work.x0, n_steps)
        if end.shape != work.x0.shape:
            return f"the state has shape {tuple(end.shape)}, expected {tuple(work.x0.shape)}"
        for name, got in statistics(work, end).items():
            wanted = theirs[name]
            apart = abs(got.mean() - wanted.mean()).item()
            error = ((got.var() + wanted.var()) / len(got)).sqrt().item()
            if not apart <= STANDARD_ERRORS * error + work.bias * wanted.std().item():  # not: NaN too
                return (
                    f"after {n_steps} steps the mean {name} is {got.mean():.4g} and the eager loop's "
                    f"{wanted.mean():.4g}, {apart / max(error, 1e-30):.1f} standard errors apart"
                )
    return None


@torch.no_grad()
def statistics(work: FamilyWork, x: Tensor) -> dict[str, Tensor]:
    """(B,) each, in float64."""
    x, away = x.detach().double(), (x.detach() - work.x0).double()
    found = {"state": x.mean(1), "square": x.square().mean(1)}
    if work.log_density is not None:
        found["log-density"] = work.log_density(x.float()).double()
    if work.has_one_dynamics:
        found["squared distance"] = away.square().mean(1)
        found["share of moved chains"] = (away != 0).any(1).double()
    return found
