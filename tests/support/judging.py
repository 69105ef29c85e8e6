"""Samplers that return given samples, and their evaluation."""

from __future__ import annotations

import torch
from torch import nn

import fastlangevin as fl
from fastlangevin.data import digits

IMAGES, LABELS = digits()
OFF = dict(fid=False, coverage=False, n_reconstruct=0, n_chains=0, progress=False)


def brightness(x):
    return x.flatten(1).sum(1)


def gives(x, energy=brightness):
    """A model and a sampler whose samples are x: chains that start there and stay."""

    def init(shape, *, seed, step, chain_offset):
        return x[chain_offset : chain_offset + shape[0]].clone()

    return energy, fl.Langevin(energy, n_steps=2, step_size=0.0, noise_std=0.0, init=init)


def judged(x, data="digits", **options):
    return fl.evaluate(gives(x), data, n=len(x), **{**OFF, **options})


def halves(x):
    """Logits of two classes: is the upper half the brighter?"""
    upper, lower = x.chunk(2, 2)
    return torch.stack([upper.flatten(1).sum(1), lower.flatten(1).sum(1)], 1)


def pooled(x):
    return nn.functional.avg_pool2d(x, 2).flatten(1)
