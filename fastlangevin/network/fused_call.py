"""Calls that may be computed together, and the program that computes them."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import torch

from .graph import Call, Graph, Ref
from .pointwise import Extent, Instruction, Meaning, Op, Pointwise, Section, meaning, pooled
from .products import Product, product

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_MOST_CALLS, _MOST_OPERANDS, _MOST_OUTPUTS = 24, 8, 8  # values are in registers
_Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Member:
    """A call that may be computed with others.

    Attributes:
        meaning: of a pointwise call.
        pooled: the value of which the call takes the mean over 2×2 pixels.
        product: the convolution, or input gradient of one, that the call is.
        factors: the image and the weight of a product.
        values: that it reads element by element.
    """

    call: Call
    result: int
    meaning: Meaning | None = None
    pooled: int | None = None
    product: Product | None = None
    factors: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        return "pointwise" if self.meaning is not None else "pool" if self.pooled is not None else "product"

    @property
    def values(self) -> tuple[int, ...]:
        if self.meaning is not None:
            return self.meaning.values
        return () if self.pooled is None else (self.pooled,)


def member(
    graph: Graph, call: Call, spread: Container[int], is_product: Callable[[Product, torch.dtype], bool]
) -> Member | None:
    """What a call is among fused ones, None for one that is computed alone.

    Args:
        spread: values that are the gradient at the argument of a mean over 2×2 pixels.
        is_product: whether a kernel computes a product, of tensors of a type, together with what follows.
    """
    result = call.results[0] if call.results else None
    if result is None or not is_image(graph, result):
        return None
    if (found := product(graph, call)) is not None:
        dtypes = {graph.values[v].dtype for v in (*found.factors, result)}
        if len(dtypes) == 1 and is_product(found.product, dtypes.pop()):
            return Member(call, result, product=found.product, factors=found.factors)
        return None
    if not call.is_single:
        return None
    if result in spread:
        return Member(call, result, Meaning(None, (result,)))
    if (value := pooled(call)) is not None:
        large, small = graph.values[value].shape, graph.values[result].shape
        is_whole = large[2:] == (2 * small[2], 2 * small[3]) and is_image(graph, value)
        return Member(call, result, pooled=value) if is_whole else None
    found_meaning = meaning(call)
    if found_meaning is None or not all(_is_operand(graph, v, result) for v in found_meaning.values):
        return None
    return Member(call, result, found_meaning)


def extent(shape: Sequence[int], whole: _Shape) -> Extent | None:
    """The dimensions of an image's shape (B, C, H, W) in which an operand of a broadcast shape varies; None for one
    that varies along rows or columns alone.
    """
    if len(shape) > 4:
        return None
    b, c, h, w = (*(1,) * (4 - len(shape)), *shape)
    if any(n not in (1, full) for n, full in zip((b, c, h, w), whole, strict=True)):
        return None
    pixels = {n == full for n, full in zip((h, w), whole[2:], strict=True) if full > 1}
    if len(pixels) > 1:
        return None
    found = (Extent.CHAIN, b == whole[0]), (Extent.PIXEL, pixels != {False}), (Extent.CHANNEL, c == whole[1])
    return Extent(sum(flag for flag, is_there in found if is_there))


def is_image(graph: Graph, value: int) -> bool:
    """Whether a value is (B, C, H, W), of a floating-point type that kernels read, on the device of the state."""
    v = graph.values[value]
    return len(v.shape) == 4 and v.dtype in _FLOATS and v.device == graph.values[graph.state].device


def _is_operand(graph: Graph, value: int, result: int) -> bool:
    v, image = graph.values[value], graph.values[result]
    return v.dtype in _FLOATS and v.device == image.device and extent(v.shape, _shape(graph, result)) is not None


def _shape(graph: Graph, value: int) -> _Shape:
    b, c, h, w = graph.values[value].shape
    return b, c, h, w


class Group:
    """Members in the order of their calls.

    Args:
        spread: of each value that is the gradient at the argument of a mean over 2×2 pixels, that at its result.
    """

    def __init__(self, graph: Graph, members: Sequence[Member], spread: Mapping[int, int]) -> None:
        self._graph, self._members, self._spread = graph, members, spread
        self._made = {m.result for m in members}
        self._pool = next((m for m in members if m.pooled is not None), None)
        self._product = next((m for m in members if m.product is not None), None)

    @property
    def n_calls(self) -> int:
        """That are computed together, with the gradients of means over pixels that are read before they are spread."""
        return len(self._made | {v for m in self._members for v in m.values if v in self._spread})

    @property
    def is_worth_it(self) -> bool:
        """Whether it saves a kernel, or a tensor: torch's gradient of a mean reads its argument, for the shape."""
        return self.n_calls > 1 or not self._made.isdisjoint(self._spread)

    def fits(self) -> bool:
        """Whether one kernel can compute them: at one size or, before and after one mean over pixels, at two."""
        operands = {v for m in self._members for v in m.values if v not in self._made or v in self._spread}
        if len(self._members) > _MOST_CALLS or len(operands) > _MOST_OPERANDS:
            return False
        if len({_compute_dtype(self._graph, m.result) for m in self._members}) > 1:
            return False
        if any(sum(m.kind == kind for m in self._members) > 1 for kind in ("pool", "product")):
            return False
        shapes = self._shapes()
        if any(_shape(self._graph, m.result) not in shapes for m in self._members):
            return False
        if self._product is not None and (
            _shape(self._graph, self._product.result) != shapes[0] or self._product.call.reads & self._made
        ):
            return False
        return all(
            _shape(self._graph, v) == _shape(self._graph, m.result)
            for m in self._members
            if m.meaning is not None
            for v in m.meaning.values
            if v in self._made
        )

    def _shapes(self) -> list[_Shape]:
        """Of the sections, in their order."""
        if self._pool is None or self._pool.pooled is None:
            return [_shape(self._graph, self._members[0].result)]
        return [_shape(self._graph, self._pool.pooled), _shape(self._graph, self._pool.result)]

    def call(self, needed: Container[int]) -> Call | None:
        """The call that computes those results that are needed; None if they are too many for one kernel."""
        live: set[int] = set()
        members: list[Member] = []
        for m in reversed(self._members):
            if m.result in needed or m.result in live:
                members.insert(0, m)
                live |= set(m.values)
        outputs = [m.result for m in members if m.result in needed]
        if not outputs or len(outputs) > _MOST_OUTPUTS:
            return None
        group = Group(self._graph, members, self._spread)
        return group._call(outputs)

    def _call(self, outputs: list[int]) -> Call:
        operands: list[int] = []
        brought, written = self._product, []
        before, pooled = None, 0
        for shape in self._shapes():
            section = _Section(self._graph, shape, operands, self._spread, None if brought is None else brought.result)
            for m in self._members:
                if m.meaning is not None and _shape(self._graph, m.result) == shape:
                    section.add(m.result, m.meaning)
            stores = tuple((section.place(v), k) for k, v in enumerate(outputs) if _shape(self._graph, v) == shape)
            if self._pool is not None and self._pool.pooled is not None and shape == self._shapes()[0]:
                pooled = section.place(self._pool.pooled)
                before = section.finished(stores)
                brought = self._pool
            else:
                written.append(section.finished(stores))
        operator = Pointwise(
            main=written[0],
            before=before,
            pooled=pooled,
            product=None if self._product is None else self._product.product,
            dtypes=tuple(self._graph.values[v].dtype for v in outputs),
            dtype=_compute_dtype(self._graph, outputs[0]),
            n_calls=self.n_calls,
        )
        factors = () if self._product is None else self._product.factors
        args = tuple(Ref(v) for v in (*factors, *operands))
        return Call(operator, args, {}, tuple(outputs), is_single=len(outputs) == 1)


class _Section:
    """Writes the instructions of one size."""

    def __init__(
        self, graph: Graph, shape: _Shape, operands: list[int], spread: Mapping[int, int], brought: int | None
    ) -> None:
        self._graph, self._shape, self._operands, self._spread = graph, shape, operands, spread
        self._instructions: list[Instruction] = []
        self._places: dict[int, int] = {} if brought is None else {brought: 0}

    def add(self, result: int, meaning: Meaning) -> None:
        places = [self.place(v) for v in meaning.values]
        if meaning.op is None:
            self._places[result] = places[0]
        else:
            self._append(result, Instruction(meaning.op, places[0], places[-1], meaning.number))

    def place(self, value: int) -> int:
        """Of a value, which is loaded if it has none."""
        if value not in self._places:
            source, varies = value, extent(self._graph.values[value].shape, self._shape)
            if value in self._spread and varies == Extent.ALL:
                source, varies = self._spread[value], Extent.QUARTER
            assert varies is not None
            if source not in self._operands:
                self._operands.append(source)
            self._append(value, Instruction(Op.LOAD, self._operands.index(source), int(varies)))
        return self._places[value]

    def finished(self, stores: tuple[tuple[int, int], ...]) -> Section:
        return Section(self._shape, tuple(self._instructions), stores)

    def _append(self, value: int, instruction: Instruction) -> None:
        self._instructions.append(instruction)
        self._places[value] = len(self._instructions)


def _compute_dtype(graph: Graph, value: int) -> torch.dtype:
    return torch.float64 if graph.values[value].dtype == torch.float64 else torch.float32
