"""Fused calls in plain torch, in the type of their arguments."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from fastlangevin.network.pointwise import Extent, Op, Pointwise, Section
from fastlangevin.network.products import Product

_aten = torch.ops.aten
FUNCTIONS = {
    Op.ADD: lambda a, b, n: torch.add(a, b, alpha=n),
    Op.MUL: lambda a, b, n: a * b,
    Op.DIV: lambda a, b, n: a / b,
    Op.ADD_NUMBER: lambda a, b, n: a + n,
    Op.MUL_NUMBER: lambda a, b, n: a * n,
    Op.DIV_NUMBER: lambda a, b, n: a / n,
    Op.RELU: lambda a, b, n: functional.relu(a),
    Op.LEAKY_RELU: lambda a, b, n: functional.leaky_relu(a, n),
    Op.SIGMOID: lambda a, b, n: torch.sigmoid(a),
    Op.SILU: lambda a, b, n: functional.silu(a),
    Op.THRESHOLD_BACKWARD: lambda a, b, n: _aten.threshold_backward(a, b, n),
    Op.LEAKY_RELU_BACKWARD: lambda a, b, n: _aten.leaky_relu_backward(a, b, n, False),
    Op.SIGMOID_BACKWARD: lambda a, b, n: _aten.sigmoid_backward(a, b),
    Op.SILU_BACKWARD: lambda a, b, n: _aten.silu_backward(a, b),
}
assert set(FUNCTIONS) == set(Op) - {Op.LOAD}


def multiplied(product: Product, image: Tensor, weight: Tensor) -> Tensor:
    stride, padding = [product.stride] * 2, [product.padding] * 2
    if not product.is_gradient:
        return functional.conv2d(image, weight, None, stride, padding)
    like = image.new_empty(product.result)
    rest = (None, stride, padding, [1, 1], False, [0, 0], 1, [True, False, False])
    return _aten.convolution_backward(image, like, weight, *rest)[0]


def evaluated(operator: Pointwise, *args: Tensor) -> Tensor | tuple[Tensor, ...]:
    """What the call returns, not rounded to the types of its outputs."""
    operands, brought = args, None
    if operator.product is not None:
        brought, operands = multiplied(operator.product, *args[:2]), args[2:]
    outputs: dict[int, Tensor] = {}
    if operator.before is not None:
        values = _section(operator.before, brought, operands, outputs)
        brought = functional.avg_pool2d(values[operator.pooled], 2)
    _section(operator.main, brought, operands, outputs)
    found = tuple(outputs[k] for k in range(len(operator.dtypes)))
    return found[0] if len(found) == 1 else found


class Launch:
    """In place of the kernels'."""

    def __init__(self, operator: Pointwise) -> None:
        self._operator = operator

    def __call__(self, *args: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = evaluated(self._operator, *args)
        if isinstance(found, Tensor):
            return found.to(self._operator.dtypes[0])
        return tuple(a.to(dtype) for a, dtype in zip(found, self._operator.dtypes, strict=True))


def _section(section: Section, brought: Tensor | None, operands: tuple[Tensor, ...], outputs: dict[int, Tensor]):
    values: list[Tensor | None] = [brought]
    for op, a, b, number in section.instructions:
        if op == Op.LOAD:
            assert operands[a].numel() == _n_elements(section.shape, Extent(b))
            values.append(_spread(operands[a]) if b == Extent.QUARTER else operands[a])
        else:
            values.append(FUNCTIONS[op](values[a], values[b], number))
    for value, output in section.stores:
        outputs[output] = values[value].expand(section.shape).clone()
    return values


def _n_elements(shape: tuple[int, ...], extent: Extent) -> int:
    """That kernels find in an operand."""
    b, c, h, w = shape
    if extent == Extent.QUARTER:
        return b * c * h * w // 4
    sizes = {Extent.CHAIN: b, Extent.CHANNEL: c, Extent.PIXEL: h * w}
    return math.prod(n for flag, n in sizes.items() if flag in extent)


def _spread(image: Tensor) -> Tensor:
    return image.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
