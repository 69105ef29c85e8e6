"""Rules of sums and maxima over dimensions, and of what is made of them: softmax, norms of vectors, variances."""

from __future__ import annotations

import math
from collections.abc import Set
from typing import Any

import torch

from ..graph import Call
from .instructions import Reduce, collapsed
from .lowering import Lowering, rule, with_defaults
from .operations import Op
from .values import Node, NotLowered, View

_aten = torch.ops.aten
_LARGEST = 3.4e38


def reduced(lo: Lowering, node: Node, dims: Any, keeps: bool, scale: float = 1.0, is_max: bool = False) -> Node:
    """The scaled sum of a node, or its maximum, over dimensions; over all for None and []."""
    rank = len(node.shape)
    over = {d % max(1, rank) for d in ([dims] if isinstance(dims, int) else dims or range(rank))}
    if lo.n_samples > 1 and node.batch in over:
        raise NotLowered("an operator adds up samples")
    shape = tuple(1 if d in over else n for d, n in enumerate(node.shape))
    view = lo.stored(node)
    known = lo.reductions.get((view, frozenset(over), scale, is_max))
    result = _reduction(lo, view, over, scale, is_max) if known is None else known
    lo.reductions[view, frozenset(over), scale, is_max] = result
    whole = lo.of_view(result, node.batch)
    if keeps or not rank:
        return whole
    left = tuple(n for d, n in enumerate(shape) if d not in over)
    found = result.reshaped(left)
    assert found is not None
    return lo.of_view(found, max(0, node.batch - sum(d < node.batch for d in over)))


def _reduction(lo: Lowering, view: View, over: Set[int], scale: float, is_max: bool) -> View:
    """The result with dimensions of size 1 in place of those that are reduced."""
    rank = len(view.shape)
    shape = tuple(1 if d in over else n for d, n in enumerate(view.shape))
    order = sorted(range(rank), key=lambda d: -view.strides[d])
    kept = [d for d in order if d not in over and view.shape[d] > 1]
    rest = [d for d in order if d in over and view.shape[d] > 1]
    result = lo.buffer(shape, [d for d in range(rank) if d not in kept] + kept)
    inner = collapsed(view.permuted(rest))
    outer = view.permuted(kept)
    source = View(view.base, (*outer.shape, *inner.shape), (*outer.strides, *inner.strides), view.offset)
    lo.emit(Reduce(source, result.permuted(kept), is_max, scale))
    return result


def count(node: Node, dims: Any) -> int:
    """How many numbers a reduction over dimensions reads for each result."""
    rank = len(node.shape)
    return math.prod(node.shape[d] for d in ([dims] if isinstance(dims, int) else dims or range(rank)))


def _dims(call: Call) -> tuple[Any, bool]:
    """The dimensions, and whether they are kept, of most reductions."""
    dims, keeps = with_defaults(call.args[1:], (None, False))
    if call.kwargs.get("dtype", torch.float32) not in (None, torch.float32):
        raise NotLowered(f"a sum is {call.kwargs['dtype']}")
    return dims, bool(keeps)


@rule(_aten.sum.dim_IntList, _aten.sum.default)
def _sum(lo: Lowering, call: Call) -> Node:
    return reduced(lo, lo.node(call.args[0]), *_dims(call))


@rule(_aten.mean.dim, _aten.mean.default)
def _mean(lo: Lowering, call: Call) -> Node:
    node, (dims, keeps) = lo.node(call.args[0]), _dims(call)
    return reduced(lo, node, dims, keeps, 1.0 / count(node, dims))


@rule(_aten.amax.default)
def _amax(lo: Lowering, call: Call) -> Node:
    return reduced(lo, lo.node(call.args[0]), *_dims(call), is_max=True)


@rule(_aten.var.correction)
def _var(lo: Lowering, call: Call) -> Node:
    node, dims = lo.node(call.args[0]), (*call.args[1:], None)[0]
    n = count(node, dims)
    correction = call.kwargs.get("correction", 1)
    correction = 1 if correction is None else correction
    mean = reduced(lo, node, dims, True, 1.0 / n)
    away = lo.pointwise(Op.add, node, mean, number=-1.0)
    square = lo.pointwise(Op.multiply, away, away)
    return reduced(lo, square, dims, call.kwargs.get("keepdim", False), 1.0 / max(0.0, n - correction))


@rule(_aten.linalg_vector_norm.default)
def _norm(lo: Lowering, call: Call) -> Node:
    x, order, dims, keeps = with_defaults(call.args, (None, 2, None, False))[:4]
    if order != 2:
        raise NotLowered(f"there is no kernel for a norm of order {order}")
    total = reduced(lo, lo.pointwise(Op.multiply, x, x), dims, keeps)
    return lo.pointwise(Op.square_root, total)


def _shifted(lo: Lowering, node: Node, dims: Any) -> tuple[Node, Node]:
    """x - m and m, the maximum over dimensions, or a finite number in place of infinities."""
    most = reduced(lo, node, dims, True, is_max=True)
    limited = lo.pointwise(Op.clamp, most, number=-_LARGEST, other=_LARGEST)
    return lo.pointwise(Op.add, node, limited, number=-1.0), limited


@rule(_aten.logsumexp.default)
def _logsumexp(lo: Lowering, call: Call) -> Node:
    node, (dims, keeps) = lo.node(call.args[0]), _dims(call)
    away, most = _shifted(lo, node, dims)
    total = reduced(lo, lo.pointwise(Op.exponential, away), dims, True)
    result = lo.pointwise(Op.add, lo.pointwise(Op.logarithm, total), most, number=1.0)
    if keeps:
        return result
    over = [d % len(node.shape) for d in ([dims] if isinstance(dims, int) else dims)]
    shape = tuple(n for d, n in enumerate(result.shape) if d not in over)
    view = lo.stored(result).reshaped(shape)
    assert view is not None
    return lo.of_view(view, max(0, node.batch - sum(d < node.batch for d in over)))


@rule(_aten._safe_softmax.default)
def _safe_softmax(lo: Lowering, call: Call) -> Node:
    """0 where all are -∞."""
    away, _ = _shifted(lo, lo.node(call.args[0]), [call.args[1]])
    e = lo.pointwise(Op.exponential, away)
    total = reduced(lo, e, [call.args[1]], True)
    return lo.pointwise(Op.divide, e, lo.pointwise(Op.clamp, total, number=1e-30, other=math.inf))


@rule(_aten._softmax.default, _aten._log_softmax.default)
def _softmax(lo: Lowering, call: Call) -> Node:
    node, dim = lo.node(call.args[0]), call.args[1]
    away, _ = _shifted(lo, node, [dim])
    e = lo.pointwise(Op.exponential, away)
    total = reduced(lo, e, [dim], True)
    if call.name == "_softmax":
        return lo.pointwise(Op.divide, e, total)
    return lo.pointwise(Op.add, away, lo.pointwise(Op.logarithm, total), number=-1.0)


@rule(_aten._softmax_backward_data.default)
def _softmax_backward(lo: Lowering, call: Call) -> Node:
    gradient, y, dim = call.args[:3]
    total = reduced(lo, lo.pointwise(Op.multiply, gradient, y), [dim], True)
    return lo.pointwise(Op.multiply, lo.pointwise(Op.add, gradient, total, number=-1.0), y)


@rule(_aten._log_softmax_backward_data.default)
def _log_softmax_backward(lo: Lowering, call: Call) -> Node:
    gradient, y, dim = call.args[:3]
    total = reduced(lo, lo.node(gradient), [dim], True)
    spread = lo.pointwise(Op.multiply, lo.pointwise(Op.exponential, y), total)
    return lo.pointwise(Op.add, gradient, spread, number=-1.0)
