"""Data from torch Datasets: a map-style one is read item by item, an iterable one into memory."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ..validation import dtype_and_shape
from . import images, labels
from .dataset import Data, LazyItems, make_data, stored_data
from .ranges import Range
from .values import Layout, extent, source_range, to_channels_first, to_tensor

_N_INSPECTED = 256  # items of a map-style Dataset that determine its range of values and fingerprint


class StreamContent(NamedTuple):
    """What a finite IterableDataset gives: its items as given, (n, *event), and whether they differ if read again."""

    name: str
    values: Tensor
    labels: Tensor | None
    differs: bool

    def data(self, value_range: Range | None, layout: Layout) -> Data:
        data = stored_data(self.name, to_channels_first(self.values, "data", layout), value_range, self.labels)
        return _of_own_randomness(data) if self.differs else data


def read_stream(name: str, dataset: IterableDataset[Any], image_size: int | None) -> StreamContent:
    """Reads a finite IterableDataset into memory, and its first items once more if it can be read again."""
    items: list[Tensor] = []
    with _fixed_randomness():
        for i, raw in enumerate(dataset):
            items.append(_to_event(raw, i, image_size, "as_given", items[0] if items else None))
    if not items:
        raise ValueError(f"data must hold at least one item, got an empty {name}")
    with _fixed_randomness():  # a stream that can be read only once ends here
        again = itertools.islice(dataset, min(_N_INSPECTED, len(items)))
        differs = any(
            not torch.equal(_to_event(raw, i, image_size, "as_given", items[0]), items[i])
            for i, raw in enumerate(again)
        )
    return StreamContent(name, torch.stack(items), labels.of_dataset(dataset, len(items)), differs)


def from_map_style(
    name: str, dataset: Dataset[Any], image_size: int | None, value_range: Range | None, layout: Layout
) -> Data:
    """Data of a Dataset with a length, whose items are read each time a batch needs them."""
    n = _length(dataset)
    if n == 0:
        raise ValueError(f"data must hold at least one item, got an empty {name}")
    with _fixed_randomness():
        first = _to_event(dataset[0], 0, image_size, layout, None)
    read = functools.partial(_read, dataset, image_size, layout, first)
    inspected = range(0, n, math.ceil(n / _N_INSPECTED))
    (digest, low, high), again = _inspect(read, inspected), _inspect(read, inspected)
    low, high = min(low, again[1]), max(high, again[2])
    source = source_range(first.dtype, (low, high), value_range)
    if source is None:
        raise ValueError(
            f"value_range must be given for {name}, whose values are not all in [-1, 1]: the inspected items have "
            f"values in {low:g} … {high:g}"
        )
    items = LazyItems(read, n, source)
    differs = again[0].digest() != digest.digest()
    data = make_data(name, items, tuple(first.shape), source, digest, labels.of_dataset(dataset, n))
    return _of_own_randomness(data) if differs else data


def _inspect(read: Callable[[int], Tensor], indices: Sequence[int]) -> tuple[hashlib.blake2b, float, float]:
    """Reads items, and returns the digest of their content and their extent."""
    digest, low, high = hashlib.blake2b(digest_size=8), math.inf, -math.inf
    with _fixed_randomness():
        for i in indices:
            item = read(i)
            item_low, item_high = extent(item[None], [i])
            low, high = min(low, item_low), max(high, item_high)
            digest.update(item.numpy().data)
    return digest, low, high


def _of_own_randomness(data: Data) -> Data:
    """The data of a Dataset whose items differ when they are read again: the fingerprint covers only what does not."""
    digest = hashlib.blake2b(repr((len(data), data.event_shape)).encode(), digest_size=8)
    note = (
        f"the items of {data.name} differ each time they are read, whatever the seed: a resumed run, which is not told "
        "from one of other data of that shape, continues with other items than a run without interruption"
    )
    return replace(data, fingerprint=digest.hexdigest(), notes=(note,))


@contextmanager
def _fixed_randomness() -> Iterator[None]:
    """Makes random transforms return the same items at every load, and restores the caller's random state."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _length(dataset: Dataset[Any]) -> int:
    try:
        return len(dataset)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError) as error:
        raise TypeError(f"data must be a Dataset with a length, got {type(dataset).__name__} without") from error


def _read(dataset: Dataset[Any], image_size: int | None, layout: Layout, first: Tensor, index: int) -> Tensor:
    return _to_event(dataset[index], index, image_size, layout, first)


def _to_event(raw: Any, index: int, image_size: int | None, layout: Layout, first: Tensor | None) -> Tensor:
    """A Dataset's item as uint8, float32 or float64, of the shape and dtype of the first."""
    if isinstance(raw, (tuple, list)) and raw:
        raw = raw[0]
    if isinstance(raw, Image.Image):
        item = images.pixels_of(raw, raw.mode in images.GREY_MODES, image_size).contiguous()
    elif isinstance(raw, (Tensor, np.ndarray)):
        images.check_no_size(image_size, "a Dataset of tensors or arrays")
        item = to_channels_first(to_tensor(raw, f"item {index}").unsqueeze(0), f"item {index}", layout)[0]
    else:
        raise TypeError(
            f"item {index} must be a tensor, an array or a PIL image, or a tuple or list that starts with one, got "
            f"{type(raw).__name__}"
        )
    if first is not None and (item.shape, item.dtype) != (first.shape, first.dtype):
        raise ValueError(
            f"items must have one shape and dtype, but item 0 is {dtype_and_shape(first)} and item {index} is "
            f"{dtype_and_shape(item)}"
        )
    return item
