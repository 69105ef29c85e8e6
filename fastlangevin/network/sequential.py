"""What a recognised energy is: layers applied one after another, each with what its input gradient needs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


@dataclass(frozen=True)
class Conv:
    """A 2-D convolution: weight (O, I / groups, kh, kw), bias (O,) or None, zero padding."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def forward(self, x: Tensor) -> Tensor:
        return torch.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def backward(self, gradient: Tensor, like: Tensor) -> Tensor:
        """The gradient with respect to the input; of `like` only its shape and layout are read."""
        geometry = (self.stride, self.padding, self.dilation, False, (0, 0), self.groups)
        return _aten.convolution_backward(gradient, like, self.weight, None, *geometry, (True, False, False))[0]


@dataclass(frozen=True)
class Linear:
    """A fully connected layer: weight (O, I), bias (O,) or None."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)

    def backward(self, gradient: Tensor, like: Tensor) -> Tensor:
        return gradient @ self.weight


@dataclass(frozen=True)
class AveragePool:
    """The arguments of `torch.nn.functional.avg_pool2d` after the input."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    ceil_mode: bool
    count_include_pad: bool
    divisor_override: int | None

    def forward(self, x: Tensor) -> Tensor:
        return _aten.avg_pool2d(x, *self._arguments())

    def backward(self, gradient: Tensor, like: Tensor) -> Tensor:
        return _aten.avg_pool2d_backward(gradient, like, *self._arguments())

    def _arguments(self) -> tuple[Any, ...]:
        flags = (self.ceil_mode, self.count_include_pad, self.divisor_override)
        return (self.kernel_size, self.stride, self.padding, *flags)


@dataclass(frozen=True)
class Reshape:
    """Another shape of one chain's elements, in their row-major order; the first dimension stays the chains'."""

    event_shape: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.event_shape)

    def backward(self, gradient: Tensor, like: Tensor) -> Tensor:
        return gradient.reshape(len(gradient), *like.shape[1:])


@dataclass(frozen=True)
class Activation:
    """An element-wise function.

    Attributes:
        name: as in `torch.nn.functional`: "leaky_relu", "relu", "silu", "gelu", "elu", "softplus", "tanh".
        parameters: leaky_relu (slope,); gelu ("none" or "tanh",); elu (alpha,); softplus (beta, threshold).
    """

    name: str
    parameters: tuple[Any, ...] = ()

    @property
    def slope(self) -> float | None:
        """The slope below zero of a piecewise linear function (0 for relu), None for a smooth one."""
        return {"relu": 0.0, "leaky_relu": self.parameters[0] if self.parameters else None}.get(self.name)

    @property
    def keeps_output(self) -> bool:
        """Whether the derivative is read off the output, so that the input may be overwritten by it."""
        return self.name == "tanh" or (self.slope is not None and self.slope >= 0)

    def forward(self, x: Tensor) -> Tensor:
        return _FORWARD[self.name](x, *self.parameters)

    def forward_(self, x: Tensor) -> Tensor:
        """In place, for those whose `keeps_output` is true."""
        return _FORWARD[self.name + "_"](x, *self.parameters)

    def backward(self, gradient: Tensor, kept: Tensor) -> Tensor:
        """The gradient times the derivative; `kept` is the output where `keeps_output`, else the input."""
        return _BACKWARD[self.name](gradient, kept, *self.parameters)


Layer = Conv | Linear | AveragePool | Reshape | Activation

_FORWARD: dict[str, Callable[..., Tensor]] = {
    "leaky_relu": _aten.leaky_relu,
    "leaky_relu_": _aten.leaky_relu_,
    "relu": _aten.relu,
    "relu_": _aten.relu_,
    "tanh": _aten.tanh,
    "tanh_": _aten.tanh_,
    "silu": _aten.silu,
    "gelu": lambda x, approximate: _aten.gelu(x, approximate=approximate),
    "elu": _aten.elu,
    "softplus": _aten.softplus,
}
_BACKWARD: dict[str, Callable[..., Tensor]] = {
    "leaky_relu": lambda g, kept, slope: _aten.leaky_relu_backward(g, kept, slope, slope >= 0),
    "relu": lambda g, kept: _aten.threshold_backward(g, kept, 0),
    "tanh": _aten.tanh_backward,
    "silu": _aten.silu_backward,
    "gelu": lambda g, kept, approximate: _aten.gelu_backward(g, kept, approximate=approximate),
    "elu": lambda g, kept, alpha: _aten.elu_backward(g, alpha, 1, 1, False, kept),
    "softplus": _aten.softplus_backward,
}


@dataclass(frozen=True)
class Stack:
    """f(x) = factor · layers(x) + quadratic · ‖x‖², one number a chain.

    Attributes:
        layers: in the order in which they are applied; their weights are the network's own, detached.
        shapes: of one chain, before the first layer, between layers, and after the last: len(layers) + 1 of them.
        dtype: of the weights and of what the layers are given.
        factor: what the last layer's output is multiplied by.
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
            layer.slope is not None for layer in self.layers if isinstance(layer, Activation)
        )

    @functools.cached_property
    def tail(self) -> int:
        """The index after the last activation: from there on the function is affine, and its gradient a constant."""
        return max((i + 1 for i, layer in enumerate(self.layers) if isinstance(layer, Activation)), default=0)

    def last_gradient(self, device: torch.device) -> Tensor:
        """(1, *shape) ∂f/∂h at the last activation's output h, or at the state where there is no activation."""
        gradient = torch.full((1, *self.shapes[-1]), self.factor, dtype=self.dtype, device=device)
        affine = zip(self.layers[self.tail :], self.shapes[self.tail : -1], strict=True)
        for layer, shape in reversed(list(affine)):
            gradient = layer.backward(gradient, gradient.new_empty((1, *shape)))
        return gradient

    def __call__(self, x: Tensor) -> Tensor:
        """(B, *shape) to (B,), differentiable with respect to x."""
        x = h = x.to(self.dtype)
        for layer in self.layers:
            h = layer.forward(h)
        f = self.factor * h.reshape(len(x))
        return f + self.quadratic * x.square().flatten(1).sum(1) if self.quadratic else f
