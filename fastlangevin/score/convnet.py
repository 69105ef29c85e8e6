"""The score of a stack of known layers in closed form: forward, and input gradients, with no autograd graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import BackendUnavailable
from .autograd import AutogradScore, BoundScore
from .precision import HALF
from .stack import Activation, Conv, Layer, Linear, Reshape, Stack
from .target import Target
from .tracing import NotRecognised, trace


class ConvNetScore(AutogradScore):
    """The engine for energies that are layers in a row: convolutions, linear layers, average pools, element-wise
    functions and reshapes, ending in one number a chain (`tracing.trace` says exactly which).

    With h_i = layer_i(h_{i-1}), h_0 = x, the score is J_1ᵀ ⋯ J_nᵀ (±1). What follows the last activation is affine, so
    its product of Jacobians is one constant a chain: neither that part's forward nor its backward is computed. Weights
    are read, and brought into the precision and layout that they are used in, once a call.

    Raises (by `bind`):
        BackendUnavailable: the energy is not such a stack, as far as can be seen; the message says what is in the way.
    """

    name = "convnet"

    def bind(self, x: Tensor, args: Sequence[object]) -> BoundScore:
        try:
            stack = trace(self.target, x.shape, x.dtype, x.device, args)
        except NotRecognised as error:
            raise BackendUnavailable(f"engine='convnet' cannot be used for this {self.target.kind}: {error}") from None
        return BoundStack(stack, self.precision, x.device)


class BoundStack(BoundScore):
    """The score of a `Stack` by torch's own operators, channels last; energies and second derivatives by autograd.

    fp16: the constant gradient is multiplied by the power of two that takes its largest magnitude into [1, 2), so that
    gradients do not underflow, and the score is divided by it in float32.
    """

    name = "convnet"

    def __init__(self, stack: Stack, precision: str, device: torch.device) -> None:
        super().__init__(Target("log_density", stack), precision, ())
        self.is_piecewise_linear = stack.is_piecewise_linear
        self._dtype = stack.dtype if stack.dtype == torch.float64 else HALF.get(precision, stack.dtype)
        self._layers = [_packed(layer, self._dtype) for layer in stack.layers[: stack.tail]]
        last = last_gradient(stack, device)
        self._unscale: Tensor | None = None
        if self._dtype == torch.float16:
            exponent = torch.frexp(last.abs().amax()).exponent - 1
            last, self._unscale = torch.ldexp(last, -exponent), torch.ldexp(last.new_ones(()), exponent)
        self._last = _channels_last(last.to(self._dtype))

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            gradient = self._backward(self._forward(x), len(x))
            score = torch.empty_like(x, dtype=torch.promote_types(x.dtype, torch.float32)).copy_(gradient)
            if self._unscale is not None:
                score *= self._unscale
            return score.to(x.dtype)

    def energy_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        return self.energy(x), self(x)

    def linearize(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor | None]]:
        if self.is_piecewise_linear:
            return self(x), lambda v: None
        return super().linearize(x)

    def _forward(self, x: Tensor) -> list[Tensor]:
        """What each layer's backward needs: the input of an activation, or its output, else a tensor like its input."""
        h = _channels_last(x.to(self._dtype))
        overwritable = False  # neither is the state, nor what is kept
        kept: list[Tensor] = []
        for i, layer in enumerate(self._layers):
            if not isinstance(layer, Activation):
                after = self._layers[i - 1] if i else None
                smooth = isinstance(after, Activation) and not after.keeps_output
                kept.append(kept[-1] if smooth else h)  # like h, and kept anyway
                if i + 1 < len(self._layers):
                    h = layer.forward(h)
                overwritable = overwritable or not isinstance(layer, Reshape)
            elif i + 1 == len(self._layers) and layer.slope is not None:
                kept.append(h)  # it has its output's sign
            elif layer.keeps_output:
                h = layer.forward_(h) if overwritable else layer.forward(h)
                overwritable = False
                kept.append(h)
            else:
                kept.append(h)
                if i + 1 < len(self._layers):
                    h = layer.forward(h)
                overwritable = True
        return kept

    def _backward(self, kept: list[Tensor], n_chains: int) -> Tensor:
        gradient = self._last.expand(n_chains, *self._last.shape[1:])
        for layer, k in zip(reversed(self._layers), reversed(kept), strict=True):
            gradient = layer.backward(gradient, k)
            if isinstance(layer, Reshape):
                gradient = _channels_last(gradient)
        return gradient


def last_gradient(stack: Stack, device: torch.device) -> Tensor:
    """(1, *shape) ∂f/∂h at the last activation's output h, or at the state where there is no activation."""
    gradient = torch.full((1, *stack.shapes[-1]), stack.factor, dtype=stack.dtype, device=device)
    for layer, shape in zip(reversed(stack.layers[stack.tail :]), reversed(stack.shapes[stack.tail : -1]), strict=True):
        gradient = layer.backward(gradient, gradient.new_empty((1, *shape)))
    return gradient


def _packed(layer: Layer, dtype: torch.dtype) -> Layer:
    if not isinstance(layer, (Conv, Linear)):
        return layer
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return dataclasses.replace(layer, weight=_channels_last(layer.weight.to(dtype)), bias=bias)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
