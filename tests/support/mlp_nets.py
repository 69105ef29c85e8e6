"""MLP energies for the kernels that run whole chains, and their states."""

from __future__ import annotations

import math

import torch

from fastlangevin.kernels.arguments import ChainArgs
from fastlangevin.kernels.cpu import mlp_chain
from fastlangevin.network import walk
from fastlangevin.network.layers import Activation, Linear

SILU = Activation("silu")


class Net:
    """Hidden layers and the last layer's weights."""

    def __init__(self, widths, activations, *, bias=True, prior=0.0, gain=2.0, seed=7) -> None:
        generator = torch.Generator().manual_seed(seed)
        if isinstance(activations, Activation):
            activations = [activations] * (len(widths) - 1)

        def draw(*shape: int, scale: float) -> torch.Tensor:
            return scale * torch.randn(shape, generator=generator)

        self.layers: list[Linear | Activation] = []
        for n_in, n_out, activation in zip(widths, widths[1:], activations, strict=False):
            b = draw(n_out, scale=0.5) if bias else None
            self.layers += [Linear(draw(n_out, n_in, scale=gain / math.sqrt(n_in)), b), activation]
        self.last = draw(widths[-1], scale=1 / math.sqrt(widths[-1]))
        self.prior = prior

    def log_density(self, x: torch.Tensor, dtype=torch.float64) -> torch.Tensor:
        h = x
        for layer in self.layers:
            if isinstance(layer, Linear):
                layer = Linear(layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype))
            h = walk.forward(layer, h)
        return h @ self.last.to(dtype) - 0.5 * self.prior * x.square().sum(dim=1)

    def run(self, x: torch.Tensor, args: ChainArgs) -> torch.Tensor:
        assert mlp_chain.unsupported(self.layers, x.shape[1]) is None
        got = x.clone()
        mlp_chain.run_(self.layers, self.last, self.prior, got, args)
        return got


def states(n: int, dimension: int, seed=1) -> torch.Tensor:
    return torch.randn(n, dimension, generator=torch.Generator().manual_seed(seed))
