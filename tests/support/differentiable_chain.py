"""Networks, and a chain in plain torch that autograd differentiates."""

from __future__ import annotations

import torch
from torch import nn

import fastlangevin as fl
from fastlangevin.noise import Stream

SEED = 11


def smooth():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 9), nn.SiLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 1)).double()


def piecewise():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 9), nn.LeakyReLU(0.2), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 1)).double()


def plain_chain(
    log_density,
    x,
    n_steps,
    eta,
    sigma,
    grad_clip=None,
    grad_clip_norm=None,
    bounds=None,
    noise_first=False,
    noise_last=False,
):
    """A differentiable loop with the library's noise."""
    for k in range(n_steps):
        z = fl.noise.normal(x.shape, seed=SEED, step=k, stream=Stream.LANGEVIN).to(x.dtype)
        if noise_first:
            x = x + sigma * z
            if noise_first == "clamp":
                x = x.clamp(*bounds)
        (s,) = torch.autograd.grad(log_density(x).sum(), x, create_graph=True)
        if grad_clip_norm is not None:
            s = s * (grad_clip_norm / s.norm(dim=1, keepdim=True)).clamp(max=1)
        s = s if grad_clip is None else s.clamp(-grad_clip, grad_clip)
        x = x + eta(k) * s + (0 if noise_first or noise_last else sigma * z)
        x = x if bounds is None else x.clamp(*bounds)
        x = x + sigma * z if noise_last else x
    return x


OPTIONS = {
    "plain": {},
    "clip": {"grad_clip": 0.05},
    "norm clip": {"grad_clip_norm": 0.06},
    "both clips and bounds": {"grad_clip": 0.03, "grad_clip_norm": 0.06, "bounds": (-0.8, 0.9)},
    "bounds": {"bounds": (-0.8, 0.9)},
    "clip and bounds": {"grad_clip": 0.05, "bounds": (-0.8, 0.9)},
    "noise first": {"noise_first": True, "grad_clip": 0.05, "bounds": (-0.8, 0.9)},
    "noise last": {"noise_last": True, "bounds": (-0.8, 0.9), "grad_clip": 0.05},
    "noise first, clamped": {"noise_first": "clamp", "bounds": (-0.8, 0.9)},
}
