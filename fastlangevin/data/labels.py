"""Class labels of data: what they must be, and where files, folders and Datasets keep them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

NAMES = ("labels", "y")  # of the array that lies beside the images in an .npz


def check(labels: Any, n: int, what: str = "labels") -> Tensor:
    """The labels as int64 (n,) on the CPU.

    Args:
        labels: a tensor, an array or a sequence of n whole numbers of any integer type, (n,) or (n, 1), none negative.
        n: how many items there are.
        what: the labels' name in an error.

    Raises:
        TypeError: not integers (floats are refused, whole or not: they are a sign of something else).
        ValueError: another number of them than n, or negative ones.
    """
    try:
        values = labels.detach().cpu() if isinstance(labels, Tensor) else torch.from_numpy(_writable(labels))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{what} must be whole numbers, got {type(labels).__name__} ({error})") from error
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{what} must be whole numbers, got dtype {values.dtype}")
    if tuple(values.shape) not in ((n,), (n, 1)):
        raise ValueError(f"{what} must be one an item, shape ({n},), got {tuple(values.shape)}")
    values = values.reshape(n).to(torch.int64)
    if n and values.min() < 0:
        raise ValueError(f"{what} must not be negative, got {int(values.min())} for item {int(values.argmin())}")
    return values


def read(path: Path) -> np.ndarray:
    """The array of an .npy file of labels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an .npy file, or a damaged one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"labels={str(path)!r}: no such file")
    try:
        values = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged file fails with errors of every kind
        raise ValueError(f"{path} cannot be read as a plain array (pickled objects are refused): {error}") from error
    if not isinstance(values, np.ndarray):
        raise ValueError(f"labels must be an .npy file, got {str(path)!r}, which holds several arrays")
    return values


def of_files(files: Sequence[Path], root: Path) -> Tensor | None:
    """The number of each file's class, where every file lies in root/CLASS/, the classes in the order of their names.

    None where any lies elsewhere.
    """
    parts = [file.relative_to(root).parts for file in files]
    if any(len(p) != 2 for p in parts):
        return None
    numbers = {name: i for i, name in enumerate(sorted({p[0] for p in parts}))}
    return torch.tensor([numbers[p[0]] for p in parts])


def of_dataset(dataset: object, n: int) -> Tensor | None:
    """A Dataset's `targets` or `labels`, as torchvision's have them; None where there are none that `check` takes."""
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if isinstance(values, (Tensor, np.ndarray, list, tuple)):
            try:
                return check(values, n)
            except (TypeError, ValueError):  # a Dataset's own business: regression targets, -1 for "not known"
                continue
    return None


def _writable(labels: Any) -> np.ndarray:
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise TypeError(f"dtype {array.dtype}")
    return np.require(array.astype(array.dtype.newbyteorder("="), copy=False), requirements=["C", "W"])
