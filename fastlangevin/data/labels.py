"""Class labels of data: their checks, and where files, folders and Datasets keep them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

NAMES = ("labels", "y")  # of the array beside the images in an .npz


def check(labels: Any, n: int, name: str = "labels") -> Tensor:
    """Converts labels to int64 (n,) on the CPU.

    Args:
        labels: a tensor, an array or a sequence of n non-negative integers of any integer type, (n,) or (n, 1).
        n: number of items.
        name: of the labels in an error.

    Raises:
        TypeError: not integers. Floats are refused even if whole: they are probably not labels.
        ValueError: not n labels, or negative ones.
    """
    try:
        values = labels.detach().cpu() if isinstance(labels, Tensor) else torch.from_numpy(_writable(labels))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be integers, got {type(labels).__name__} ({error})") from error
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got dtype {values.dtype}")
    if tuple(values.shape) not in ((n,), (n, 1)):
        raise ValueError(f"{name} must have shape ({n},), one per item, got {tuple(values.shape)}")
    values = values.reshape(n).to(torch.int64)
    if n and values.min() < 0:
        raise ValueError(f"{name} must not be negative, got {int(values.min())} for item {int(values.argmin())}")
    return values


def read(path: Path) -> np.ndarray:
    """Reads the array of an .npy file of labels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an .npy file, or a damaged one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"labels={str(path)!r}: no such file")
    try:
        values = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged file raises errors of many kinds
        raise ValueError(f"{path} cannot be read as a plain array (pickled objects are refused): {error}") from error
    if not isinstance(values, np.ndarray):
        raise ValueError(f"labels must be an .npy file, got {str(path)!r}, which holds several arrays")
    return values


def of_files(files: Sequence[Path], root: Path) -> Tensor | None:
    """The class index of each file if every file lies in root/CLASS/, classes sorted by name; else None."""
    parts = [file.relative_to(root).parts for file in files]
    if any(len(p) != 2 for p in parts):
        return None
    numbers = {name: i for i, name in enumerate(sorted({p[0] for p in parts}))}
    return torch.tensor([numbers[p[0]] for p in parts], device="cpu")


def of_dataset(dataset: object, n: int) -> Tensor | None:
    """A Dataset's `targets` or `labels`, as in torchvision, or the second tensor of a TensorDataset.

    None if it has none that `check` accepts.
    """
    second = dataset.tensors[1] if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2 else None
    for values in (getattr(dataset, "targets", None), getattr(dataset, "labels", None), second):
        if isinstance(values, (Tensor, np.ndarray, list, tuple)):
            try:
                return check(values, n)
            except (TypeError, ValueError):  # may mean something else: regression targets, -1 for "unknown"
                continue
    return None


def _writable(labels: Any) -> np.ndarray:
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise TypeError(f"dtype {array.dtype}")
    return np.require(array.astype(array.dtype.newbyteorder("="), copy=False), requirements=["C", "W"])
