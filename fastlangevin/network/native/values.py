"""Where the numbers of a sample are, and what they mean."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from .operations import Op

Shape = tuple[int, ...]


class NotLowered(Exception):
    """A graph cannot be written as a native program; the message gives the reason."""


@dataclass(frozen=True, eq=False)
class Buffer:
    """Numbers of a sample in scratch memory.

    Attributes:
        size: how many.
    """

    size: int


@dataclass(frozen=True)
class Packing:
    """How kernels read the weights of a product: csrc/cpu/program_pack.cpp.

    Attributes:
        ys, xs: places of a convolution's kernel, in the order of the product's window; None: the weight is a matrix of
            input and output channels.
        group, groups: of the weight's first dimension.
        gathers: whether the weight's first dimension is of the product's input channels.
        tile: output channels that are computed together, at most.
        winograd_width: of the product.
    """

    ys: range | None
    xs: range | None
    group: int
    groups: int
    gathers: bool
    tile: int
    winograd_width: int

    def taps(self, weight: Tensor) -> tuple[Tensor, bool, bool]:
        """The weights (window y, window x, channels of the input, of the output) as a view, and whether their y and
        their x are in the opposite order. weight: (O, I, kh, kw), (O, I, k), or a matrix.
        """
        if self.ys is None or self.xs is None:
            return weight[None, None], False, False
        weight = weight if weight.dim() == 4 else weight.unsqueeze(2)
        weight = weight.chunk(self.groups)[self.group] if self.groups > 1 else weight
        ys, xs = (taps[::-1] if taps.step < 0 else taps for taps in (self.ys, self.xs))
        weight = weight[:, :, ys.start : ys.stop : ys.step, xs.start : xs.stop : xs.step]
        order = (2, 3, 0, 1) if self.gathers else (2, 3, 1, 0)
        return weight.permute(order), self.ys.step < 0, self.xs.step < 0


@dataclass(frozen=True, eq=False)
class Constant:
    """Numbers that are the same at every step: `make` of fixed values of the graph, as float32 in row-major order, or
    the weights of a product.

    Attributes:
        values: by index.
        is_per_sample: whether each sample has numbers of its own.
        size: how many, of one sample if so.
    """

    values: tuple[int, ...]
    make: Callable[..., Tensor] | Packing
    is_per_sample: bool
    size: int


Base = Buffer | Constant


@dataclass(frozen=True)
class View:
    """Numbers of a buffer or a constant as a tensor of a sample."""

    base: Base
    shape: Shape
    strides: Shape
    offset: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it is all of a buffer, each number once."""
        return self.offset == 0 and math.prod(self.shape) == self.base.size and self.order is not None

    @property
    def order(self) -> tuple[int, ...] | None:
        """The dimensions from the outermost inwards, if the numbers lie together in that order."""
        dims = sorted(range(len(self.shape)), key=lambda d: (-self.strides[d] if self.shape[d] > 1 else 0, d))
        real = [d for d in dims if self.shape[d] > 1]
        size = 1
        for d in reversed(real):
            if self.strides[d] != size:
                return None
            size *= self.shape[d]
        return tuple(d for d in range(len(self.shape)) if self.shape[d] == 1) + tuple(real)

    def permuted(self, dims: Sequence[int]) -> View:
        return replace(self, shape=tuple(self.shape[d] for d in dims), strides=tuple(self.strides[d] for d in dims))

    def sliced(self, dim: int, start: int, size: int, step: int = 1) -> View:
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + start * strides[dim]
        shape[dim], strides[dim] = size, strides[dim] * step
        return View(self.base, tuple(shape), tuple(strides), offset)

    def flipped(self, dims: Sequence[int]) -> View:
        view = self
        for d in dims:
            view = view.sliced(d, view.shape[d] - 1, view.shape[d], -1)
        return view

    def expanded(self, shape: Sequence[int]) -> View:
        """Repeated along dimensions of size 1, and along new ones in front."""
        new = len(shape) - len(self.shape)
        old, strides = (1,) * new + self.shape, (0,) * new + self.strides
        strides = tuple(s if n == m else 0 for s, n, m in zip(strides, old, shape, strict=True))
        return replace(self, shape=tuple(shape), strides=strides)

    def reshaped(self, shape: Shape) -> View | None:
        """The same numbers in row-major order of another shape; None if they do not lie so."""
        strides: list[int] = []
        source = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        wanted = list(shape)
        while wanted:
            size = wanted[0]
            if size == 1:
                strides.append(0)
                wanted.pop(0)
                continue
            # The fewest dimensions on both sides that hold equally many numbers.
            n_old, old, new = source[0][0], 1, 1
            while n_old != size:
                if n_old < size:
                    if old == len(source):
                        return None
                    n_old *= source[old][0]
                    old += 1
                else:
                    size *= wanted[new]
                    new += 1
            for (_, outer), (n, inner) in itertools.pairwise(source[:old]):
                if outer != n * inner:
                    return None
            stride = source[old - 1][1]
            part = []
            for n in reversed(wanted[:new]):
                part.append(stride)
                stride *= n
            strides += reversed(part)
            source, wanted = source[old:], wanted[new:]
        return replace(self, shape=shape, strides=tuple(strides))


def dense_strides(shape: Sequence[int], order: Sequence[int] | None = None) -> Shape:
    """Of numbers that lie together, the dimensions from the outermost inwards in an order; None: row-major."""
    strides, size = [0] * len(shape), 1
    for d in reversed(range(len(shape)) if order is None else order):
        strides[d] = size
        size *= shape[d]
    return tuple(strides)


def channels_last(rank: int) -> tuple[int, ...]:
    """The order of images (B, C, …) whose channels lie together."""
    return (0, *range(2, rank), 1)


@dataclass(eq=False)
class Node:
    """A tensor of a sample: stored numbers, or what is to be computed of other nodes element by element.

    Attributes:
        shape: of a sample, with as many dimensions as the tensor of all samples.
        batch: the dimension that counts the samples, which has the size 1 or, if it counts more than samples, more.
        view: of stored numbers.
        op, operands, number, other: an operation, its operands broadcast to the shape, and its numbers.
        values: the values of the graph that it is.
        users: the nodes that have it as an operand.
        is_absorbed: whether it was computed inside an instruction and not stored.
    """

    shape: Shape
    batch: int
    view: View | None = None
    op: Op = Op.move
    operands: tuple[Node, ...] = ()
    number: float = 0.0
    other: float = 0.0
    values: list[int] = field(default_factory=list)
    users: list[Node] = field(default_factory=list)
    is_absorbed: bool = False

    @property
    def is_number(self) -> bool:
        return self.view is None and self.op is Op.constant

    @property
    def batch_from_right(self) -> int:
        return len(self.shape) - self.batch
