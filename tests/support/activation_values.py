"""The activations in float64, beside what the kernels give."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastlangevin.network import walk
from fastlangevin.network.layers import Activation


def exact(activation: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
    """Values and derivatives at z, by torch in float64. torch's gelu "tanh" loses digits in 1 + tanh(u), which is
    2 σ(2u).
    """
    z = z.double().requires_grad_()
    if activation == Activation("gelu", ("tanh",)):
        value = z * torch.sigmoid(math.sqrt(8 / math.pi) * (z + 0.044715 * z**3))
    else:
        value = walk.forward(activation, z)
    (derivative,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), derivative
