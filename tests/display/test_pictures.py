"""Grids of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import fastlangevin as fl
from fastlangevin.display import pictures


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_save_grid(tmp_path, kind, channels):
    """Black at lo, white at hi, clipped outside, in rows of `columns` with gaps of 2 pixels of grey 128."""
    lo, hi = -2.0, 6.0
    images = torch.randint(0, 256, (3, channels, 4, 5), generator=torch.Generator().manual_seed(0))
    values = images / 255 * (hi - lo) + lo
    values[0, :, 0, 0], values[1, :, 0, 0] = -7.0, torch.inf
    images[0, :, 0, 0], images[1, :, 0, 0] = 0, 255
    fl.save_grid(values.double(), kind(tmp_path / "a.png"), columns=2, value_range=(lo, hi))
    factor = -(-640 // 16)  # 2 images of 5 pixels and 3 gaps
    expected = np.full((14, 16, channels), 128)
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = 2 + i // 2 * 6, 2 + i % 2 * 7
        expected[top : top + 4, left : left + 5] = image
    drawn = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(
        drawn.reshape(14 * factor, 16 * factor, channels), expected.repeat(factor, 0).repeat(factor, 1)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("n, columns", [(1, 1), (4, 2), (5, 3)])
def test_columns_by_default(n, columns):
    width = pictures.grid(torch.zeros(n, 1, 4, 4)).width
    assert width == -(-640 // (6 * columns + 2)) * (6 * columns + 2)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            dict(images=torch.zeros(2, 2, 4, 4)),
            r"images must be \(N, 1 or 3, H, W\) .*, got \(2, 2, 4, 4\)",
        ),
        (dict(images=torch.zeros(1, 4, 4)), r"got \(1, 4, 4\)"),
        (dict(images=torch.zeros(0, 1, 4, 4)), r"got \(0, 1, 4, 4\)"),
        (dict(images=torch.full((1, 1, 2, 2), torch.nan)), "images must not hold NaN"),
        (dict(columns=0), "columns must be an int of at least 1, got 0"),
        (dict(value_range=(1, 0)), "value_range must be two finite numbers"),
        (dict(path="a.txt"), "path must end in the extension of an image format, such as .png, got 'a.txt'"),
        (dict(path="a"), "path must end in"),
    ],
)
def test_bad_arguments(tmp_path, monkeypatch, change, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        fl.save_grid(**{"images": torch.zeros(2, 1, 4, 4), "path": "a.png", **change})
    assert not list(tmp_path.iterdir())


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.a\.png could not be written"):
        fl.save_grid(torch.zeros(2, 1, 4, 4), tmp_path / "nowhere" / "a.png")


def test_stacked():
    """Images i of all rows are in one column, in blocks of `columns`."""
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


def test_rows_of_a_stacked_picture_are_labelled():
    """In a margin on the left, each at the height of its row, in every block."""
    rows = [torch.rand(5, 1, 8, 8) * 2 - 1 for _ in range(2)]
    plain = np.asarray(pictures.stacked(rows, columns=3).convert("RGB"))
    labelled = np.asarray(pictures.stacked(rows, columns=3, labels=("a", "a long label")).convert("RGB"))
    margin = labelled.shape[1] - plain.shape[1]
    assert np.array_equal(labelled[:, margin:], plain) and margin > 50
    factor = plain.shape[1] / 32  # three images of 8 pixels and four gaps of 2
    dark = np.flatnonzero((labelled[:, :margin] < 100).any((1, 2)))
    expected = [factor * (2 + 10 * r + 4 + 26 * b) for b in range(2) for r in range(2)]
    assert all(min(abs(y - e) for e in expected) < 10 for y in dark)
    assert all(np.abs(dark - e).min() < 10 for e in expected)


def test_captions_are_below_their_pictures(tmp_path):
    parts = [("above", Image.new("L", (700, 40), 50)), ("below", Image.new("RGB", (640, 30), (9, 8, 7)))]
    pictures.save_captioned(parts, tmp_path / "a.png")
    drawn = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    assert drawn.shape[1:] == (700, 3)
    strip = (len(drawn) - 70) // 2
    assert (drawn[:40] == 50).all() and (drawn[40 + strip : 70 + strip, :640] == [9, 8, 7]).all()
    for top in (40, 70 + strip):
        assert drawn[top : top + strip].min() < 100 and (drawn[top : top + strip, :250] == 255).all()
