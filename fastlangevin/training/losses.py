"""Losses of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def contrastive(f_data: Tensor, f_samples: Tensor, energy_penalty: float) -> Tensor:
    """mean f(x⁻) - mean f(x⁺) + α mean(f(x⁺)² + f(x⁻)²).

    For α = 0 its gradient is that of the negative log-likelihood. The penalty bounds the magnitude of the energies,
    which the first two terms do not determine (Du and Mordatch, NeurIPS 2019, arXiv:1903.08689, Section 3.3).

    Args:
        f_data, f_samples: (B,) log-densities of data and samples.
        energy_penalty: α.
    """
    loss = f_samples.mean() - f_data.mean()
    if energy_penalty:
        loss = loss + energy_penalty * (f_data.square() + f_samples.square()).mean()
    return loss


def kl_through_samples(model: nn.Module, x: Tensor, *args: Tensor) -> Tensor:
    """-mean f(x, *args) with f's weights as constants: the gradient flows to the weights only through the samples x.

    The first part of the KL term that contrastive divergence omits (Du, Li, Tenenbaum and Mordatch, ICML 2021,
    arXiv:2012.01316, Section 3.1); the entropy, its second part, is not estimated.

    Args:
        model: a log-density.
        x: (B, *event), with a graph through the last Langevin step (`Langevin.with_last_step`).
    """
    constants = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return -torch.func.functional_call(model, constants, (x, *args)).mean()
