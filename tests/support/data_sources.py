"""Data to load: arrays, images, and Datasets of them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset


class Items(Dataset):
    """Serves a list, or calls a function for its items, and remembers what was read."""

    def __init__(self, items, n=None):
        self.items, self.n, self.reads = items, n, []

    def __len__(self):
        return len(self.items) if self.n is None else self.n

    def __getitem__(self, i):
        self.reads.append(i)
        return self.items(i) if callable(self.items) else self.items[i]


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def everything(loaded):
    return loaded.batch(torch.arange(len(loaded)))


def rand(*shape, lo=0.0, hi=1.0, dtype=torch.float32):
    """Random values whose least is lo and greatest is hi."""
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return (x - x.min()) / (x.max() - x.min()) * (hi - lo) + lo


def bytes_(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def picture(path, mode="RGB", size=(5, 4), seed=0):
    """Writes random pixels; returns them."""
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return torch.from_numpy(pixels)


def scaled(pixels):
    return pixels.float() / 127.5 - 1
