"""The score of a network in float64, with the roundings of a forward and a backward pass in lower precision."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastlangevin.network import walk
from fastlangevin.network.layers import Activation, LogSumExp

from . import traced_energies, winograd
from .error_bounds import Roundings, U, gamma

# The absolute error of e^a for a ≤ 0, in u: the derivative of elu(1.5), 1.5 e^a, is within 2.5 units in the last place
# of 1 (test_mlp_chain.py).
EXPONENTIAL = 5 / 1.5


@dataclass(frozen=True)
class Affine:
    """h ↦ function(h, weight, bias), each output a sum of n_terms products and the bias.

    Attributes:
        winograd: stride and padding of a convolution that `support.winograd` applies to.
        transposed_like: of an input gradient, the input.
    """

    function: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor
    bias: Tensor | None
    n_terms: int
    winograd: tuple[tuple[int, int], tuple[int, int]] | None = None
    transposed_like: Tensor | None = None

    def __call__(self, h: Tensor) -> Tensor:
        return self.function(h, self.weight, self.bias)

    def transposed(self, like: Tensor) -> Affine:
        """The gradient with respect to an input like `like`."""
        if self.weight.dim() == 2:
            return Affine(functional.linear, self.weight.t(), None, len(self.weight))

        def function(g: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            with torch.enable_grad():
                h = torch.zeros_like(like, requires_grad=True)
                return torch.autograd.grad(self.function(h, weight, None), h, g, create_graph=True)[0]

        n_terms = len(self.weight) * math.prod(self.weight.shape[2:])
        return Affine(function, self.weight, None, n_terms, self.winograd, like)

    def winograd_terms(self, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Sums of the absolute terms by `support.winograd`, of absolute values."""
        assert self.winograd is not None
        if self.transposed_like is None:
            return winograd.forward(h, weight, bias, *self.winograd)
        return winograd.gradient(h, weight, self.transposed_like, *self.winograd)


@dataclass(frozen=True)
class Elementwise:
    """An activation, and what is recorded of it."""

    function: Callable[[Tensor], Tensor]
    recorded: Activation

    def derivative(self, h: Tensor) -> Tensor:
        return torch.autograd.grad(self.function(h).sum(), h, create_graph=True)[0]


@dataclass(frozen=True)
class Reshape:
    function: Callable[[Tensor], Tensor]


def layer_of(layer: Any) -> Affine | Elementwise | Reshape:
    """Of a torch module, or of a layer of `fastlangevin.network.layers`."""
    if isinstance(layer, (nn.Flatten, nn.Unflatten)):
        return Reshape(layer)
    if isinstance(layer, Activation):
        return Elementwise(functools.partial(walk.forward, layer), layer)
    if not hasattr(layer, "weight"):
        one = torch.ones(1, 1)
        read = traced_energies.read(lambda x: functional.linear(layer(functional.linear(x, one)), one), (1, 1))
        return Elementwise(layer, read.layers[1])
    weight = layer.weight.detach().double()
    bias = None if layer.bias is None else layer.bias.detach().double()
    if weight.dim() == 2:
        return Affine(functional.linear, weight, bias, weight.shape[1])
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    in_tiles = winograd.applies(weight, layer.stride) and tuple(layer.dilation) == (1, 1) and layer.groups == 1
    return Affine(
        lambda h, w, b: functional.conv2d(h, w, b, *geometry),
        weight,
        bias,
        weight[0].numel(),
        (tuple(layer.stride), tuple(layer.padding)) if in_tiles else None,
    )


@dataclass(frozen=True)
class Arithmetic:
    """How a kernel computes.

    Attributes:
        activation: (activation, z, value, derivative) to the errors of value and derivative, z without one.
        ascending: sums run from the bias over the features in ascending order; otherwise in any.
        half: the unit roundoff of the type that factors, and maybe results, are rounded to; 0 for float32.
        winograd: convolutions may be computed as `support.winograd` has it. Each term then has 4 roundings in its
            factors, and passes 3 on its way from three sums to one: 7 more than in any order of the plain terms.
    """

    activation: Callable[[Activation, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    ascending: bool = False
    half: float = 0.0
    winograd: bool = False

    def terms(self, layer: Affine, h: Tensor, weight: Tensor) -> Tensor:
        """Sums of the absolute values of what is added up."""
        function = layer.winograd_terms if self.winograd and layer.winograd else layer.function
        return function(h.abs(), weight.abs(), None if layer.bias is None else layer.bias.abs())

    def sums(self, roundings: Roundings, layer: Affine, h: Tensor) -> Tensor:
        total = layer(h)
        with torch.no_grad():
            bias = layer.bias
            if self.ascending:
                terms = h[:, None, :] * layer.weight
                partial = terms.cumsum(2) + (0.0 if bias is None else bias[:, None])
                bound = U * (partial.abs().sum(2) + terms.abs().sum(2))
            else:
                n = layer.n_terms + (bias is not None) + 7 * (self.winograd and layer.winograd is not None)
                bound = (gamma(n) + 2 * self.half) * self.terms(layer, h, layer.weight) + self.half * total.abs()
        return roundings.rounded(total, bound)


@dataclass(frozen=True)
class Exact(Arithmetic):
    """Of numbers so short that sums have no error in any order: all terms are whole multiples of a power of two, and
    their absolute values add up to less than 2^bits times that, or it raises a FloatingPointError.

    Attributes:
        dtype: what factors are rounded to, before products that are exact.
        bits: of the sums' significand: float32 has 24, bfloat16 8.
    """

    activation: Callable[..., tuple[Tensor, Tensor]] = lambda activation, z, *_: (0 * z, 0 * z)
    dtype: torch.dtype = torch.float64
    bits: int = 24

    def sums(self, roundings: Roundings, layer: Affine, h: Tensor) -> Tensor:
        h, weight = (v.to(self.dtype).double() for v in (h, layer.weight))
        bias = () if layer.bias is None else (layer.bias,)
        unit = min(finest_bit(h) * finest_bit(weight), *map(finest_bit, bias), 1.0)
        most = self.terms(layer, h, weight)
        if (most >= 2**self.bits * unit).any():
            raise FloatingPointError(f"sums of {most.max() / unit:.0f} units would be rounded to {self.bits} bits")
        return layer.function(h, weight, layer.bias)


def finest_bit(values: Tensor) -> float:
    """A power of two, at most 1, of which all values are whole multiples."""
    assert values.isfinite().all()
    unit = 1.0
    while (values / unit).frac().any():
        unit /= 2
    return unit


def softmax(roundings: Roundings, z: Tensor, factor: float) -> Tensor:
    """factor · softmax(z) with the roundings of csrc/cpu/mlp_chain_impl.h: e^a, a ≤ 0, within `EXPONENTIAL` u."""
    e = roundings.relative(z - z.detach().amax(1, keepdim=True)).exp()
    e = roundings.rounded(e, EXPONENTIAL * U)
    total = roundings.rounded(e.sum(1), U * e.cumsum(1).abs().sum(1))
    scale = roundings.relative(factor / total, 1 + (abs(factor) != 1))
    return roundings.relative(e * scale[:, None])


def forward(
    roundings: Roundings, steps: Sequence[Any], x: Tensor, arithmetic: Arithmetic
) -> tuple[Tensor, list[Tensor]]:
    """The last output of layers (`layer_of`), and of each the derivative of an activation or another one's input."""
    h, kept = x, []
    for layer in steps:
        if isinstance(layer, Elementwise):
            h = h if h.requires_grad else h.requires_grad_()
            error, functions = roundings.bound(h), (layer.function, layer.derivative)
            values = [function(h) for function in functions]
            errors = arithmetic.activation(layer.recorded, h.detach(), *(value.detach() for value in values))
            beyond = [roundings.beyond_tangent(function, h, error) for function in functions]
            h, derivative = map(roundings.rounded, values, map(torch.add, errors, beyond))
            kept.append(derivative)
        else:
            kept.append(h)
            h = arithmetic.sums(roundings, layer, h) if isinstance(layer, Affine) else layer.function(h)
    return h, kept


def energy(
    roundings: Roundings,
    layers: Sequence[Any],
    x: Tensor,
    arithmetic: Arithmetic,
    prior: float = 0.0,
    factor: float = 1.0,
) -> Tensor:
    """The energy whose score is `score`, with the roundings of csrc/cpu/mlp_chain_impl.h."""
    *steps, last = [layer if isinstance(layer, LogSumExp) else layer_of(layer) for layer in layers]
    h, _ = forward(roundings, steps, x, arithmetic)
    if isinstance(last, LogSumExp):
        value = roundings.relative(factor * log_sum_exp(roundings, h))
    else:
        assert isinstance(last, Affine)
        terms = h * last.weight
        partial = terms.cumsum(1)
        value = roundings.rounded(terms.sum(1), U * (partial.abs().sum(1) + terms.abs().sum(1)))
    squares = x.square()
    square = roundings.rounded(squares.sum(1), U * squares.cumsum(1).sum(1))
    return roundings.relative(0.5 * prior * square - value)


def log_sum_exp(roundings: Roundings, z: Tensor) -> Tensor:
    """max z + log Σ e^(z - max z) with the roundings of csrc/cpu/mlp_chain_impl.h.

    The logarithm of a sum s = 2^e (1 + f) is e log 2 + (f - f² / 2 + …), |f| < 0.42: the roundings of the last sums
    are u |log s| and 0.35 u, those of f² 0.2 u, and of the rest, below 0.03, twelve: in all less than u (1 + |log s|).
    """
    greatest = z.amax(1, keepdim=True)
    e = roundings.relative(z - greatest.detach()).exp()
    e = roundings.rounded(e, EXPONENTIAL * U)
    total = roundings.rounded(e.sum(1), U * e.cumsum(1).abs().sum(1))
    logarithm = roundings.rounded(total.log(), U * (1 + total.detach().log().abs()))
    return roundings.relative(greatest.detach()[:, 0] + logarithm)


def score(
    roundings: Roundings,
    layers: Sequence[Any],
    x: Tensor,
    arithmetic: Arithmetic,
    prior: float = 0.0,
    factor: float = 1.0,
) -> Tensor:
    """The score of factor · layers(x) - prior / 2 · |x|²; the last layer is linear, with one output for all chains or
    weights for each, or it is a `LogSumExp`.
    """
    return log_density_and_score(roundings, layers, x, arithmetic, prior, factor)[1]


def log_density_and_score(
    roundings: Roundings,
    layers: Sequence[Any],
    x: Tensor,
    arithmetic: Arithmetic,
    prior: float = 0.0,
    factor: float = 1.0,
) -> tuple[Tensor | None, Tensor]:
    """As `score`, and before it (B,) factor · layers(x) where the last layer is linear: its products, of factors that
    are rounded once at most, are added in float64.
    """
    *steps, last = [layer if isinstance(layer, LogSumExp) else layer_of(layer) for layer in layers]
    h, kept = forward(roundings, steps, x, arithmetic)
    log_density = None
    if isinstance(last, LogSumExp):
        g = softmax(roundings, h, factor)
    else:
        assert isinstance(last, Affine) and last.weight.dim() == 2 and len(last.weight) in (1, len(x))
        terms = roundings.relative(h * last.weight)
        total = factor * (terms.sum(1) + (0.0 if last.bias is None else last.bias))
        log_density = roundings.relative(total)
        g = roundings.relative(factor * last.weight.expand(len(x), -1), abs(factor) != 1)
    for layer, k in zip(reversed(steps), reversed(kept), strict=True):
        if isinstance(layer, Elementwise):
            g = roundings.relative(g * k, 1 + arithmetic.half / U)
        else:
            g = arithmetic.sums(roundings, layer.transposed(k), g) if isinstance(layer, Affine) else g.reshape(k.shape)
    if prior:
        g = roundings.relative(g - roundings.relative(prior * x, 2))
    return log_density, g
