"""The layers of a recognised energy, as plain data: `walk` evaluates them, kernels read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Conv:
    """A 2-D convolution: weight (O, I / groups, kh, kw), bias (O,) or None, zero padding."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class Linear:
    """A fully connected layer: weight (O, I), bias (O,) or None."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class AveragePool:
    """The arguments of `torch.nn.functional.avg_pool2d` after the input."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    ceil_mode: bool
    count_include_pad: bool
    divisor_override: int | None


@dataclass(frozen=True)
class Reshape:
    """A new shape of one chain's elements, in row-major order; the first dimension remains that of the chains."""

    event_shape: tuple[int, ...]


@dataclass(frozen=True)
class Activation:
    """An element-wise function.

    Attributes:
        name: as in `torch.nn.functional`; `walk` has all of them.
        parameters: leaky_relu (slope,); gelu ("none" or "tanh",); elu (alpha,); softplus (beta, threshold); else ().
    """

    name: str
    parameters: tuple[Any, ...] = ()

    @property
    def slope(self) -> float | None:
        """The slope below zero of a piecewise linear function (0 for relu), None for a smooth one."""
        return {"relu": 0.0, "leaky_relu": self.parameters[0] if self.parameters else None}.get(self.name)

    @property
    def keeps_output(self) -> bool:
        """Whether the derivative is a function of the output, so that the input may be overwritten by it."""
        return self.name == "tanh" or (self.slope is not None and self.slope >= 0)


@dataclass(frozen=True)
class LogSumExp:
    """log Σ_c exp(h_c) of one chain's vector (C,): (1,) if keepdim, else ()."""

    keepdim: bool


@dataclass(frozen=True)
class Gather:
    """Of one chain's vector (C,) the element that its entry of index (B,) names: (1,) if keepdim, else ()."""

    index: Tensor
    keepdim: bool


Layer = Conv | Linear | AveragePool | Reshape | Activation | LogSumExp | Gather

# Convolutions, each with the slope below zero of the (leaky) ReLU after it: the input of the convnet kernels.
ConvTower = Sequence[tuple[Conv, float]]
