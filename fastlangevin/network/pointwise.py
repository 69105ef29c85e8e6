"""Pointwise operators of images as the instructions of a small machine, whose programs kernels run in registers."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from .graph import Call, Ref
from .products import Product

_aten = torch.ops.aten


class Op(enum.IntEnum):
    """What an instruction computes of two values a and b and a number n; kernels/triton/pointwise.py reads the numbers.

    `LOAD` reads operand a, laid out as b says (`Extent`).
    """

    LOAD = 0
    ADD = 1  # a + n·b
    MUL = 2  # a·b
    DIV = 3  # a / b
    ADD_NUMBER = 4  # a + n
    MUL_NUMBER = 5  # a·n
    DIV_NUMBER = 6  # a / n
    RELU = 7
    LEAKY_RELU = 8  # slope n
    SIGMOID = 9
    SILU = 10
    # Gradients a with respect to results: of ReLU at its result b, n the threshold; of LeakyReLU at its argument or
    # result b; of the sigmoid at its result; of SiLU at its argument.
    THRESHOLD_BACKWARD = 11
    LEAKY_RELU_BACKWARD = 12
    SIGMOID_BACKWARD = 13
    SILU_BACKWARD = 14


class Extent(enum.IntFlag):
    """The dimensions in which an operand varies; over the others it is broadcast."""

    CHAIN = 1
    PIXEL = 2
    CHANNEL = 4
    ALL = 7
    QUARTER = 8  # of half the height and width: each element belongs to four, to each a quarter of it


class Instruction(NamedTuple):
    op: Op
    a: int
    b: int = 0
    number: float = 0.0


@dataclass(frozen=True)
class Section:
    """Instructions for the elements of a shape. Value 0 is what the kernel brings, value k the result of instruction
    k - 1.

    Attributes:
        shape: (B, C, H, W).
        stores: pairs of a value and the output that it is written to.
    """

    shape: tuple[int, int, int, int]
    instructions: tuple[Instruction, ...]
    stores: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pointwise:
    """The operator of a call that stands for several. Its arguments are the operands; it returns the outputs.

    Attributes:
        before: a section at twice the height and width, of whose value `pooled` the main one is brought the mean over
            2×2 pixels; None for nothing.
        product: what the first section is brought; its two factors are then the first arguments. None for nothing.
        dtypes: of the outputs.
        dtype: that is computed in, float32 or float64.
        n_calls: how many calls it stands for.
    """

    main: Section
    before: Section | None
    pooled: int
    product: Product | None
    dtypes: tuple[torch.dtype, ...]
    dtype: torch.dtype
    n_calls: int

    __name__ = "pointwise"

    @property
    def sections(self) -> tuple[Section, ...]:
        return (self.main,) if self.before is None else (self.before, self.main)


class Meaning(NamedTuple):
    """What a pointwise call computes: `op` of values, at most two, and a number; None for a change of dtype alone."""

    op: Op | None
    values: tuple[int, ...]
    number: float = 0.0


def meaning(call: Call) -> Meaning | None:
    """Of a call that is pointwise, None for any other."""
    read = _READERS.get(call.operator)
    found = None if read is None else read(call)
    return found if found is not None and math.isfinite(found.number) else None


def pooled(call: Call) -> int | None:
    """The value of which a call takes the mean over 2×2 pixels, if its result is half as high and wide: then there is
    no padding, and nothing is left out. None for any other call.
    """
    if call.operator is not _aten.avg_pool2d.default:
        return None
    image, size, *rest = call.args
    return image.index if set(size) == {2} and rest[4:] in ([], [None]) else None


def spread(call: Call) -> int | None:
    """The value that is the gradient at the result of such a mean, of a call that returns that at its argument."""
    if call.operator is not _aten.avg_pool2d_backward.default:
        return None
    gradient, _, size, *_, divisor = call.args
    return gradient.index if set(size) == {2} and divisor is None else None


def _sum(sign: float) -> Callable[[Call], Meaning | None]:
    def read(call: Call) -> Meaning | None:
        a, b = call.args[:2]
        factor = sign * call.kwargs.get("alpha", 1)
        if isinstance(a, Ref) and isinstance(b, Ref):
            return Meaning(Op.ADD, (a.index, b.index), factor)
        return Meaning(Op.ADD_NUMBER, (a.index,), factor * b) if isinstance(a, Ref) and _is_number(b) else None

    return read


def _product(both: Op, with_number: Op) -> Callable[[Call], Meaning | None]:
    def read(call: Call) -> Meaning | None:
        a, b = call.args[:2]
        if isinstance(a, Ref) and isinstance(b, Ref):
            return Meaning(both, (a.index, b.index))
        return Meaning(with_number, (a.index,), float(b)) if isinstance(a, Ref) and _is_number(b) else None

    return read


def _function(op: Op, values: int = 1, default: float = 0.0) -> Callable[[Call], Meaning | None]:
    """Of `values` tensors, and then perhaps a number."""

    def read(call: Call) -> Meaning | None:
        numbers = [float(a) for a in call.args[values : values + 1] if not isinstance(a, bool)]
        return Meaning(op, tuple(a.index for a in call.args[:values]), numbers[0] if numbers else default)

    return read


def _cast(call: Call) -> Meaning | None:
    others = {k: v for k, v in call.kwargs.items() if k not in ("dtype", "layout", "device") and v}
    return None if others else Meaning(None, (call.args[0].index,))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


_READERS: dict[Any, Callable[[Call], Meaning | None]] = {
    _aten.add.Tensor: _sum(1.0),
    _aten.sub.Tensor: _sum(-1.0),
    _aten.mul.Tensor: _product(Op.MUL, Op.MUL_NUMBER),
    _aten.mul.Scalar: _product(Op.MUL, Op.MUL_NUMBER),
    _aten.div.Tensor: _product(Op.DIV, Op.DIV_NUMBER),
    _aten.div.Scalar: _product(Op.DIV, Op.DIV_NUMBER),
    _aten.neg.default: lambda call: Meaning(Op.MUL_NUMBER, (call.args[0].index,), -1.0),
    _aten.relu.default: _function(Op.RELU),
    _aten.leaky_relu.default: _function(Op.LEAKY_RELU, default=0.01),
    _aten.sigmoid.default: _function(Op.SIGMOID),
    _aten.silu.default: _function(Op.SILU),
    _aten.threshold_backward.default: _function(Op.THRESHOLD_BACKWARD, 2),
    _aten.leaky_relu_backward.default: _function(Op.LEAKY_RELU_BACKWARD, 2),
    _aten.sigmoid_backward.default: _function(Op.SIGMOID_BACKWARD, 2),
    _aten.silu_backward.default: _function(Op.SILU_BACKWARD, 2),
    _aten._to_copy.default: _cast,
}
