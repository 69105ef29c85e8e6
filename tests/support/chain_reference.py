"""The chain of a score, step by step in float64 from its definition, with the reference backend's noise, and what the
roundings of float32 can do to it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import fastlangevin as fl
from fastlangevin.kernels.arguments import ChainArgs

from .error_bounds import Roundings, U

OPTIONS = {
    "plain": {},
    "schedules": {"step_sizes": [0.08, 0.0, 0.02, 0.05], "noise_stds": [0.0, 0.4, 0.1, 0.3]},
    "clip": {"grad_clip": 0.2},
    "bounds": {"lo": -0.5, "hi": 0.75},
    "lower bound": {"lo": -0.25},
    "clip and bounds": {"grad_clip": 0.3, "lo": -0.75, "hi": 1.0},
    "noise first": {"noise_first": True, "grad_clip": 0.3, "lo": -0.75, "hi": 1.0},
    "noise first, clamped": {"noise_first": "clamp", "lo": -0.5, "hi": 0.5},
    "no noise": {"has_noise": False},
    "seed and step": {"seed": -3, "steps": range(2**32 - 4, 2**32)},
    "offset": {"offset": 2**34 - 5},
}


def arguments(
    step_sizes=(0.2,) * 4,
    noise_stds=(0.1,) * 4,
    has_noise=True,
    seed=20191125,
    steps=range(7, 11),
    offset=3,
    grad_clip=None,
    lo=None,
    hi=None,
    noise_first=False,
) -> ChainArgs:
    return ChainArgs(list(step_sizes), list(noise_stds), has_noise, seed, steps, offset, grad_clip, lo, hi, noise_first)


def chain(
    evaluate: Callable[[Roundings, Tensor], Tensor], x: Tensor, args: ChainArgs
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The final states of chains in float64, a bound on the error of float32's, and whether a chain is sure: for
    `error_bounds.assert_within`.

    To what `evaluate` says of the score a step adds the roundings of η and of σ, of two fused multiply-adds, and of the
    limits. What lies within its error of a limit may be clamped or not: it counts as not clamped, and the
    difference, which that error bounds, as one more rounding.

    Args:
        evaluate: the score of float64 states, with its roundings.
    """
    step_sizes, noise_stds, has_noise, seed, steps, offset, clip, lo, hi, noise_first = args
    roundings = Roundings()
    x = x.double().requires_grad_()

    def noisy(x: Tensor, sigma: float, step: int) -> Tensor:
        z = fl.noise.normal(x.shape, seed=seed, step=step, offset=offset, backend="reference").double()
        return roundings.relative(x + roundings.relative(sigma * z))

    def clamped(x: Tensor, lo: float | None, hi: float | None) -> Tensor:
        if lo is None and hi is None:
            return x
        error, inside = roundings.bound(x), x.clamp(lo, hi)
        near = torch.zeros_like(x, dtype=torch.bool)
        for limit in (lo, hi):
            near |= limit is not None and (x - limit).abs() <= error
        free = torch.where(near, x - (x - inside).detach(), inside)
        return roundings.rounded(free, near * error + (near | (x != inside)) * U * inside.abs())

    for eta, sigma, step in zip(step_sizes, noise_stds, steps, strict=True):
        if noise_first:
            x = noisy(x, sigma, step)
            if noise_first == "clamp":
                x = clamped(x, lo, hi)
        s = evaluate(roundings, x)
        if clip is not None:
            s = clamped(s, -clip, clip)
        x = roundings.relative(x + roundings.relative(eta * s))
        if has_noise and not noise_first:
            x = noisy(x, sigma, step)
        x = clamped(x, lo, hi)
    return x.detach(), roundings.bound(x), roundings.sure
