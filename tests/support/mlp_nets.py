"""MLP energies for the kernels that run whole chains, and their states."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastlangevin.kernels.arguments import ChainArgs
from fastlangevin.kernels.cpu import mlp_chain
from fastlangevin.network.layers import Activation, Layer, Linear, LogSumExp

from .activation_bounds import NATIVE_MLP
from .chain_reference import chain
from .network_bounds import Arithmetic, score

SILU = Activation("silu")


class Net:
    """Hidden layers and the last layer's weights.

    Args:
        n_labelled: chains that have last weights of their own; None: all have the same.
        n_classes: whose logits' log-sum-exp follows the hidden layers, times -1.5; 0: a linear layer follows.
    """

    def __init__(
        self, widths, activations, *, bias=True, prior=0.0, gain=2.0, seed=7, n_labelled=None, n_classes=0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        if isinstance(activations, Activation):
            activations = [activations] * (len(widths) - 1)

        def draw(*shape: int, scale: float) -> Tensor:
            return scale * torch.randn(shape, generator=generator)

        self.layers: list[Layer] = []
        for n_in, n_out, activation in zip(widths, widths[1:], activations, strict=False):
            b = draw(n_out, scale=0.5) if bias else None
            self.layers += [Linear(draw(n_out, n_in, scale=gain / math.sqrt(n_in)), b), activation]
        shape = (widths[-1],) if n_labelled is None else (n_labelled, widths[-1])
        self.last = draw(*shape, scale=1 / math.sqrt(widths[-1]))
        self.prior = prior
        self.has_classes = n_classes > 0
        if self.has_classes:
            weight = draw(n_classes, widths[-1], scale=gain / math.sqrt(widths[-1]))
            self.layers += [Linear(weight, draw(n_classes, scale=0.5) if bias else None), LogSumExp(keepdim=False)]
            self.last = torch.tensor([-1.5])

    def chain(self, x: Tensor, args: ChainArgs, arithmetic: Arithmetic = NATIVE_MLP):
        """`chain_reference.chain` of its score."""
        layers, factor = self.layers, float(self.last[0]) if self.has_classes else 1.0
        if not self.has_classes:
            layers = [*layers, Linear(self.last.reshape(-1, self.last.shape[-1]), None)]
        return chain(lambda roundings, x: score(roundings, layers, x, arithmetic, self.prior, factor), x, args)

    def run(self, x: Tensor, args: ChainArgs, precision: str = "fp32") -> Tensor:
        got = x.clone()
        mlp_chain.run_(self.layers, self.last, self.prior, got, args, precision)
        return got


def states(n: int, dimension: int, seed=1) -> Tensor:
    return torch.randn(n, dimension, generator=torch.Generator().manual_seed(seed))
