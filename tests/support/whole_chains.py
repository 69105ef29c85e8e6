"""Chains by whole-chain kernels, and the step-by-step chains that they are compared with."""

from __future__ import annotations

import torch

import fastlangevin as fl

OPTIONS = {
    "plain": {},
    "schedules": {"step_size": lambda k: 0.03 * (k + 1), "noise_std": [0.1, 0.0, 0.2, 0.05, 0.0, 0.1, 0.3]},
    "limits": {"grad_clip": 0.04, "bounds": (-0.9, 1.1), "noise_std": 0.2},
    "noise first": {"noise_first": True, "bounds": (-0.9, 1.1), "noise_std": 0.2},
    "noise first, clamped": {"noise_first": "clamp", "bounds": (-0.9, 1.1), "noise_std": 0.2},
    "no noise": {"noise_std": 0.0},
    "temperature": {"noise_std": None, "step_size": 0.1, "temperature": 0.5},
}


def states(n=11, inputs=5):
    return torch.randn(n, inputs, generator=torch.Generator().manual_seed(3))


def pair(energy, kind="log_density", engines=("auto", "autograd"), **options):
    given = {"n_steps": 7, "seed": 5, kind: energy, **options}
    return [fl.Langevin(**given, engine=engine) for engine in engines]
