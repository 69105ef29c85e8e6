"""The records of a trace: kept in memory, or written to a file in blocks while the chain runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..validation import unknown
from . import trace_npz, trace_zarr

STATISTICS = "statistics/"  # before the names of statistics
_FORMATS = {".npz": trace_npz, ".zarr": trace_zarr}
_BLOCK_BYTES, _BLOCK_RECORDS = 4 * 2**20, 1024


class Writer(Protocol):
    """An open file of a trace."""

    def append(self, block: Mapping[str, np.ndarray]) -> None:
        """Adds records, (records, *shape) of each array. "steps", the last one, completes them."""

    def close(self, n_records: int) -> None:
        """Completes the file, with the first n_records records of each array."""


class Records:
    """Records in memory."""

    def __init__(self) -> None:
        self._pending: list[Mapping[str, Tensor]] = []

    def begin(self, n_records: int, n_steps: int) -> None:
        """Says how many records there will be, of how many steps."""

    def add(self, record: Mapping[str, Tensor]) -> None:
        """Adds a record: "x" (B, *event), "score_norm" (B,), "steps" (), with the same names each time."""
        self._pending.append(record)

    def stacked(self) -> dict[str, Tensor]:
        """The records by name, (records, *shape)."""
        return {name: torch.stack([record[name] for record in self._pending]) for name in self._pending[0]}


class _Written(Records):
    """Records on their way to a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._expected, self._n_steps = 0, 0
        self._writer: Writer | None = None
        self._written = 0
        self._is_writing = False

    def begin(self, n_records: int, n_steps: int) -> None:
        self._expected, self._n_steps = n_records, n_steps

    def add(self, record: Mapping[str, Tensor]) -> None:
        super().add(record)
        x = record["x"]
        if len(self._pending) >= min(_BLOCK_RECORDS, _BLOCK_BYTES // max(1, x.numel() * x.element_size())):
            self._write()

    def finish(self) -> int:
        """Completes the file and returns how many records it has. If there are none, there is no file."""
        if self._pending and not self._is_writing:
            self._write()
        if self._writer is not None:
            self._writer.close(self._written)
        return self._written

    def missing(self) -> str | None:
        """Which records are not in the file, in words."""
        complete = self._expected and self._written == self._expected
        return None if complete else f"{self._written} of {self._expected} records"

    def _write(self) -> None:
        block = {name: _array(tensor) for name, tensor in self.stacked().items()}
        if self._writer is None:
            self._writer = _FORMATS[self._path.suffix].create(self._path, block, self._expected, self._n_steps)
        self._is_writing = True  # if this is interrupted, the block is not whole
        self._writer.append(block)
        self._is_writing = False
        self._written += len(self._pending)
        self._pending.clear()


@contextlib.contextmanager
def recording(out: str | os.PathLike[str] | None) -> Iterator[Records]:
    """Yields the records of one trace, which are in the file `out` after the body, or in memory if it is None."""
    if out is None:
        yield Records()
        return
    path = _check(out)
    part = path.with_name(f"{path.name}.part")
    try:
        part.mkdir()  # a second process that writes to `out` fails here
    except FileExistsError:
        raise FileExistsError(
            f"out={str(path)!r} is being written, or its process was killed: {part} exists. If none is writing, move "
            "or delete that folder"
        ) from None
    except FileNotFoundError:
        raise FileNotFoundError(f"out={str(path)!r} must be in a folder that exists, got {path.parent}") from None
    records = _Written(part / path.name)
    try:
        yield records
    except BaseException:
        _complete(records, part, path)
        if (missing := records.missing()) and path.exists():
            warnings.warn(f"the trace was interrupted: {path} has {missing}", stacklevel=2)
        raise
    else:
        _complete(records, part, path)


def _complete(records: _Written, part: Path, path: Path) -> None:
    try:
        if records.finish():
            if path.exists():
                raise FileExistsError(f"out={str(path)!r} exists since this trace began, which is now in {part}")
            os.replace(part / path.name, path)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(error.errno, f"out={str(path)!r} could not be written ({error.strerror})") from error
    shutil.rmtree(part)


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The arrays of a file by name. Errors and what they are: `Trace.load`."""
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise unknown("the ending of path", path.suffix, _FORMATS)
    if not path.exists():
        raise FileNotFoundError(f"path={str(path)!r} does not exist")
    arrays, n_steps = _FORMATS[path.suffix].load(path)
    last = int(arrays["steps"][-1])
    if last != n_steps:
        warnings.warn(f"{path} ends at step {last} of {n_steps}: the trace was interrupted", stacklevel=3)
    return arrays


def _check(out: str | os.PathLike[str]) -> Path:
    path = Path(out)
    if path.suffix not in _FORMATS:
        raise unknown("the ending of out", path.suffix, _FORMATS)
    if path.exists():
        raise FileExistsError(f"out={str(path)!r} exists, and nothing is overwritten: choose another name")
    _FORMATS[path.suffix].check()
    return path


def _array(x: Tensor) -> np.ndarray:
    """The tensor for NumPy, which has no bfloat16."""
    x = x.detach().cpu()
    return np.ascontiguousarray((x.float() if x.dtype == torch.bfloat16 else x).numpy())
