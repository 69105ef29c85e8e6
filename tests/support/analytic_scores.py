"""Scores of the energies in closed form, with the roundings of their kernels: for `chain_reference.chain`."""

from __future__ import annotations

import torch
from torch import Tensor

import fastlangevin as fl

from .error_bounds import Roundings, U


def mixture_score(energy: fl.energies.GaussianMixture, r: Roundings, x: Tensor) -> Tensor:
    """Σ_k w_k p_k (μ_k - x) / Σ_k w_k, w_k = e^(l_k - max l), with the roundings of csrc/cpu/analytic_chain_impl.h.

    Weights are e^a for a ≤ 0, and one of them is 1: what counts is their absolute error. The derivative of
    elu(1.5), 1.5 e^a, is within 2.5 units in the last place of 1 (test_mlp_chain.py), so e^a is within 5u / 1.5.
    """
    means, precisions, constants = (v.double() for v in (energy.means, energy.precisions, energy.constants))
    away = r.relative(x[:, None, :] - means)
    squares = r.relative(r.relative(away * precisions) * away)
    square = r.rounded(squares.sum(2), U * squares.cumsum(2).abs().sum(2))
    logits = r.relative(constants - 0.5 * square)
    weights = r.relative(logits - logits.detach().amax(1, keepdim=True)).exp()
    weights = r.rounded(weights, 5 * U / 1.5)
    total = r.rounded(weights.sum(1), U * weights.cumsum(1).abs().sum(1))
    pulls = r.relative(-away * precisions) * weights[:, :, None]
    pull = r.rounded(r.relative(pulls).sum(1), U * pulls.cumsum(1).abs().sum(1))
    return r.relative(pull * r.relative(1 / total[:, None]))


def double_well_score(energy: fl.energies.DoubleWell, r: Roundings, x: Tensor) -> Tensor:
    """-4 b x / w² (x² / w² - 1): b and w are rounded, then w², 1 / w² and b / w², and each operation of the formula."""
    per_square = r.relative(torch.full_like(x, 1 / energy.width**2), 4)
    slope = r.relative(-4 * energy.barrier * per_square, 2)
    well = r.relative(r.relative(r.relative(x.square()) * per_square) - 1)
    return r.relative(r.relative(slope * x) * well)
