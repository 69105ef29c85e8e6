"""Native programs: instructions whose buffers have places."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph import Call, Graph
from . import (  # noqa: F401  (they register rules)
    rules_labels,
    rules_norms,
    rules_pointwise,
    rules_products,
    rules_reductions,
    rules_views,
    rules_windows,
    winograd,
)
from .instructions import Instruction, LaneProduct, Multiply, Pointwise, Product, patches, winograd_tiles
from .lanes import LANES, in_lanes
from .lowering import Lowering
from .values import Base, Buffer, Constant, NotLowered

VECTOR_TAIL = 16  # `vector_tail` of csrc/cpu/program.h
_CACHED_WEIGHTS = 2**16
_FEW_WORDS = 576
_LITTLE_WORK, _MOST_PADDED = 2**20, 2.5  # multiply-adds of a sample
_SCRATCH, _SHARED, _PER_SAMPLE = range(3)


@dataclass(frozen=True, eq=False)
class NativeProgram:
    """The score of a sample, and maybe its energy, as code for native kernels.

    Attributes:
        code: `ProgramCode` of csrc/cpu/program.h and the instructions, as int64.
        lanes: samples whose numbers lie side by side; 1: those of each sample lie together.
        constants: each with its place among the shared ones, or in the rows of samples, `lanes` of them in a row.
        shared_words, per_sample_words: how many numbers those are.
        n_instructions: of a step.
        multiply_adds: of a step, per sample and with those of padding.
        others: operations outside products, likewise.
    """

    code: Tensor
    lanes: int
    constants: tuple[tuple[Constant, int], ...]
    shared_words: int
    per_sample_words: int
    n_instructions: int
    multiply_adds: int
    others: int


def lower(
    graph: Graph, calls: Sequence[Call], outputs: Sequence[int], widest_tile: int, beside: NativeProgram | None = None
) -> NativeProgram:
    """The calls of a step as a native program.

    Args:
        calls: whose results change from step to step.
        outputs: the value of the score, and that of the energies if they are computed too.
        widest_tile: output channels whose weights lie together, at most: as many as the kernels compute at a time.
        beside: the program of the score alone. Samples then lie as in it, so that the score has its bits.

    Raises:
        NotLowered: a call has no kernel or depends on several samples, or torch's operators are faster.
    """
    lowering = Lowering(graph, calls, outputs, widest_tile)
    results = lowering.run()
    products = [i for i in lowering.instructions if isinstance(i, Product)]
    work = sum(p.multiply_adds for p in products)
    padded = sum(p.multiply_adds * _rounded(p.result.shape[2]) // p.result.shape[2] for p in products)
    if padded > max(_LITTLE_WORK, _MOST_PADDED * work):
        raise NotLowered("its convolutions have so few channels in a group that most lanes of vectors would be idle")
    buffers = [lowering.state]
    for view in results:
        assert isinstance(view.base, Buffer)
        buffers.append(view.base)
    is_small = _is_small(lowering.instructions, buffers) if beside is None else beside.lanes > 1
    if is_small and (wide := in_lanes(lowering.instructions, buffers)) is not None:
        return _placed(*wide, LANES)
    if beside is not None and beside.lanes > 1:
        raise NotLowered("its samples cannot lie side by side, as they do in the program of the score alone")
    return _placed(lowering.instructions, buffers, 1)


def _is_small(instructions: Sequence[Instruction], buffers: Sequence[Buffer]) -> bool:
    """Whether samples are faster side by side, whatever the batch, on whose size a sample's bits must not depend.

    Then a sample's numbers fill few vectors, and those of `LANES` samples stay in the L2 cache. Products fill vectors
    either way.
    """
    state, *results = buffers
    _, words = _places(instructions, _lives(instructions, state, results))
    return words <= (_FEW_WORDS if any(isinstance(i, Product) for i in instructions) else 2 * _FEW_WORDS)


def _rounded(channels: int) -> int:
    """To whole vectors of 8."""
    return -(-channels // 8) * 8


def _placed(instructions: Sequence[Instruction], buffers: Sequence[Buffer], lanes: int) -> NativeProgram:
    """buffers: of the state, the score and, if they are computed, the energies."""
    state, *results = buffers
    places, sample_words = _places(instructions, _lives(instructions, state, results))
    constants: dict[Constant, int] = {}
    words = {False: 0, True: 0}
    for instruction in instructions:
        for base in instruction.reads:
            if isinstance(base, Constant) and base not in constants:
                constants[base] = words[base.is_per_sample]
                words[base.is_per_sample] += _aligned(base.size)

    def locate(base: Base) -> tuple[int, int]:
        if isinstance(base, Buffer):
            return _SCRATCH, places[base]
        return _PER_SAMPLE if base.is_per_sample else _SHARED, constants[base]

    extra = max((i.extra for i in instructions if isinstance(i, (Product, Multiply, Pointwise))), default=0)
    # An odd number of cache lines, so that a number of one sample and of the next fall into different sets.
    sample_words = sample_words // (2 * VECTOR_TAIL) * 2 * VECTOR_TAIL + 3 * VECTOR_TAIL
    score, energy = [locate(base)[1] for base in results] + [-1] * (2 - len(results))
    head = [VECTOR_TAIL, lanes, state.size // lanes, places[state], score, energy, sample_words, extra]
    code = [*head, _samples_at_once(instructions), words[False], words[True], len(instructions)]
    for instruction in instructions:
        code += instruction.code(locate)
    products = [i for i in instructions if isinstance(i, (Product, LaneProduct, Multiply))]
    return NativeProgram(
        torch.tensor(code, dtype=torch.int64),
        lanes,
        tuple(constants.items()),
        words[False],
        words[True],
        len(instructions),
        sum(p.multiply_adds for p in products),
        sum(i.operations for i in instructions if not isinstance(i, (Product, LaneProduct, Multiply))) // lanes,
    )


def _samples_at_once(instructions: Sequence[Instruction]) -> int:
    """The fewest samples that a block should have for its products to be within a tenth of their best speed.

    Rows of a product whose windows are clipped alike, or tiles by Winograd's filtering, are computed about 6 at a
    time, at full speed from 4 on. Weights are read once a block, in about the time of 8 multiply-adds each where they
    do not stay in the L2 cache: many, and those of Winograd's filtering, nearly twice as many as of direct arithmetic.
    """
    products = [i for i in instructions if isinstance(i, Product)]

    def cost(n: int) -> float:
        total = 0.0
        for p in products:
            weights = p.y.window * p.x.window * p.image.shape[2] * p.result.shape[2]
            alike = [y * x for y, x in itertools.product(patches(p.y), patches(p.x))]
            if p.winograd_width:
                weights = winograd.places(p.y.window) * p.image.shape[2] * p.result.shape[2]
                alike = [winograd_tiles(p.y) * winograd_tiles(p.x)]
            for rows in (n * k for k in alike):
                total += weights * rows / min(1.0, rows / math.ceil(rows / 6) / 4)
            total += weights * (8 if p.winograd_width or weights > _CACHED_WEIGHTS else 1)
        return total / n

    costs = {n: cost(n) for n in (1, 2, 4, 6, 8, 12, 16, 24, 32)}
    return next(n for n, c in costs.items() if c <= 1.1 * min(costs.values()))


def _lives(
    instructions: Sequence[Instruction], state: Buffer, results: Sequence[Base]
) -> dict[Buffer, tuple[int, int]]:
    """The first and the last instruction that needs each buffer."""
    lives: dict[Buffer, tuple[int, int]] = {state: (-1, -1)}
    for i, instruction in enumerate(instructions):
        for base in (*instruction.writes, *instruction.reads):
            if isinstance(base, Buffer):
                lives[base] = (lives.get(base, (i, i))[0], i)
    for base in results:
        assert isinstance(base, Buffer)
        lives[base] = (lives[base][0], len(instructions))
    return lives


def _places(instructions: Sequence[Instruction], lives: dict[Buffer, tuple[int, int]]) -> tuple[dict[Buffer, int], int]:
    """An offset for each buffer and the end of all: that of an operand that it may overwrite, else the first gap among
    those that live at the same time.
    """
    places: dict[Buffer, int] = {}
    taken: set[Buffer] = set()
    for buffer, (first, last) in sorted(lives.items(), key=lambda item: item[1][0]):
        maker = instructions[first] if first >= 0 else None
        old = maker.overwritable()[buffer] if isinstance(maker, Pointwise) else []
        dying = [b for b in old if isinstance(b, Buffer) and lives[b][1] == first and b not in taken]
        if dying:
            taken.add(dying[0])
            places[buffer] = places[dying[0]]
            continue
        others = sorted(
            (places[b], places[b] + _aligned(b.size)) for b in places if lives[b][0] <= last and lives[b][1] >= first
        )
        place = 0
        for start, end in others:
            if place + _aligned(buffer.size) <= start:
                break
            place = max(place, end)
        places[buffer] = place
    return places, max(places[b] + _aligned(b.size) for b in places)


def _aligned(size: int) -> int:
    return math.ceil(max(size, 1) / VECTOR_TAIL) * VECTOR_TAIL
