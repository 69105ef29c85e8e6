"""Traces in .zarr folders, by the package zarr (extra "diagnostics")."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..extras import require

_N_STEPS = "n_steps"


def check() -> None:
    """Raises ImportError where the format cannot be written."""
    _zarr()


def create(path: Path, block: Mapping[str, np.ndarray], n_records: int, n_steps: int) -> ZarrWriter:
    return ZarrWriter(path, block, n_steps)


class ZarrWriter:
    """Writes a group of growing arrays, of which a chunk is one block of records.

    Args:
        block: arrays of the names, dtypes and shapes (records of a block, *shape) of those that will be written.
    """

    def __init__(self, path: Path, block: Mapping[str, np.ndarray], n_steps: int) -> None:
        group = _zarr().open_group(path, mode="w-", attributes={_N_STEPS: n_steps})
        self._arrays = {
            name: group.create_array(
                name,
                shape=(0, *array.shape[1:]),
                chunks=tuple(max(1, n) for n in array.shape),
                dtype=array.dtype,
            )
            for name, array in block.items()
        }

    def append(self, block: Mapping[str, np.ndarray]) -> None:
        for name, array in block.items():
            self._arrays[name].append(array)

    def close(self, n_records: int) -> None:
        for array in self._arrays.values():
            if array.shape[0] != n_records:
                array.resize((n_records, *array.shape[1:]))


class StoredArray:
    """An array of a .zarr folder: a tensor of what is indexed is read. Functions of torch read the whole array."""

    def __init__(self, array: Any, n_records: int) -> None:
        self._array = array
        self.shape = torch.Size((n_records, *array.shape[1:]))
        self.dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Tensor:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if first is Ellipsis:
            first, rest = slice(None), [Ellipsis, *rest]
        records = range(len(self))[first]
        if isinstance(records, range):
            records = slice(records.start, records.stop, records.step)
        return torch.from_numpy(np.asarray(self._array[(records, *rest)]))

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        read = [a[:] if isinstance(a, StoredArray) else a for a in args]
        return function(*read, **(kwargs or {}))

    def __repr__(self) -> str:
        return f"StoredArray({tuple(self.shape)}, {self.dtype})"


def load(path: Path) -> tuple[dict[str, Tensor], int]:
    """The arrays by name, and the number of steps of the trace. What was written last, steps, counts the records."""
    zarr = _zarr()
    try:
        group = zarr.open_group(path, mode="r")
        n_steps = int(group.attrs[_N_STEPS])
        arrays = {name: member for name, member in group.members(max_depth=None) if isinstance(member, zarr.Array)}
        n_records = arrays["steps"].shape[0]
        stored = {name: StoredArray(array, n_records) for name, array in arrays.items()}
        stored["x"], stored["score_norm"]
    except (KeyError, FileNotFoundError, ValueError) as error:
        raise ValueError(f"path={str(path)!r} is not a trace that was written by trace(out=…): {error}") from error
    return {**cast(dict[str, Tensor], stored), "steps": stored["steps"][:]}, n_steps


def _zarr() -> Any:
    return require("zarr", "diagnostics")
