"""Programs in lanes: every number of a sample beside its like of other samples, as if tensors had one more dimension.

Where a sample has few numbers, instructions over its own would fill few vectors, and take longer to decode than to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .instructions import MOST_DIMS, Axis, Instruction, LaneProduct, Pointwise, Product, Reduce
from .values import Base, Buffer, Constant, View

LANES = 32  # `program_lanes` of csrc/cpu/program.h


def in_lanes(
    instructions: Sequence[Instruction], bases: Sequence[Buffer]
) -> tuple[list[Instruction], list[Buffer]] | None:
    """The same instructions for `LANES` samples at a time, and what some of their buffers have become; None if one of
    the instructions needs the numbers of a sample side by side.
    """
    widened = _Widened()
    found = [widened.instruction(i) for i in instructions]
    known = [i for i in found if i is not None]
    return (known, [widened.buffer(b) for b in bases]) if len(known) == len(found) else None


@dataclass
class _Widened:
    """Bases and views with a dimension of samples."""

    bases: dict[Base, Base] = field(default_factory=dict)

    def buffer(self, base: Buffer) -> Buffer:
        found = self.bases.setdefault(base, Buffer(base.size * LANES))
        assert isinstance(found, Buffer)
        return found

    def base(self, base: Base) -> Base:
        if isinstance(base, Buffer):
            return self.buffer(base)
        size = base.size * LANES if base.is_per_sample else base.size
        return self.bases.setdefault(base, replace(base, size=size))

    def view(self, view: View, dim: int) -> View:
        """Samples are the dimension `dim`. All read the same of what they share."""
        base = self.base(view.base)
        is_shared = isinstance(base, Constant) and not base.is_per_sample
        pitch, stride = (1, 0) if is_shared else (LANES, 1)
        strides = [s * pitch for s in view.strides]
        return View(
            base,
            (*view.shape[:dim], LANES, *view.shape[dim:]),
            (*strides[:dim], stride, *strides[dim:]),
            view.offset * pitch,
        )

    def instruction(self, instruction: Instruction) -> Instruction | None:
        if isinstance(instruction, Pointwise):
            return self._pointwise(instruction)
        if isinstance(instruction, Reduce):
            return self._reduce(instruction)
        return self._product(instruction) if isinstance(instruction, Product) else None

    def _pointwise(self, code: Pointwise) -> Pointwise | None:
        rank = len(code.shape)
        if rank == MOST_DIMS:
            return None
        operands, outputs = (tuple(self.view(v, rank) for v in views) for views in (code.operands, code.outputs))
        return replace(code, shape=(*code.shape, LANES), operands=operands, outputs=outputs)

    def _reduce(self, code: Reduce) -> Reduce | None:
        n_kept = len(code.result.shape)
        if len(code.source.shape) == MOST_DIMS or not isinstance(code.source.base, Buffer):
            return None
        return replace(code, source=self.view(code.source, n_kept), result=self.view(code.result, n_kept))

    def _product(self, code: Product) -> LaneProduct | None:
        """Of a matrix with a sample's channels, or with those of each of its pixels."""
        is_matrix = all(a == Axis(a.n, 0, 1, 1, a.n, dilation=a.dilation) for a in (code.y, code.x))
        if not is_matrix:
            return None
        image, result = (self.view(v, 3) for v in (code.image, code.result))
        return LaneProduct(image, result, self.base(code.weights), self.base(code.start), code.tile)
