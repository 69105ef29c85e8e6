"""Rules of the norms of layers, forward and backward.

All are y = (x - m) r w + b with the mean m and r = 1/√(v + ε) of a group of numbers, whose gradient is

    r (g w - mean(g w) - (x - m) r² mean(g w (x - m))).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..graph import Call, Ref
from .lowering import Lowering, rule
from .operations import Op
from .rules_reductions import reduced
from .rules_views import in_shape
from .values import Node, NotLowered, Shape, View, dense_strides

_aten = torch.ops.aten


@rule(_aten.native_layer_norm.default)
def _layer_norm(lo: Lowering, call: Call) -> tuple[Node, Node, Node]:
    x, normalized, weight, bias, eps = call.args
    node = lo.node(x)
    dims = list(range(len(node.shape) - len(normalized), len(node.shape)))
    n = math.prod(normalized)
    mean = reduced(lo, node, dims, True, 1.0 / n)
    away = lo.pointwise(Op.add, node, mean, number=-1.0)
    scale = _scale(lo, reduced(lo, lo.pointwise(Op.multiply, away, away), dims, True, 1.0 / n), eps)
    y = _affine(lo, lo.pointwise(Op.multiply, away, scale), weight, bias)
    return y, mean, scale


@rule(_aten.native_layer_norm_backward.default)
def _layer_norm_backward(lo: Lowering, call: Call) -> tuple[Node | None, ...]:
    gradient, x, normalized, mean, scale, weight, _, wanted = call.args
    _only_input(wanted)
    node = lo.node(x)
    dims = list(range(len(node.shape) - len(normalized), len(node.shape)))
    away = lo.pointwise(Op.add, node, mean, number=-1.0)
    through = _affine(lo, lo.node(gradient), weight, None)
    return _backward(lo, through, away, lo.node(scale), dims, math.prod(normalized)), None, None


def _backward(lo: Lowering, through: Node, away: Node, scale: Node, dims: Sequence[int], n: int) -> Node:
    """The gradient at x of (x - m) r, from that at the result."""
    mean = reduced(lo, through, dims, True, 1.0 / n)
    along = reduced(lo, lo.pointwise(Op.multiply, through, away), dims, True, 1.0 / n)
    curved = lo.pointwise(Op.multiply, along, lo.pointwise(Op.multiply, scale, scale))
    centred = lo.pointwise(Op.add, through, mean, number=-1.0)
    rest = lo.pointwise(Op.add, centred, lo.pointwise(Op.multiply, away, curved), number=-1.0)
    return lo.pointwise(Op.multiply, rest, scale)


def _scale(lo: Lowering, variance: Node, eps: float) -> Node:
    """1/√(v + ε), stored."""
    root = lo.pointwise(Op.square_root, lo.pointwise(Op.add_number, variance, number=eps))
    node = lo.pointwise(Op.number_divide, root, number=1.0)
    lo.stored(node)
    return node


def _affine(lo: Lowering, node: Node, weight: Any, bias: Any) -> Node:
    node = node if weight is None else lo.pointwise(Op.multiply, node, weight)
    return node if bias is None else lo.pointwise(Op.add, node, bias, number=1.0)


def _only_input(wanted: Sequence[bool]) -> None:
    if list(wanted) != [True, False, False]:
        raise NotLowered("a step needs a gradient with respect to weights")


# Norms over channels: x (1, C, …) with groups of channels. Means and scales are spread over the channels, so that what
# follows reads them as it reads a bias.


@rule(_aten.native_group_norm.default)
def _group_norm(lo: Lowering, call: Call) -> tuple[Node, Node, Node]:
    x, weight, bias, _, _, _, groups, eps = call.args
    node = lo.node(x)
    _counts_samples(lo, node, 0)
    y, mean, scale = _over_channels(lo, node, groups, eps)
    y = _affine(lo, y, *(_channels(lo, p, node) for p in (weight, bias)))
    return y, in_shape(lo, mean, (1, groups), 0), in_shape(lo, scale, (1, groups), 0)


@rule(_aten.native_group_norm_backward.default)
def _group_norm_backward(lo: Lowering, call: Call) -> tuple[Node | None, ...]:
    gradient, x, mean, scale, weight, _, _, _, groups, wanted = call.args
    _only_input(wanted)
    node = lo.node(x)
    _counts_samples(lo, node, 0)
    means, scales = (_spread(lo, lo.node(s), node, groups) for s in (mean, scale))
    through = _affine(lo, lo.node(gradient), _channels(lo, weight, node), None)
    return _channels_backward(lo, through, node, means, scales, groups), None, None


@rule(_aten.native_batch_norm.default)
def _batch_norm(lo: Lowering, call: Call) -> tuple[Node | None, ...]:
    x, weight, bias, running_mean, running_var, training, _, eps = call.args
    node = lo.node(x)
    if training:
        if running_mean is not None:
            raise NotLowered("a norm keeps averages over batches")
        _counts_samples(lo, node, 1)
        y, mean, scale = _over_channels(lo, node, node.shape[1], eps)
        y = _affine(lo, y, *(_channels(lo, p, node) for p in (weight, bias)))
        return y, *(in_shape(lo, s, (node.shape[1],), 0) for s in (mean, scale))
    away = lo.pointwise(Op.add, node, _channels(lo, running_mean, node), number=-1.0)
    scaled = lo.pointwise(Op.multiply, away, _running_scale(lo, running_var, eps, node))
    return _affine(lo, scaled, *(_channels(lo, p, node) for p in (weight, bias))), None, None


@rule(_aten.native_batch_norm_backward.default)
def _batch_norm_backward(lo: Lowering, call: Call) -> tuple[Node | None, ...]:
    gradient, x, weight, _, running_var, mean, scale, training, eps, wanted = call.args
    _only_input(wanted)
    if not training:
        node = lo.node(gradient)
        through = _affine(lo, node, _channels(lo, weight, node), None)
        return lo.pointwise(Op.multiply, through, _running_scale(lo, running_var, eps, node)), None, None
    node = lo.node(x)
    _counts_samples(lo, node, 1)
    groups = node.shape[1]
    means, scales = (_spread(lo, lo.node(s), node, groups) for s in (mean, scale))
    through = _affine(lo, lo.node(gradient), _channels(lo, weight, node), None)
    return _channels_backward(lo, through, node, means, scales, groups), None, None


def _counts_samples(lo: Lowering, node: Node, batch: int) -> None:
    if lo.n_samples > 1 and node.batch != batch:
        raise NotLowered("a norm is over several samples")
    if node.shape[0] != 1:
        raise NotLowered("there is no kernel for a norm of such a tensor")


def _running_scale(lo: Lowering, variance: Ref, eps: float, node: Node) -> Node:
    n = lo.shape(variance)[0]
    if lo.n_samples > 1 and node.batch == 1:
        raise NotLowered("a norm's averages are those of several samples")
    constant = lo.constant((variance,), lambda v: torch.rsqrt(v.double() + eps).float(), n, ("running", eps))
    shape = (n, *(1,) * (len(node.shape) - 2))
    return lo.of_view(View(constant, shape, dense_strides(shape)), 0)


def _channels(lo: Lowering, parameter: Any, node: Node) -> Node | None:
    """A parameter of the channels, for pointwise operations with x (1, C, …)."""
    if parameter is None:
        return None
    flat = lo.operand(parameter, len(lo.shape(parameter)) - (0 if node.batch == 1 else -1), node.shape[1])
    view = lo.stored(flat)
    found = view.reshaped((node.shape[1], *(1,) * (len(node.shape) - 2)))
    if found is None:
        raise NotLowered("a norm's parameter is not of its channels")
    return lo.of_view(found, 0)


def _over_channels(lo: Lowering, node: Node, groups: int, eps: float) -> tuple[Node, Node, Node]:
    """(x - m) r, m and r, the latter of (1, groups, 1, …)."""
    n = math.prod(node.shape) // groups
    rest = list(range(2, len(node.shape)))
    mean = _grouped(lo, reduced(lo, node, rest, True, 1.0 / n), groups, node)
    away = lo.pointwise(Op.add, node, _spread(lo, mean, node, groups), number=-1.0)
    square = lo.pointwise(Op.multiply, away, away)
    scale = _scale(lo, _grouped(lo, reduced(lo, square, rest, True, 1.0 / n), groups, node), eps)
    return lo.pointwise(Op.multiply, away, _spread(lo, scale, node, groups)), mean, scale


def _channels_backward(lo: Lowering, through: Node, x: Node, mean: Node, scale: Node, groups: int) -> Node:
    n = math.prod(x.shape) // groups
    rest = list(range(2, len(x.shape)))
    away = lo.pointwise(Op.add, x, mean, number=-1.0)
    products = lo.pointwise(Op.multiply, through, away)
    mean_through, along = (
        _spread(lo, _grouped(lo, reduced(lo, each, rest, True, 1.0 / n), groups, x), x, groups)
        for each in (through, products)
    )
    curved = lo.pointwise(Op.multiply, along, lo.pointwise(Op.multiply, scale, scale))
    centred = lo.pointwise(Op.add, through, mean_through, number=-1.0)
    left = lo.pointwise(Op.add, centred, lo.pointwise(Op.multiply, away, curved), number=-1.0)
    return lo.pointwise(Op.multiply, left, scale)


def _grouped(lo: Lowering, sums: Node, groups: int, x: Node) -> Node:
    """The sums over the channels of each group of (1, C, 1, …)."""
    channels = x.shape[1]
    if groups == channels:
        return sums
    split = in_shape(lo, sums, (1, groups, channels // groups), x.batch)
    return in_shape(lo, reduced(lo, split, [2], True), (1, groups, *(1,) * (len(x.shape) - 2)), x.batch)


def _spread(lo: Lowering, small: Node, x: Node, groups: int) -> Node:
    """One number of each group as one of each channel, (1, C, 1, …)."""
    channels = x.shape[1]
    shape: Shape = (1, channels, *(1,) * (len(x.shape) - 2))
    if groups == channels:
        return in_shape(lo, small, shape, x.batch)
    split = in_shape(lo, small, (1, groups, 1), x.batch)
    repeated = lo.like(split, (1, groups, channels // groups))
    return in_shape(lo, repeated, shape, x.batch)
