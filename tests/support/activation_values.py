"""The activations in float64, beside what the kernels give."""

from __future__ import annotations

import torch
from torch import Tensor

from fastlangevin.network import walk
from fastlangevin.network.layers import Activation


def exact(activation: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
    """Values and derivatives at z, by torch in float64."""
    z = z.double().requires_grad_()
    value = walk.forward(activation, z)
    (derivative,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), derivative
