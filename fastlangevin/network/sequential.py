"""A recognised energy: consecutive layers, as data."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from .layers import Activation, Gather, Layer, LogSumExp


@dataclass(frozen=True)
class Sequential:
    """f(x) = factor · layers(x) + quadratic · ‖x‖², one number per chain.

    Attributes:
        layers: in the order in which they are applied; their weights are the network's, detached.
        shapes: of one chain, before the first layer, between layers, and after the last: len(layers) + 1 of them.
        dtype: of the weights and of the layers' input.
        factor: by which the last layer's output is multiplied.
        quadratic: -½λ for the prior N(0, 1/λ); 0 for none.
    """

    layers: tuple[Layer, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    factor: float
    quadratic: float = 0.0

    @functools.cached_property
    def is_piecewise_linear(self) -> bool:
        """Whether the second derivative is zero wherever it exists."""
        return self.quadratic == 0 and all(
            isinstance(layer, Activation) and layer.slope is not None for layer in self.layers if _is_nonlinear(layer)
        )

    @property
    def is_over_classes(self) -> bool:
        """Whether one number per chain is made of numbers per class: by a log-sum-exp, or by the chain's label."""
        return any(isinstance(layer, (LogSumExp, Gather)) for layer in self.layers)

    @functools.cached_property
    def tail(self) -> int:
        """The index after the last nonlinear layer. From there on the function is affine and its gradient constant."""
        return max((i + 1 for i, layer in enumerate(self.layers) if _is_nonlinear(layer)), default=0)


def _is_nonlinear(layer: Layer) -> bool:
    return isinstance(layer, (Activation, LogSumExp))
