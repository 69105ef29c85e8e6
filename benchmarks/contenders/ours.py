"""`fl.Langevin` and `fl.langevin_update_` as a user calls them, with "auto" for every choice."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import fastlangevin as fl

from . import eager

if TYPE_CHECKING:
    from works import Work

MISSING = None


def supports(work: Work, *, precision: str = "fp32") -> str | None:
    return eager.supports(work, precision=precision)


def make(work: Work, *, precision: str = "fp32") -> Callable[[Tensor, int, float], Tensor]:
    @functools.cache
    def sampler(noise_std: float) -> fl.Langevin:
        return fl.Langevin(
            **{work.kind: work.module},
            n_steps=work.n_steps,
            step_size=work.step_size,
            noise_std=noise_std,
            precision=precision,
            seed=1,
            **work.options,
        )

    return lambda x0, n_steps, noise_std: sampler(noise_std)(x0, *work.args, n_steps=n_steps)


def engine(work: Work) -> str:
    """The engine of a call on the work, by the sampler's plan."""
    options = {"n_steps": 1, "step_size": work.step_size, "noise_std": work.noise_std, **work.options}
    sampler = fl.Langevin(**{work.kind: work.module}, **options, seed=1)
    sampler(work.x0, *work.args)
    return sampler.plan_for(work.device).engine


def make_update(n: int, device: str) -> Callable[[float, float], Tensor]:
    x, score, step = torch.zeros(n, device=device), torch.ones(n, device=device), 0

    def update(step_size: float, noise_std: float) -> Tensor:
        nonlocal step
        step += 1
        return fl.langevin_update_(x, score, step_size, noise_std, seed=1, step=step)

    return update
