"""The sampler's updates in plain torch, and energies to run them on."""

from __future__ import annotations

import torch
from torch import nn

import fastlangevin as fl


def quadratic(x: torch.Tensor) -> torch.Tensor:
    """U = |x|²/2: the score is -x."""
    return x.flatten(1).square().sum(1) / 2


# Of float64, where energies are around 1 and sums of at most 16 terms: far more than their roundings, 16 · 2^-53 each.
FLOAT64 = dict(rtol=1e-12, atol=1e-13)


def normal(shape, step, seed=1, stream=0, offset=0):
    return fl.noise.normal(shape, seed=seed, step=step, stream=stream, offset=offset, backend="reference")


def plain_loop(x, score, *, n_steps, eta, sigma, first=0, clip=None, bounds=None, noise_first=False):
    """The updates as the docstring of `Langevin` writes them, in float64."""
    x = x.double()
    for k in range(n_steps):
        z = normal(x.shape, first + k).double()
        e = eta[k] if isinstance(eta, list) else eta
        s = sigma[k] if isinstance(sigma, list) else sigma
        if noise_first:
            x = x + s * z
            if noise_first == "clamp":
                x = x.clamp(*bounds)
        g = score(x)
        if clip is not None:
            g = g.clamp(-clip, clip)
        x = x + e * g
        if not noise_first:
            x = x + s * z
        if bounds is not None:
            x = x.clamp(*bounds)
    return x


def small_net(seed=0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
