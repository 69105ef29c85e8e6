"""Data of several ranks: what is downloaded or decoded is so once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..distributed.ranks import Ranks
from .dataset import Data, StoredItems


def load_once(ranks: Ranks, source: Any, load: Callable[[], Data]) -> Data:
    """The data of all ranks. Rank 0 loads first.

    Of a name, a file or a folder, rank 0 alone reads what is kept in memory, and sends it to the others. Other sources,
    which each rank has been given, each rank loads itself.
    """
    if ranks.size == 1:
        return load()
    data: Data | None = None
    with ranks.together():
        if ranks.is_main:
            data = load()
    values, frame = None, None
    if data is not None and isinstance(data._items, StoredItems) and _is_read_from_disk(source):
        values = data._items.values
        frame = replace(data, _items=replace(data._items, values=values.new_empty(0)))
    sent = ranks.of_main(None if values is None else (frame, values.shape))
    if sent is None:
        with ranks.together():
            return load() if data is None else data
    frame, shape = sent
    assert frame is not None and isinstance(frame._items, StoredItems)
    if values is None:
        values = torch.empty(shape, dtype=frame._items.values.dtype, device="cpu")
    ranks.copy_from_main_([values])
    return replace(frame, _items=replace(frame._items, values=values))


def _is_read_from_disk(source: Any) -> bool:
    """Whether the data are a name or a path, without or with labels."""
    return isinstance(source[0] if isinstance(source, tuple) and source else source, (str, os.PathLike))
