"""The score of consecutive layers by torch's operators: forward, and input gradients, with no autograd graph."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from ..kernels.cpu import program as native_kernels
from ..network import walk
from ..network.layers import Activation, Conv, Layer, Linear, LogSumExp, Reshape
from ..network.sequential import Sequential
from .precision import HALF
from .sequential import SequentialScore


class TorchOpsScore(SequentialScore):
    """Channels last, on any device and in any precision.

    fp16: the constant gradient is multiplied by the power of two that brings its largest magnitude into [1, 2), so that
    gradients do not underflow. The score is divided by it in float32.
    """

    name = "convnet"
    kernels = "torch operators"

    def __init__(self, network: Sequential, precision: str, x: Tensor) -> None:
        super().__init__(network, precision, x)
        self._dtype = network.dtype if network.dtype == torch.float64 else HALF.get(precision, network.dtype)
        self._layers = [_packed(layer, self._dtype) for layer in network.layers[: network.tail]]
        last = walk.last_gradient(network, x.device)
        self._unscale: Tensor | None = None
        if self._dtype == torch.float16:
            exponent = torch.frexp(last.abs().amax()).exponent - 1
            last, self._unscale = torch.ldexp(last, -exponent), torch.ldexp(last.new_ones(()), exponent)
        self._last = _channels_last(last.to(self._dtype))

    @staticmethod
    def unsupported(network: Sequential, precision: str, x: Tensor) -> str | None:
        return "they support no head over classes" if network.is_over_classes else None

    @staticmethod
    def slower(network: Sequential, precision: str, x: Tensor) -> str | None:
        is_fp32 = precision == "fp32" and network.dtype == x.dtype == torch.float32
        has_convolutions = any(isinstance(layer, Conv) for layer in network.layers)
        if x.device.type == "cpu" and is_fp32 and has_convolutions and native_kernels.unsupported() is None:
            return "native programs compute convolutions with any activation faster"
        return None

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self._score_of(x, self._forward(x))

    def energy(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self._energy_of(x, self._forward(x))

    def energy_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """In one pass: after the last activation the log-density is its product with the constant gradient, plus an
        offset. In 16 bits, the product is of numbers of 16 bits, in float32.
        """
        with torch.no_grad():
            kept = self._forward(x)
            return self._energy_of(x, kept), self._score_of(x, kept)

    def _score_of(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        gradient = self._backward(kept, len(x))
        score = torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32)).copy_(gradient)
        if self._unscale is not None:
            score *= self._unscale
        if self.network.quadratic:
            score.add_(x, alpha=2 * self.network.quadratic)
        return score.to(x.dtype)

    def _energy_of(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        wide = torch.promote_types(self._last.dtype, torch.float32)
        terms = self._top(x, kept).to(wide) * self._last.to(wide)
        log_density = _sums(terms)
        if self._unscale is not None:
            log_density = log_density * self._unscale
        if self.network.quadratic:
            log_density = log_density + self.network.quadratic * _sums(x.to(wide).square())
        return -(log_density + self._offset)

    def _top(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        """The last nonlinear layer's output, or the state if there is none."""
        if not self._layers:
            return x.to(self._dtype)
        layer = self._layers[-1]
        if isinstance(layer, Activation) and layer.slope is None and layer.keeps_output:
            return kept[-1]
        return walk.forward(layer, kept[-1])

    @functools.cached_property
    def _offset(self) -> Tensor:
        wide = torch.promote_types(self._last.dtype, torch.float32)
        return walk.last_offset(self.network, self._last.device).to(wide)

    def _forward(self, x: Tensor) -> list[Tensor]:
        """What each layer's backward needs: an activation's input or output, or a tensor like another layer's input."""
        h = _channels_last(x.to(self._dtype))
        overwritable = False  # the state and the kept tensors are not
        kept: list[Tensor] = []
        for i, layer in enumerate(self._layers):
            if not isinstance(layer, Activation):
                after = self._layers[i - 1] if i else None
                smooth = isinstance(after, Activation) and not after.keeps_output
                has_shape = smooth and not isinstance(layer, LogSumExp)  # kept anyway, with the shape and layout of h
                kept.append(kept[-1] if has_shape else h)
                if i + 1 < len(self._layers):
                    h = walk.forward(layer, h)
                overwritable = overwritable or not isinstance(layer, Reshape)
            elif i + 1 == len(self._layers) and layer.slope is not None:
                kept.append(h)  # has the sign of its output
            elif layer.keeps_output:
                h = walk.forward_(layer, h) if overwritable else walk.forward(layer, h)
                overwritable = False
                kept.append(h)
            else:
                kept.append(h)
                if i + 1 < len(self._layers):
                    h = walk.forward(layer, h)
                overwritable = True
        return kept

    def _backward(self, kept: list[Tensor], n_chains: int) -> Tensor:
        gradient = self._last.expand(n_chains, *self._last.shape[1:])
        for layer, k in zip(reversed(self._layers), reversed(kept), strict=True):
            gradient = walk.input_gradient(layer, gradient, k)
            if isinstance(layer, Reshape):
                gradient = _channels_last(gradient)
        return gradient


def _packed(layer: Layer, dtype: torch.dtype) -> Layer:
    if not isinstance(layer, (Conv, Linear)):
        return layer
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return dataclasses.replace(layer, weight=_channels_last(layer.weight.to(dtype)), bias=bias)


def _sums(terms: Tensor) -> Tensor:
    """(B, *event) to (B,)."""
    return terms.sum(tuple(range(1, terms.dim()))) if terms.dim() > 1 else terms


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
