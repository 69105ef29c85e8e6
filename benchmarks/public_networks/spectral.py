"""Spectral norm in the three ways in which public codes have it: weight / σ₁ with σ₁ by power iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations


class HandmadeSpectralNorm:
    """A forward pre-hook with names computed from the weight's, as in many PyTorch ports of IGEBM and SNGAN.

    It iterates at every evaluation, in eval mode too.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def apply(cls, module: nn.Module, name: str = "weight") -> nn.Module:
        hook, weight = cls(name), getattr(module, name)
        del module._parameters[name]
        module.register_parameter(name + "_bar", nn.Parameter(weight.data))
        module.register_buffer(name + "_u", weight.data.new_empty(weight.shape[0]).normal_())
        module.register_buffer(name, weight.data)
        module.register_forward_pre_hook(hook)
        return module

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        weight, u = getattr(module, self.name + "_bar"), getattr(module, self.name + "_u")
        matrix = weight.reshape(weight.shape[0], -1)
        with torch.no_grad():
            v = matrix.t() @ u
            v = v / v.norm()
            u = matrix @ v
            u = u / u.norm()
        sigma = u @ (matrix @ v)
        setattr(module, self.name, weight / sigma)
        setattr(module, self.name + "_u", u)


NORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "parametrization": parametrizations.spectral_norm,
    "hook": torch.nn.utils.spectral_norm,
    "handmade": HandmadeSpectralNorm.apply,
}
