"""Traces in .npz files: `numpy.load(path)["x"]`, written while they grow and mapped into memory to be read.

An .npz is a zip of .npy files. The states, which are nearly everything, go straight to their place in it; the other
arrays wait in files beside it, since a zip has one member after the other. Nothing is compressed, and data start at
multiples of 64 bytes, so that they can be mapped.
"""

from __future__ import annotations

import io
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

_N_STEPS = "n_steps"
_ALIGNMENT = 64
_LOCAL_HEADER, _ZIP64_EXTRA = 30, 20  # bytes: APPNOTE.TXT of the zip format, 4.3.7 and 4.5.3
_PADDING = 0xD935  # the extra field with which Android's zipalign pads
_CHUNK = 2**22


def check() -> None:
    """Raises where the format cannot be written."""


def create(path: Path, block: Mapping[str, np.ndarray], n_records: int, n_steps: int) -> NpzWriter:
    return NpzWriter(path, block, n_records, n_steps)


class NpzWriter:
    """Writes to a zip file, and to files beside it until it is closed.

    Args:
        block: arrays of the names, dtypes and shapes (…, *shape) of those that will be written.
        n_records: how many records are expected. `close` may be told another number.
    """

    def __init__(self, path: Path, block: Mapping[str, np.ndarray], n_records: int, n_steps: int) -> None:
        self._like = {name: array[:0] for name, array in block.items()}
        self._n_records, self._n_steps = n_records, n_steps
        self._file = path.open("w+b")
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        self._x = self._member("x")
        self._x.write(self._npy_header("x", n_records))
        self._beside = {
            name: path.with_name(name.replace("/", "-") + ".part").open("w+b") for name in block if name != "x"
        }

    def append(self, block: Mapping[str, np.ndarray]) -> None:
        for name, array in block.items():
            (self._x if name == "x" else self._beside[name]).write(array.data)

    def close(self, n_records: int) -> None:
        self._x.close()
        if n_records != self._n_records:
            self._shorten_x(n_records)
        for name, file in self._beside.items():
            with self._member(name) as member, file:
                member.write(self._npy_header(name, n_records))
                _copy(file, member, n_records * _record_bytes(self._like[name]))
        with self._member(_N_STEPS) as member:
            np.lib.format.write_array(member, np.array(self._n_steps))
        self._zip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _member(self, name: str) -> IO[bytes]:
        """Opens a member of the zip file, whose data start at a multiple of _ALIGNMENT: a .npy header is one long."""
        info = zipfile.ZipInfo(f"{name}.npy", time.localtime()[:6])
        info.external_attr = 0o600 << 16
        header = _LOCAL_HEADER + len(info.filename) + _ZIP64_EXTRA + 4
        padding = -(self._file.tell() + header) % _ALIGNMENT
        info.extra = struct.pack("<HH", _PADDING, padding) + bytes(padding)
        return self._zip.open(info, "w", force_zip64=True)

    def _npy_header(self, name: str, n_records: int) -> bytes:
        """NumPy leaves place in it for any number of records."""
        like = self._like[name]
        header = io.BytesIO()
        description = np.lib.format.dtype_to_descr(like.dtype)
        fields = {"descr": description, "fortran_order": False, "shape": (n_records, *like.shape[1:])}
        np.lib.format.write_array_header_1_0(header, fields)
        return header.getvalue()

    def _shorten_x(self, n_records: int) -> None:
        """Writes the headers of x anew, for its first n_records records."""
        info, end = self._zip.getinfo("x.npy"), self._file.tell()
        npy_header = self._npy_header("x", n_records)
        start = info.header_offset + len(info.FileHeader(zip64=True))
        info.file_size = info.compress_size = len(npy_header) + n_records * _record_bytes(self._like["x"])
        self._file.seek(start)
        self._file.write(npy_header)
        self._file.seek(start)
        info.CRC = _checksum(self._file, info.file_size)
        self._file.seek(info.header_offset)
        self._file.write(info.FileHeader(zip64=True))
        self._file.seek(end)


def load(path: Path) -> tuple[dict[str, Tensor], int]:
    """The arrays by name, mapped into memory, and the number of steps of the trace."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            arrays = {info.filename.removesuffix(".npy"): _mapped(path, file, info) for info in archive.infolist()}
        n_steps = int(arrays.pop(_N_STEPS))
        if not {"x", "score_norm", "steps"} <= arrays.keys():
            raise KeyError("x, score_norm, steps")
    except (zipfile.BadZipFile, KeyError, ValueError, struct.error) as error:
        raise ValueError(f"path={str(path)!r} is not a trace that was written by trace(out=…): {error}") from error
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, n_steps


def _mapped(path: Path, file: IO[bytes], info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed")
    file.seek(info.header_offset)
    name_length, extra_length = struct.unpack("<HH", file.read(_LOCAL_HEADER)[26:])
    file.seek(name_length + extra_length, os.SEEK_CUR)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{info.filename} has another version of the .npy format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if 0 in shape:
        return np.empty(shape, dtype)  # an empty file cannot be mapped
    return np.memmap(path, dtype, "c", file.tell(), shape)


def _record_bytes(like: np.ndarray) -> int:
    return like.dtype.itemsize * int(np.prod(like.shape[1:], dtype=np.int64))


def _copy(source: IO[bytes], target: IO[bytes], n_bytes: int) -> None:
    source.seek(0)
    for chunk in _chunks(source, n_bytes):
        target.write(chunk)


def _checksum(file: IO[bytes], n_bytes: int) -> int:
    checksum = 0
    for chunk in _chunks(file, n_bytes):
        checksum = zlib.crc32(chunk, checksum)
    return checksum


def _chunks(file: IO[bytes], n_bytes: int) -> Iterator[bytes]:
    """The next n_bytes bytes."""
    while n_bytes > 0:
        chunk = file.read(min(_CHUNK, n_bytes))
        if not chunk:
            raise EOFError(f"{file.name} ends {n_bytes} bytes too early")
        yield chunk
        n_bytes -= len(chunk)
