"""The chain of a log-density, step by step in float64 from its definition, with the reference backend's noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import fastlangevin as fl
from fastlangevin.kernels.arguments import ChainArgs

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


def score(log_density: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(log_density(x).sum(), x)[0]


def chain(log_density: Callable[[Tensor], Tensor], x: Tensor, args: ChainArgs) -> Tensor:
    """log_density takes and gives float64."""
    step_sizes, noise_stds, has_noise, seed, steps, offset, clip, lo, hi, noise_first = args
    clamp = (lambda y: y) if lo is None and hi is None else (lambda y: y.clamp(lo, hi))
    x = x.double()
    for eta, sigma, step in zip(step_sizes, noise_stds, steps, strict=True):
        z = fl.noise.normal(x.shape, seed=seed, step=step, offset=offset, backend="reference").double()
        if noise_first:
            x = x + sigma * z
            x = clamp(x) if noise_first == "clamp" else x
        s = score(log_density, x)
        x = x + eta * (s if clip is None else s.clamp(-clip, clip))
        if has_noise and not noise_first:
            x = x + sigma * z
        x = clamp(x)
    return x
