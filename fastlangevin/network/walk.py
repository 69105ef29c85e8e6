"""Evaluates layers forward, and their gradients with respect to the input backward."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .layers import Activation, AveragePool, Conv, Gather, Layer, Linear, LogSumExp, Reshape
from .sequential import Sequential

_aten = torch.ops.aten


def forward(layer: Layer, x: Tensor) -> Tensor:
    """The layer's output at x, (B, *shape)."""
    return _FORWARD[type(layer)](layer, x)


def forward_(activation: Activation, x: Tensor) -> Tensor:
    """The output of an activation whose `keeps_output` is true, in place."""
    return _VALUES_[activation.name](x, *activation.parameters)


def input_gradient(layer: Layer, gradient: Tensor, kept: Tensor) -> Tensor:
    """The gradient with respect to the layer's input, from the one with respect to its output.

    Args:
        kept: for an activation, its output if it `keeps_output`, else its input; for a log-sum-exp its input; for any
            other layer, a tensor with the shape and layout of its input, whose values are not read.
    """
    return _BACKWARD[type(layer)](layer, gradient, kept)


def log_density(network: Sequential, x: Tensor) -> Tensor:
    """(B, *shape) states to (B,), differentiable with respect to x."""
    x = h = x.to(network.dtype)
    for layer in network.layers:
        h = forward(layer, h)
    f = network.factor * h.reshape(len(x))
    return f + network.quadratic * x.square().flatten(1).sum(1) if network.quadratic else f


def last_gradient(network: Sequential, device: torch.device) -> Tensor:
    """(1, *shape) ∂f/∂h at the output h of the last nonlinear layer, or at the state if there is none; (B, *shape) if
    it depends on the chain's label.
    """
    gradient = torch.full((1, *network.shapes[-1]), network.factor, dtype=network.dtype, device=device)
    affine = zip(network.layers[network.tail :], network.shapes[network.tail : -1], strict=True)
    for layer, shape in reversed(list(affine)):
        gradient = input_gradient(layer, gradient, gradient.new_empty((len(gradient), *shape)))
    return gradient


def last_offset(network: Sequential, device: torch.device) -> Tensor:
    """(1,) what f is where the last nonlinear layer's output, or the state if there is none, is 0, in float64; (B,) if
    it depends on the chain's label.
    """
    layers = network.layers[network.tail :]
    n_chains = next((len(layer.index) for layer in layers if isinstance(layer, Gather)), 1)
    h = torch.zeros(n_chains, *network.shapes[network.tail], dtype=torch.float64, device=device)
    for layer in layers:
        h = forward(_in_float64(layer), h)
    return network.factor * h.reshape(n_chains)


def _in_float64(layer: Layer) -> Layer:
    if not isinstance(layer, (Conv, Linear)):
        return layer
    bias = None if layer.bias is None else layer.bias.double()
    return dataclasses.replace(layer, weight=layer.weight.double(), bias=bias)


def _conv(layer: Conv, x: Tensor) -> Tensor:
    return torch.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _conv_backward(layer: Conv, gradient: Tensor, like: Tensor) -> Tensor:
    geometry = (layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups)
    return _aten.convolution_backward(gradient, like, layer.weight, None, *geometry, (True, False, False))[0]


def _gather(layer: Gather, h: Tensor) -> Tensor:
    found = h.gather(1, layer.index[:, None])
    return found if layer.keepdim else found[:, 0]


def _gather_backward(layer: Gather, gradient: Tensor, like: Tensor) -> Tensor:
    index = layer.index[:, None]
    return gradient.new_zeros(len(index), like.shape[1]).scatter_(1, index, gradient.reshape(-1, 1).expand(index.shape))


def _pool_arguments(layer: AveragePool) -> tuple[Any, ...]:
    flags = (layer.ceil_mode, layer.count_include_pad, layer.divisor_override)
    return (layer.kernel_size, layer.stride, layer.padding, *flags)


_FORWARD: dict[type[Layer], Callable[[Any, Tensor], Tensor]] = {
    Conv: _conv,
    Linear: lambda layer, x: torch.nn.functional.linear(x, layer.weight, layer.bias),
    AveragePool: lambda layer, x: _aten.avg_pool2d(x, *_pool_arguments(layer)),
    Reshape: lambda layer, x: x.reshape(len(x), *layer.event_shape),
    Activation: lambda layer, x: _VALUES[layer.name](x, *layer.parameters),
    LogSumExp: lambda layer, x: x.logsumexp(1, layer.keepdim),
    Gather: _gather,
}
_BACKWARD: dict[type[Layer], Callable[[Any, Tensor, Tensor], Tensor]] = {
    Conv: _conv_backward,
    Linear: lambda layer, gradient, like: gradient @ layer.weight,
    AveragePool: lambda layer, gradient, like: _aten.avg_pool2d_backward(gradient, like, *_pool_arguments(layer)),
    Reshape: lambda layer, gradient, like: gradient.reshape(len(gradient), *like.shape[1:]),
    Activation: lambda layer, gradient, kept: _DERIVATIVES[layer.name](gradient, kept, *layer.parameters),
    LogSumExp: lambda layer, gradient, kept: gradient.reshape(-1, 1) * kept.softmax(1),
    Gather: _gather_backward,
}
_VALUES: dict[str, Callable[..., Tensor]] = {
    "leaky_relu": _aten.leaky_relu,
    "relu": _aten.relu,
    "tanh": _aten.tanh,
    "silu": _aten.silu,
    "gelu": lambda x, approximate: _aten.gelu(x, approximate=approximate),
    "elu": _aten.elu,
    "softplus": _aten.softplus,
}
_VALUES_: dict[str, Callable[..., Tensor]] = {
    "leaky_relu": _aten.leaky_relu_,
    "relu": _aten.relu_,
    "tanh": _aten.tanh_,
}
_DERIVATIVES: dict[str, Callable[..., Tensor]] = {  # times the gradient
    "leaky_relu": lambda g, kept, slope: _aten.leaky_relu_backward(g, kept, slope, slope >= 0),
    "relu": lambda g, kept: _aten.threshold_backward(g, kept, 0),
    "tanh": _aten.tanh_backward,
    "silu": _aten.silu_backward,
    "gelu": lambda g, kept, approximate: _aten.gelu_backward(g, kept, approximate=approximate),
    "elu": lambda g, kept, alpha: _aten.elu_backward(g, alpha, 1, 1, False, kept),
    "softplus": _aten.softplus_backward,
}
