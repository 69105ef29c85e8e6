"""`Data`: items to learn from, stored in memory or read when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..transfer import to_device
from . import labels as class_labels
from .ranges import UNIT, Range
from .values import check_within, extent, scaled, source_range


@dataclass(frozen=True, eq=False)
class Data:
    """Items to learn from, with indices 0 … len(data) - 1. Created by `load_data`.

    Attributes:
        name: the source: "digits", "cifar10", "tensor", "file:cats.npy", "folder:cats", "dataset:MyDataset".
        event_shape: shape of one item: (C, H, W) for images, (D,) for points.
        fingerprint: 16 hexadecimal digits that depend on the number of items, their shape, scaling and content (for a
            map-style Dataset, the content of up to 256 items; for a Dataset whose items differ when they are read
            again, number and shape only). It does not depend on the labels.
        labels: int64 (n,) on the CPU, the class of each item, or None if the source has none.
        notes: remarks on how the source was read, such as what a folder's reading left out; `train` prints them.

    Examples:
        >>> data = fl.load_data("digits")
        >>> data.name, data.event_shape, len(data), data.labels[:5].tolist()
        ('digits', (1, 8, 8), 1797, [0, 1, 2, 3, 4])
        >>> x = data.to("cpu").batch(torch.tensor([0, 10, 20]))
        >>> x.shape, x.dtype
        (torch.Size([3, 1, 8, 8]), torch.float32)
    """

    name: str
    event_shape: tuple[int, ...]
    fingerprint: str
    _items: StoredItems | LazyItems = field(repr=False)
    labels: Tensor | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """The number of items."""
        return len(self._items)

    def batch(self, indices: Tensor) -> Tensor:
        """Returns the items at `indices`, int64 (n,), as a new float32 tensor (n, *event_shape) in [-1, 1].

        Raises:
            ValueError: an item of a map-style Dataset, read only now, that differs from the first in shape or dtype, or
                has values outside the range.
        """
        return self._items.batch(indices)

    def to(self, device: str | torch.device) -> Data:
        """Returns the same data with items in memory moved to `device`. Items of a map-style Dataset are not moved."""
        return replace(self, _items=self._items.to(device))


def in_memory(data: Data) -> bool:
    """Whether all items are one tensor, on the device that `Data.to` has moved it to."""
    return isinstance(data._items, StoredItems)


def with_labels(data: Data, labels: Any) -> Data:
    """The same data with labels: one integer per item, or the path of an .npy file of them."""
    values = class_labels.read(Path(labels)) if isinstance(labels, (str, Path)) else labels
    return replace(data, labels=class_labels.check(values, len(data)))


@dataclass(frozen=True, eq=False)
class StoredItems:
    """All items in memory: uint8 that `batch` scales from `range`, or float32 in [-1, 1]."""

    values: Tensor
    range: Range

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: Tensor) -> Tensor:
        return scaled(self.values[to_device(indices, self.values.device)], self.range)

    def to(self, device: str | torch.device) -> StoredItems:
        return replace(self, values=self.values.to(device))


@dataclass(frozen=True, eq=False)
class LazyItems:
    """n items that `read` returns by index, all of one shape and dtype, scaled from `range` at each read."""

    read: Callable[[int], Tensor]
    n: int
    range: Range

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: Tensor) -> Tensor:
        numbers = indices.tolist()
        values = torch.stack([self.read(i) for i in numbers])
        check_within(extent(values, numbers), self.range)
        return scaled(values, self.range)

    def to(self, device: str | torch.device) -> LazyItems:
        return self


def stored_data(name: str, values: Tensor, value_range: Range | None, labels: Tensor | None = None) -> Data:
    """Data of (N, *event) values in memory, laid out by `to_channels_first`."""
    if len(values) == 0:
        raise ValueError(f"data must hold at least one item, got shape {tuple(values.shape)}")
    low, high = found = extent(values, range(len(values)))
    if low == high:
        raise ValueError(f"data must not be constant, got {low:g} for every value")
    source = source_range(values.dtype, found, value_range) or found
    if values.dtype != torch.uint8:
        values = scaled(values, source)
    digest = hashlib.blake2b(values.numpy().data, digest_size=8)
    items = StoredItems(values, source if values.dtype == torch.uint8 else UNIT)
    return make_data(name, items, tuple(values.shape[1:]), source, digest, labels)


def make_data(
    name: str,
    items: StoredItems | LazyItems,
    event_shape: tuple[int, ...],
    source: Range,
    digest: hashlib.blake2b,
    labels: Tensor | None,
) -> Data:
    """Data whose fingerprint is the digest of the content, extended by the number of items, shape and range."""
    digest.update(repr((len(items), event_shape, source)).encode())
    return Data(name, event_shape, digest.hexdigest(), items, labels)
