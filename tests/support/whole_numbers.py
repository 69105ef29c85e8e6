"""Networks of whole weights and slopes of a quarter: float32 makes no error in the sums of their scores, in any order,
so that every kernel on every processor gives the same bits. `network_bounds.Exact` proves it of a network.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def whole_(net: nn.Module, most: int = 2) -> nn.Module:
    """Each parameter rounded to whole numbers up to `most`, each negative slope to a quarter."""
    with torch.no_grad():
        for p in net.parameters():
            p.mul_((most + 0.4) / p.abs().max()).round_()
    for module in net.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = 0.25
    return net


def exact_score(log_density: nn.Module, x: Tensor) -> Tensor:
    """In float64, by autograd."""
    x = x.double().requires_grad_()
    return torch.autograd.grad(copy.deepcopy(log_density).double()(x).sum(), x)[0]
