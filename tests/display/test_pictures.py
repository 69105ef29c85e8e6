"""Grids of images."""

from __future__ import annotations

import numpy as np
import torch

from fastlangevin.display import pictures


def test_stacked():
    """Image i of every row stands under image i, in blocks of `columns`."""
    rows = [torch.full((5, 1, 4, 4), value) + 0.1 * torch.arange(5).reshape(5, 1, 1, 1) for value in (-1.0, 0.5)]
    picture = pictures.stacked(rows, columns=3)
    pixels = np.asarray(picture)
    factor = picture.width // 20  # 3 images of 4 pixels and 4 gaps of 2
    assert picture.size == (20 * factor, (14 + 4 + 14) * factor)

    def at(block, row, column):
        return pixels[(18 * block + 4 + 6 * row) * factor, (4 + 6 * column) * factor]

    def grey(value):
        return round((value + 1) * 127.5)

    for i in range(5):
        assert at(i // 3, 0, i % 3) == grey(-1 + 0.1 * i) and at(i // 3, 1, i % 3) == grey(0.5 + 0.1 * i)
    assert at(1, 0, 2) == at(1, 1, 2) == 128  # no sixth image
    assert np.array_equal(np.asarray(pictures.stacked([2 * r + 3 for r in rows], 3, (1.0, 5.0))), pixels)
