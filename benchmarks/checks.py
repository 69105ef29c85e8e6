"""Checks that a contender computes the same as the eager loop, before it is timed.

Without noise, the states after a few steps are compared with those of the eager loop in float64: two results of a
lower precision may each be right and yet differ by more than either's error. With noise, three averages over the event
of each chain are: the state, its squared distance to the end that the eager loop reaches without noise (the noise's
variance, K·σ² for a flat density) and f, unless the work has a score only. From one x0, contender and eager loop are
exchangeable, so the mean over chains of their difference has expectation 0 and is within 5 standard errors of it
(p = 6e-7 for 10,000 chains, 5e-6 for 64), plus the error of the precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from contenders import Chain, Update, eager
from torch import Tensor
from works import Work

# The error of a state relative to the distance moved. A precision that rounds to u changes the sign of a share of the
# activations that is proportional to u: those that are within rounding of LeakyReLU's kink. Each changes the gradient
# by about its own size, with a random sign, so the relative error is proportional to √u. In fp32 these are few: of the
# 64 chains of JEM 6 meet one in four steps, which moves them by 1e-4 to 1e-2 of their distance, the others by 6e-7. A
# norm over all chains would be that of a handful of chances, hence the share that is judged by FARTHEST alone.
_ROUNDING = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8, "fp16": 2.0**-11}
TOLERANCE = {precision: 3 * math.sqrt(u) for precision, u in _ROUNDING.items()}
BEYOND = 1 / 8  # of the chains, those furthest from the eager loop's
FARTHEST = 0.5  # of the longest distance that a chain has moved
STANDARD_ERRORS = 5.0


@dataclass(frozen=True)
class Expected:
    """What the eager loop computes: after `check_steps` without noise, in float64, and after n_steps without and with
    noise.
    """

    still: Tensor
    still_end: Tensor
    end: Tensor

    @classmethod
    def of(cls, work: Work) -> Expected:
        chain, wide = eager.make(work), work.in_float64()
        torch.manual_seed(1)
        return cls(
            eager.make(wide)(wide.x0, work.check_steps, 0.0),
            chain(work.x0, work.n_steps, 0.0),
            chain(work.x0, work.n_steps, work.noise_std),
        )


def disagreement(work: Work, chain: Chain, expected: Expected, precision: str = "fp32") -> str | None:
    """Why `chain` does not run the work, or None."""
    still = chain(work.x0, work.check_steps, 0.0)
    why = without_noise(still, expected.still, work.x0, precision)
    if why is not None:
        return f"after {work.check_steps} steps without noise {why}"
    torch.manual_seed(2)
    end = chain(work.x0, work.n_steps, work.noise_std)
    return moments(work, end, expected, precision)


def without_noise(got: Tensor, exact: Tensor, x0: Tensor, precision: str) -> str | None:
    """Why a state is not `exact`, that of the eager loop in float64, but for the precision's roundings, or None."""
    if got.shape != exact.shape:
        return f"the state has shape {tuple(got.shape)}, that of the eager loop {tuple(exact.shape)}"
    moved, apart = ((x.flatten(1) - exact.flatten(1)).norm(dim=1) for x in (x0.double(), got.detach().double()))
    farthest, limit = apart.max().item(), FARTHEST * moved.max().item()
    apart, n_judged = apart.sort().values, len(apart) - int(BEYOND * len(apart))
    most, way = apart[:n_judged].norm().item(), moved.norm().item()
    if not (most <= TOLERANCE[precision] * way and farthest <= limit):  # not: NaN too
        return (
            f"{n_judged} chains are {most:.2g} away from the eager loop's in float64, which have moved by {way:.2g}, "
            f"and the farthest is {farthest:.2g} away"
        )
    return None


def moments(work: Work, end: Tensor, expected: Expected, precision: str) -> str | None:
    ours, theirs = (_statistics(work, x, expected.still_end) for x in (end.detach(), expected.end))
    for name, got in ours.items():
        difference, wanted = got - theirs[name], theirs[name]
        mean = difference.mean().item()
        error = difference.std().item() / len(difference) ** 0.5
        rounding = 0.1 * TOLERANCE[precision] * wanted.square().mean().sqrt().item()
        if not abs(mean) <= STANDARD_ERRORS * error + rounding:
            return (
                f"the mean {name} is {got.mean():.4g} and the eager loop's {wanted.mean():.4g}, "
                f"{abs(mean) / error:.1f} standard errors apart"
            )
    return None


def _statistics(work: Work, x: Tensor, still_end: Tensor) -> dict[str, Tensor]:
    """(B,) each, in float64."""
    away = (x - still_end).double().flatten(1)
    found = {"state": x.double().flatten(1).mean(1), "squared noise": away.square().mean(1)}
    if work.kind != "score":
        with torch.no_grad():
            found["log-density"] = work.log_density(x.contiguous()).double().flatten()
    return found


def update_disagreement(n: int, update: Update, step_size: float, noise_std: float) -> str | None:
    """Why `update` is not x + step_size·1 + noise_std·z from x = 0, or None."""
    x = torch.from_dlpack(update(step_size, 0.0)).clone()
    if not torch.allclose(x, torch.full_like(x, step_size), rtol=1e-6, atol=0):
        return f"without noise the state is {x[0]:.6g}, expected {step_size:.6g}"
    z = (torch.from_dlpack(update(step_size, noise_std)).double() - 2 * step_size) / noise_std
    for name, value, wanted, variance in (("mean", z.mean(), 0.0, 1.0), ("mean square", z.square().mean(), 1.0, 2.0)):
        if not abs(value.item() - wanted) <= STANDARD_ERRORS * (variance / n) ** 0.5:
            return f"the noise's {name} is {value:.4g}, expected {wanted}"
    return None
