"""The instructions of native programs, and their code as integers: the structs of csrc/cpu/program.h."""

from __future__ import annotations

import functools
import itertools
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .values import Base, Shape, View, dense_strides

MOST_DIMS, MOST_VALUES, MOST_WINDOW = 8, 64, 1024
PANEL = 16  # `panel` of csrc/cpu/products.h
# Of csrc/cpu/program_winograd_impl.h: tiles that are computed together, and channels whose inputs lie together.
_WINOGRAD_ROWS, _WINOGRAD_CHANNELS = 14, 128
_VECTOR = 16  # numbers of the widest vector, and of a cache line
_CHUNK, _MOST_CHUNK = 512, 8192  # elements of a pointwise program that are worked on at a time
_POINTWISE, _PRODUCT, _MULTIPLY, _WINDOW, _REDUCE, _LANE_PRODUCT = range(6)

Locate = Callable[[Base], tuple[int, int]]  # the space and the offset of a buffer or a constant


class Axis(NamedTuple):
    """`Axis` of csrc/cpu/products.h."""

    n: int
    first: int
    step: int
    window: int
    extent: int
    out_first: int = 0
    out_step: int = 1
    dilation: int = 1


ONE = Axis(1, 0, 1, 1, 1)


def patches(axis: Axis) -> list[int]:
    """How many outputs in turn have windows that are clipped alike."""

    def clip(i: int) -> tuple[int, int]:
        start = axis.first + i * axis.step
        inside = [t for t in range(axis.window) if 0 <= start + t * axis.dilation < axis.extent]
        return (inside[0], len(inside)) if inside else (0, 0)

    return [len(list(group)) for _, group in itertools.groupby(range(axis.n), clip)]


def winograd_tiles(axis: Axis) -> int:
    """Pairs of outputs a dilation apart, with those that lack the second."""
    pairs, rest = divmod(axis.n, 2 * axis.dilation)
    return pairs * axis.dilation + min(rest, axis.dilation)


@dataclass(frozen=True)
class Step:
    op: int
    operands: tuple[int, ...]
    to: int
    number: float
    other: float


@dataclass(frozen=True)
class Pointwise:
    """Steps for each element of a shape, whose operands and outputs are views of it."""

    shape: Shape
    operands: tuple[View, ...]
    outputs: tuple[View, ...]
    n_slots: int
    steps: tuple[Step, ...]

    @property
    def reads(self) -> list[Base]:
        return [v.base for v in self.operands]

    def overwritable(self) -> dict[Base, list[Base]]:
        """For each output that is a whole buffer, the operands that it may overwrite: of the same elements in the same
        order, and not read by later steps.
        """
        n, found = len(self.operands), dict[Base, list[Base]]()
        for place, view in enumerate(self.outputs, n):
            last = max(i for i, s in enumerate(self.steps) if s.to == place)
            later = {o for s in self.steps[last + 1 :] for o in s.operands}
            found[view.base] = [
                v.base
                for i, v in enumerate(self.operands)
                if i not in later
                and view.is_whole
                and v.is_whole
                and v.strides == view.strides
                and sum(o.base is v.base for o in self.operands) == 1
            ]
        return found

    @property
    def writes(self) -> list[Base]:
        return [v.base for v in self.outputs]

    @property
    def operations(self) -> int:
        return math.prod(self.shape) * len(self.steps)

    def code(self, locate: Locate) -> list[int]:
        dense, n = dense_strides(self.shape), math.prod(self.shape)
        chunk = self._chunk
        body = [n, chunk, _whole_vectors(chunk), len(self.operands), len(self.outputs), self.n_slots, len(self.steps)]
        for views, are_outputs in ((self.operands, False), (self.outputs, True)):
            for view in views:
                is_dense = all(a == b for a, b, n in zip(view.strides, dense, self.shape, strict=True) if n > 1)
                body.append(int(is_dense and (view.is_whole or not are_outputs)))
                repeats = not are_outputs and (chunk == n or chunk % _period(view) == 0)
                body += [int(repeats), *_strided(view, locate)]
        for step in self.steps:
            a, b, c = (*step.operands, 0, 0, 0)[:3]
            body += [step.op, a, b, c, step.to, _bits(step.number), _bits(step.other)]
        return [_POINTWISE, len(body), *body]

    @property
    def extra(self) -> int:
        """Numbers of scratch memory for the chunks of values."""
        return (len(self.operands) + len(self.outputs) + self.n_slots) * _whole_vectors(self._chunk)

    @functools.cached_property
    def _chunk(self) -> int:
        """Elements that are worked on at a time: all, or a multiple of the longest period that fits, in the L1 cache.

        There are more where a transposed view has long rows, so that a cache line that is read serves all its numbers.
        """
        wanted = max((_VECTOR * _transposed(v) for v in (*self.operands, *self.outputs)), default=0)
        n, most = math.prod(self.shape), max(_CHUNK, min(wanted, _MOST_CHUNK))
        if n <= most:
            return n
        units = (math.lcm(_period(v), _VECTOR) for v in self.operands)
        unit = max((u for u in units if u <= most), default=_VECTOR)
        return most // unit * unit


@dataclass(frozen=True)
class Product:
    """Sums over windows of pixels times weights, for images (height, width, channels) whose channels lie together.

    Attributes:
        tile: output channels whose weights lie together, at most.
        winograd_width: by csrc/cpu/program_winograd_impl.h, as many output channels in a group; 0: direct arithmetic.
    """

    image: View
    result: View
    weights: Base
    start: Base
    y: Axis
    x: Axis
    tile: int
    winograd_width: int = 0

    @property
    def reads(self) -> list[Base]:
        return [self.image.base, self.weights, self.start]

    @property
    def writes(self) -> list[Base]:
        return [self.result.base]

    @property
    def extra(self) -> int:
        """Numbers of scratch memory: of Winograd's filtering zeros, transformed inputs, their sums, and what outputs
        share.
        """
        if not self.winograd_width:
            return 0
        n_in, n_out = self.image.shape[2], min(self.result.shape[2], self.winograd_width)
        inputs = math.ceil(n_in / _WINOGRAD_CHANNELS) * (_WINOGRAD_CHANNELS + PANEL)
        numbers = (self.y.window + 1) * (inputs + 64) + 4 * math.ceil(n_out / 64) * 64
        return math.ceil(n_in / PANEL) * PANEL + _WINOGRAD_ROWS * numbers

    @property
    def multiply_adds(self) -> int:
        """Of direct arithmetic, with those of padding that the kernels skip."""
        taps = self.y.n * self.y.window * self.x.n * self.x.window
        return taps * self.image.shape[2] * self.result.shape[2]

    def code(self, locate: Locate) -> list[int]:
        (in_y, in_x, _), (out_y, out_x, _) = self.image.strides, self.result.strides
        body = [*_place(self.image, locate), *_place(self.result, locate)]
        body += [locate(self.weights)[1], locate(self.start)[1], self.tile, *self.y, *self.x]
        body += [in_y, in_x, self.image.shape[2], out_y, out_x, self.result.shape[2], self.winograd_width]
        return [_PRODUCT, len(body), *body]


@dataclass(frozen=True)
class LaneProduct:
    """Products of weights with the channels of each pixel of images (height, width, channels, samples), whose samples
    lie together and whose channels follow each other.

    Attributes:
        tile: output channels whose weights lie together, at most.
    """

    image: View
    result: View
    weights: Base
    start: Base
    tile: int

    @property
    def reads(self) -> list[Base]:
        return [self.image.base, self.weights, self.start]

    @property
    def writes(self) -> list[Base]:
        return [self.result.base]

    @property
    def multiply_adds(self) -> int:
        """Of a sample."""
        return math.prod(self.image.shape[:3]) * self.result.shape[2]

    def code(self, locate: Locate) -> list[int]:
        n_y, n_x, n_in, _ = self.image.shape
        body = [*_place(self.image, locate), *_place(self.result, locate)]
        body += [locate(self.weights)[1], locate(self.start)[1], self.tile, n_y, n_x]
        body += [*self.image.strides[:2], n_in, *self.result.strides[:2], self.result.shape[2]]
        return [_LANE_PRODUCT, len(body), *body]


@dataclass(frozen=True)
class Multiply:
    """Products of the matrices (n, rows, inner) and (n, inner, columns) of a sample."""

    a: View
    b: View
    result: View

    @property
    def reads(self) -> list[Base]:
        return [self.a.base, self.b.base]

    @property
    def writes(self) -> list[Base]:
        return [self.result.base]

    @property
    def multiply_adds(self) -> int:
        return math.prod(self.a.shape) * self.b.shape[2]

    @property
    def extra(self) -> int:
        """Numbers of scratch memory for the weights of a tile."""
        return self.a.shape[2] * 64

    def code(self, locate: Locate) -> list[int]:
        n, rows, inner = self.a.shape
        body = [*_place(self.a, locate), *_place(self.b, locate), *_place(self.result, locate)]
        body += [n, rows, inner, self.b.shape[2], *self.a.strides[:2], *self.b.strides, *self.result.strides[:2]]
        return [_MULTIPLY, len(body), *body]


@dataclass(frozen=True)
class WindowSum:
    """Scaled sums over windows of pixels, for images (height, width, channels) whose channels lie together."""

    image: View
    result: View
    y: Axis
    x: Axis
    scale: float

    @property
    def reads(self) -> list[Base]:
        return [self.image.base]

    @property
    def writes(self) -> list[Base]:
        return [self.result.base]

    @property
    def operations(self) -> int:
        return math.prod(self.image.shape)

    def code(self, locate: Locate) -> list[int]:
        body = [*_place(self.image, locate), *_place(self.result, locate), *self.y, *self.x]
        body += [*self.image.strides[:2], *self.result.strides[:2], self.image.shape[2], _bits(self.scale)]
        return [_WINDOW, len(body), *body]


@dataclass(frozen=True)
class Reduce:
    """Scaled sums, or maxima, over the last dimensions of `source`, of which `result` has the others."""

    source: View
    result: View
    is_max: bool
    scale: float

    @property
    def reads(self) -> list[Base]:
        return [self.source.base]

    @property
    def writes(self) -> list[Base]:
        return [self.result.base]

    @property
    def operations(self) -> int:
        return math.prod(self.source.shape)

    def code(self, locate: Locate) -> list[int]:
        n_kept = len(self.result.shape)
        body = [int(self.is_max), _bits(self.scale), n_kept]
        body += [*_strided(self.source, locate, False), *_strided(self.result, locate, False)]
        return [_REDUCE, len(body), *body]


Instruction = Pointwise | Product | LaneProduct | Multiply | WindowSum | Reduce


def _period(view: View) -> int:
    """Elements in row-major order after which the numbers are the same again."""
    strides = (s if n > 1 else 0 for n, s in zip(view.shape, view.strides, strict=True))
    outer = next((d for d, s in enumerate(strides) if s), len(view.shape))
    return math.prod(view.shape[outer:])


def _transposed(view: View) -> int:
    """The length of rows whose numbers lie in as many cache lines, beside those of the next row; 0: there are none."""
    sizes, strides = collapsed(view).shape, collapsed(view).strides
    return sizes[-1] if strides[-1] >= _VECTOR and 1 in strides else 0


def _whole_vectors(n: int) -> int:
    return -(-n // _VECTOR) * _VECTOR


def collapsed(view: View) -> View:
    """With dimensions that lie as one put together, at least one."""
    dims: list[tuple[int, int]] = []
    for n, s in zip(view.shape, view.strides, strict=True):
        if n == 1:
            continue
        if dims and dims[-1][1] == n * s:
            dims[-1] = (dims[-1][0] * n, s)
        else:
            dims.append((n, s))
    sizes, strides = zip(*(dims or [(1, 0)]), strict=True)
    return View(view.base, sizes, strides, view.offset)


def _strided(view: View, locate: Locate, collapses: bool = True) -> list[int]:
    view = collapsed(view) if collapses else view
    rest = [0] * (MOST_DIMS - len(view.shape))
    return [*_place(view, locate), len(view.shape), *view.shape, *rest, *view.strides, *rest]


def _place(view: View, locate: Locate) -> list[int]:
    space, offset = locate(view.base)
    return [space, offset + view.offset]


def _bits(number: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", number))[0])
