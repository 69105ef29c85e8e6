"""The numbers of a chain's steps in device memory, from which a captured graph reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Column = Sequence[float | Tensor]  # one value for each step: Python numbers, or tensors of one shape and dtype


def layout(columns: Sequence[Column]) -> tuple[object, ...]:
    """What is equal for columns that one `StepTable` can hold."""
    return tuple(
        (first.shape, first.dtype, _is_constant(column)) if isinstance(first := column[0], Tensor) else type(first)
        for column in columns
    )


class StepTable:
    """Numbers in one int64 tensor, which is filled by one copy from the host (a float64 as its bits), and tensors in
    tensors of their own; a tensor that is the same object at every step is stored once.

    Args:
        columns: whose `layout` is stored, at least one step each.

    Attributes:
        seed: an int64 tensor of one element.
    """

    def __init__(self, columns: Sequence[Column], device: torch.device) -> None:
        self._n_steps = n = len(columns[0])
        self._types = [type(column[0]) for column in columns]
        self._rows = [_empty(c, 1 if _is_constant(c) else n) if isinstance(c[0], Tensor) else None for c in columns]
        n_numbers = self._rows.count(None)
        self._numbers = torch.zeros(n_numbers * n + 1, dtype=torch.int64, device=device)
        self._grid, self.seed = self._numbers[:-1].view(n_numbers, n), self._numbers[-1]

    def fill(self, columns: Sequence[Column], seed: int, upload: Callable[[Tensor, Tensor], None]) -> None:
        """Sets all values. `upload(values, to)` copies from the host to the device."""
        numbers = []
        for column, rows in zip(columns, self._rows, strict=True):
            if rows is None:
                is_float = isinstance(column[0], float)
                values = torch.tensor(list(column), dtype=torch.float64 if is_float else torch.int64)
                numbers.append(values.view(torch.int64))
            elif len(rows) == 1:
                rows[0].copy_(column[0])  # type: ignore[arg-type]
            else:
                torch.stack(list(column), out=rows)  # type: ignore[arg-type]
        upload(torch.cat([*numbers, torch.tensor([seed], dtype=torch.int64)]), self._numbers)

    def columns(self) -> list[Sequence[Tensor]]:
        """The values of all steps: float64 or int64 scalars, and tensors."""
        return self._read(self._grid, self._rows, self._n_steps)

    def window(self, n_steps: int) -> tuple[list[Sequence[Tensor]], Callable[[Tensor], None]]:
        """The values of n_steps consecutive steps, and a function that copies those at a position, (n_steps,) int64
        indices of steps, to where they are read.
        """
        grid = self._grid.new_zeros(len(self._grid), n_steps)
        pairs = [(rows, rows if rows is None or len(rows) == 1 else rows[:n_steps].clone()) for rows in self._rows]

        def load(position: Tensor) -> None:
            torch.index_select(self._grid, 1, position, out=grid)
            for rows, part in pairs:
                if rows is not None and rows is not part:
                    torch.index_select(rows, 0, position, out=part)

        return self._read(grid, [part for _, part in pairs], n_steps), load

    def _read(self, grid: Tensor, rows: Sequence[Tensor | None], n_steps: int) -> list[Sequence[Tensor]]:
        numbers = iter(grid.unbind())
        columns: list[Sequence[Tensor]] = []
        for kind, values in zip(self._types, rows, strict=True):
            if values is None:
                row = next(numbers)
                columns.append((row.view(torch.float64) if kind is float else row).unbind())
            else:
                columns.append(values.unbind() * (n_steps // len(values)))
        return columns


def _is_constant(column: Column) -> bool:
    return all(value is column[0] for value in column)


def _empty(column: Column, n: int) -> Tensor:
    first = column[0]
    assert isinstance(first, Tensor)
    return first.new_empty((n, *first.shape))
