"""Rules of operators that act on each element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ..graph import Call, Ref
from ..pointwise import meaning
from .lowering import Lowering, Rule, rule, with_defaults
from .operations import Op
from .values import Node, NotLowered

_aten = torch.ops.aten
# By the names of `network.pointwise.Op`.
_MEANINGS = {
    "ADD": Op.add,
    "MUL": Op.multiply,
    "DIV": Op.divide,
    "ADD_NUMBER": Op.add_number,
    "MUL_NUMBER": Op.multiply_number,
    "DIV_NUMBER": Op.divide_number,
    "RELU": Op.relu,
    "LEAKY_RELU": Op.leaky_relu,
    "SIGMOID": Op.sigmoid,
    "SILU": Op.silu,
    "THRESHOLD_BACKWARD": Op.threshold_backward,
    "LEAKY_RELU_BACKWARD": Op.leaky_relu_backward,
    "SIGMOID_BACKWARD": Op.sigmoid_backward,
    "SILU_BACKWARD": Op.silu_backward,
}


@rule(
    *(_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.mul.Scalar, _aten.div.Tensor, _aten.div.Scalar),
    *(_aten.neg.default, _aten.relu.default, _aten.leaky_relu.default, _aten.sigmoid.default, _aten.silu.default),
    *(_aten.threshold_backward.default, _aten.leaky_relu_backward.default, _aten.sigmoid_backward.default),
    _aten.silu_backward.default,
)
def _known(lo: Lowering, call: Call) -> Node:
    found = meaning(call)
    if found is None or found.op is None:
        raise NotLowered(f"there is no kernel for {call.operator} with these arguments")
    return lo.pointwise(_MEANINGS[found.op.name], *map(Ref, found.values), number=found.number)


@rule(_aten.clone.default, _aten.detach.default, _aten.alias.default, _aten.lift_fresh.default)
def _same(lo: Lowering, call: Call) -> Node:
    return lo.node(call.args[0])


@rule(_aten._to_copy.default)
def _cast(lo: Lowering, call: Call) -> Node:
    if call.kwargs.get("dtype", torch.float32) not in (torch.float32, None):
        raise NotLowered(f"a tensor is converted to {call.kwargs['dtype']}")
    return lo.node(call.args[0])


def _function(op: Op, n_values: int = 1, defaults: tuple[float, ...] = ()) -> Rule:
    """Of tensors, then of at most two numbers."""

    def apply(lo: Lowering, call: Call) -> Node:
        given = tuple(call.args[n_values:])
        numbers = (*given, *defaults[len(given) :], 0.0, 0.0)
        if not all(isinstance(n, (int, float)) for n in numbers) or call.kwargs:
            raise NotLowered(f"there is no kernel for {call.operator} with these arguments")
        return lo.pointwise(op, *call.args[:n_values], number=numbers[0], other=numbers[1])

    return apply


for _operators, _rule in (
    ((_aten.abs.default,), _function(Op.absolute)),
    ((_aten.sgn.default, _aten.sign.default), _function(Op.sign)),
    ((_aten.sqrt.default,), _function(Op.square_root)),
    ((_aten.exp.default,), _function(Op.exponential)),
    ((_aten.log.default,), _function(Op.logarithm)),
    ((_aten.log1p.default,), _function(Op.log1p)),
    ((_aten.expm1.default,), _function(Op.expm1)),
    ((_aten.tanh.default,), _function(Op.tanh)),
    ((_aten.maximum.default,), _function(Op.maximum, 2)),
    ((_aten.minimum.default,), _function(Op.minimum, 2)),
    ((_aten.tanh_backward.default,), _function(Op.tanh_backward, 2)),
    ((_aten.softplus.default,), _function(Op.softplus, 1, (1.0, 20.0))),
    ((_aten.softplus_backward.default,), _function(Op.softplus_backward, 2)),
    ((_aten.hardtanh.default,), _function(Op.clamp, 1, (-1.0, 1.0))),
    ((_aten.hardtanh_backward.default,), _function(Op.hardtanh_backward, 2)),
    ((_aten.where.self,), _function(Op.where, 3)),
    ((_aten.logical_and.default, _aten.bitwise_and.Tensor), _function(Op.multiply, 2)),
):
    rule(*_operators)(_rule)


@rule(_aten.square.default)
def _square(lo: Lowering, call: Call) -> Node:
    return lo.pointwise(Op.multiply, call.args[0], call.args[0])


@rule(_aten.reciprocal.default)
def _reciprocal(lo: Lowering, call: Call) -> Node:
    return lo.pointwise(Op.number_divide, call.args[0], number=1.0)


@rule(_aten.rsqrt.default)
def _rsqrt(lo: Lowering, call: Call) -> Node:
    return lo.pointwise(Op.number_divide, lo.pointwise(Op.square_root, call.args[0]), number=1.0)


@rule(_aten.rsub.Scalar, _aten.rsub.Tensor)
def _rsub(lo: Lowering, call: Call) -> Node:
    a, b = call.args[:2]
    alpha = call.args[2] if len(call.args) > 2 else call.kwargs.get("alpha", 1)
    if isinstance(b, Ref):
        return lo.pointwise(Op.add, b, a, number=-alpha)
    return lo.pointwise(Op.add_number, lo.pointwise(Op.multiply_number, a, number=-alpha), number=b)


@rule(_aten.pow.Tensor_Scalar)
def _power(lo: Lowering, call: Call) -> Node:
    x, n = call.args
    if n < 0:
        return lo.pointwise(Op.number_divide, _to_power(lo, x, -n), number=1.0)
    return _to_power(lo, x, n)


def _to_power(lo: Lowering, x: Any, n: float) -> Node:
    if n == 0.5:
        return lo.pointwise(Op.square_root, x)
    if n == 1:
        return lo.pointwise(Op.move, x)
    if n == 2:
        return lo.pointwise(Op.multiply, x, x)
    if n != int(n) or n > 64:
        raise NotLowered(f"there is no kernel for a power of {n}")
    return lo.pointwise(Op.power, x, number=n)


@rule(_aten.clamp.default, _aten.clamp_min.default, _aten.clamp_max.default)
def _clamp(lo: Lowering, call: Call) -> Node:
    limits = (*call.args[1:], None, None)[:2]
    lo_, hi = {"clamp_min": (limits[0], None), "clamp_max": (None, limits[0])}.get(call.name, limits)
    low, high = call.kwargs.get("min", lo_), call.kwargs.get("max", hi)
    numbers = [-math.inf if low is None else low, math.inf if high is None else high]
    return lo.pointwise(Op.clamp, call.args[0], number=numbers[0], other=numbers[1])


@rule(_aten.gelu.default, _aten.gelu_backward.default)
def _gelu(lo: Lowering, call: Call) -> Node:
    is_tanh = call.kwargs.get("approximate", "none") == "tanh"
    if call.name == "gelu":
        return lo.pointwise(Op.gelu_tanh if is_tanh else Op.gelu, call.args[0])
    return lo.pointwise(Op.gelu_tanh_backward if is_tanh else Op.gelu_backward, *call.args[:2])


@rule(_aten.elu.default)
def _elu(lo: Lowering, call: Call) -> Node:
    alpha, scale, input_scale = with_defaults(call.args[1:], (1, 1, 1))
    if input_scale != 1 or alpha <= 0:
        raise NotLowered("there is no kernel for an ELU of a scaled argument")
    return _scaled(lo, lo.pointwise(Op.elu, call.args[0], number=alpha), scale)


@rule(_aten.elu_backward.default)
def _elu_backward(lo: Lowering, call: Call) -> Node:
    gradient, alpha, scale, input_scale, is_result, x = call.args
    if input_scale != 1 or is_result or alpha <= 0:
        raise NotLowered("there is no kernel for the gradient of an ELU in place")
    return _scaled(lo, lo.pointwise(Op.elu_backward, gradient, x, number=alpha), scale)


def _scaled(lo: Lowering, node: Node, scale: float) -> Node:
    return node if scale == 1 else lo.pointwise(Op.multiply_number, node, number=scale)


@rule(_aten.mish.default)
def _mish(lo: Lowering, call: Call) -> Node:
    return lo.pointwise(Op.multiply, call.args[0], _mish_gate(lo, call.args[0]))


@rule(_aten.mish_backward.default)
def _mish_backward(lo: Lowering, call: Call) -> Node:
    """g (t + x σ(x) (1 - t²)) for t = tanh(softplus(x))."""
    gradient, x = call.args
    gate, slope = _mish_gate(lo, x), lo.pointwise(Op.multiply, x, lo.pointwise(Op.sigmoid, x))
    curved = lo.pointwise(Op.tanh_backward, slope, gate)
    return lo.pointwise(Op.multiply, gradient, lo.pointwise(Op.add, gate, curved, number=1.0))


def _mish_gate(lo: Lowering, x: Any) -> Node:
    return lo.pointwise(Op.tanh, lo.pointwise(Op.softplus, x, number=1.0, other=20.0))


def _comparison(op: Op, swaps: bool, negates: bool = False) -> Callable[[Lowering, Call], Node]:
    def apply(lo: Lowering, call: Call) -> Node:
        a, b = call.args
        if not isinstance(b, Ref):
            like = lo.node(a)
            b = lo.number(b, like.shape, like.batch)
        return lo.pointwise(op, *((b, a) if swaps else (a, b)))

    return apply


for _name, _op, _swaps in (
    ("gt", Op.greater, False),
    ("ge", Op.greater_equal, False),
    ("lt", Op.greater, True),
    ("le", Op.greater_equal, True),
    ("eq", Op.equal, False),
    ("ne", Op.not_equal, False),
):
    _packet = getattr(_aten, _name)
    rule(_packet.Scalar, _packet.Tensor)(_comparison(_op, _swaps))


@rule(_aten.add.Scalar, _aten.sub.Scalar)
def _add_number(lo: Lowering, call: Call) -> Node:
    x, number, alpha = with_defaults(call.args, (None, None, 1))
    return lo.pointwise(Op.add_number, x, number=number * alpha * (-1 if call.name == "sub" else 1))


@rule(_aten.logical_not.default, _aten.bitwise_not.default)
def _not(lo: Lowering, call: Call) -> Node:
    return lo.pointwise(Op.add_number, lo.pointwise(Op.multiply_number, call.args[0], number=-1.0), number=1.0)


@rule(_aten.full_like.default, _aten.zeros_like.default, _aten.ones_like.default)
def _full(lo: Lowering, call: Call) -> Node:
    like = lo.node(call.args[0])
    value = {"zeros_like": 0.0, "ones_like": 1.0}.get(call.name)
    return lo.number(call.args[1] if value is None else value, like.shape, like.batch)


@rule(_aten.masked_fill.Scalar)
def _masked_fill(lo: Lowering, call: Call) -> Node:
    node, mask, value = lo.node(call.args[0]), *call.args[1:]
    return lo.pointwise(Op.where, mask, lo.number(value, node.shape, node.batch), node)
