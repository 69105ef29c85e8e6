"""Grids of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data.ranges import UNIT, Range
from ..data.values import check_value_range
from ..files import replacing
from ..validation import check_int

_GAP = 2  # pixels between images, before enlargement
_GREY = 128  # of the gaps
_MIN_WIDTH = 640  # of the enlarged picture
_FONT, _PAD = 13, 6  # size of labels, and pixels around them


def grid(images: Tensor, columns: int | None = None, value_range: Range = UNIT) -> Image.Image:
    """The picture that `save_grid` writes."""
    if columns is None:
        columns = math.ceil(math.sqrt(max(len(images), 1)))
    return _enlarged(_sheet(images, check_int("columns", columns), value_range))


def save_grid(
    images: Tensor, path: str | Path, columns: int | None = None, value_range: tuple[float, float] = UNIT
) -> None:
    """Writes images to a file as a grid with grey gaps, enlarged by an integer factor to at least 640 pixels in width.

    The file is replaced atomically: if the program is killed while it writes, `path` has its former content.

    Args:
        images: (N, 1, H, W) grey or (N, 3, H, W) RGB, N at least 1, of any real dtype, on any device.
        path: the file. Its extension selects the format: ".png", ".jpg" or another that Pillow writes. Its folder must
            exist.
        columns: of the grid, filled row by row; None: ⌈√N⌉.
        value_range: (lo, hi), the values that are drawn black and white. Values outside are clipped.

    Raises:
        ValueError: images of another shape or with NaN, columns below 1, a `value_range` that is not two finite numbers
            lo < hi, or an extension that Pillow does not write.
        OSError: the file cannot be written; the message names it.

    Examples:
        >>> images, _ = fl.digits()
        >>> fl.save_grid(images[:64], "digits.png")
        >>> from PIL import Image
        >>> Image.open("digits.png").size
        (656, 656)
    """
    _save(grid(images, columns, value_range), path)


def stacked(
    rows: Sequence[Tensor], columns: int = 8, value_range: Range = UNIT, labels: Sequence[str] = ()
) -> Image.Image:
    """A picture with image i of each row in one column, each row (N, C, H, W) as for `save_grid`.

    If there are more than `columns` images, the next ones follow in a block below, after a wider gap.

    Args:
        labels: one for each row, written beside it.
    """
    n = len(rows[0])
    blocks = [
        _sheet(torch.cat([row[i : i + columns] for row in rows]), min(columns, n - i), value_range)
        for i in range(0, n, columns)
    ]
    width, gap = blocks[0].shape[1], 2 * _GAP
    parts = [np.pad(b, ((0, gap), (0, width - b.shape[1]), (0, 0)), constant_values=_GREY) for b in blocks]
    sheet = np.concatenate(parts)[:-gap]
    picture = _enlarged(sheet)
    if not labels:
        return picture
    height, factor = rows[0].shape[2] + _GAP, picture.width / sheet.shape[1]
    block = len(rows) * height + _GAP + gap
    starts = [(b * block + _GAP + r * height, label) for b in range(len(blocks)) for r, label in enumerate(labels)]
    return _with_margin(picture, [(factor * (start + rows[0].shape[2] / 2), label) for start, label in starts])


def save_stacked(
    rows: Sequence[Tensor],
    path: str | Path,
    columns: int = 8,
    value_range: Range = UNIT,
    labels: Sequence[str] = (),
) -> None:
    """Writes `stacked(rows)` to a file, like `save_grid`."""
    _save(stacked(rows, columns, value_range, labels), path)


def save_captioned(parts: Sequence[tuple[str, Image.Image]], path: str | Path) -> None:
    """Writes pictures below one another, each with its caption beneath, like `save_grid`."""
    font = ImageFont.load_default(_FONT)
    strip = _FONT + 2 * _PAD
    width, height = max(p.width for _, p in parts), sum(p.height + strip for _, p in parts)
    mode = "L" if all(part.mode == "L" for _, part in parts) else "RGB"
    picture, top = Image.new(mode, (width, height), "white"), 0
    draw = ImageDraw.Draw(picture)
    for caption, part in parts:
        picture.paste(part, (0, top))
        draw.text((width / 2, top + part.height + strip / 2), caption, "black", font, anchor="mm")
        top += part.height + strip
    _save(picture, path)


def is_drawable(event_shape: Sequence[int]) -> bool:
    """Whether items of this shape are images that `save_grid` accepts: (1 or 3, H, W)."""
    return len(event_shape) == 3 and event_shape[0] in (1, 3)


def _sheet(images: Tensor, columns: int, value_range: Range) -> np.ndarray:
    """The images in rows with gaps, uint8 (height, width, C)."""
    if not is_drawable(images.shape[1:]) or images.numel() == 0:
        raise ValueError(f"images must be (N, 1 or 3, H, W) with N at least 1, got {tuple(images.shape)}")
    n, channels, height, width = images.shape
    rows = math.ceil(n / columns)
    lo, hi = check_value_range("value_range", value_range)
    scaled = (images.detach().cpu().float() - lo) * (255 / (hi - lo))
    if scaled.isnan().any():
        raise ValueError("images must not hold NaN")
    pixels = scaled.clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels), _GREY, np.uint8)
    for i, image in enumerate(pixels):
        top, left = _GAP + i // columns * (height + _GAP), _GAP + i % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _enlarged(sheet: np.ndarray) -> Image.Image:
    picture = Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet)
    factor = max(1, math.ceil(_MIN_WIDTH / sheet.shape[1]))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _with_margin(picture: Image.Image, labels: Sequence[tuple[float, str]]) -> Image.Image:
    """The picture with a white margin on the left, and each label in it at its height."""
    font = ImageFont.load_default(_FONT)
    margin = math.ceil(max(font.getlength(label) for _, label in labels)) + 2 * _PAD
    wide = Image.new(picture.mode, (picture.width + margin, picture.height), "white")
    wide.paste(picture, (margin, 0))
    draw = ImageDraw.Draw(wide)
    for y, label in labels:
        draw.text((margin - _PAD, y), label, "black", font, anchor="rm")
    return wide


def can_write(suffix: str) -> bool:
    """Whether Pillow writes files of this ending."""
    return Image.registered_extensions().get(suffix.lower()) in Image.SAVE


def _save(picture: Image.Image, path: str | Path) -> None:
    path = Path(path)
    if not can_write(path.suffix):
        raise ValueError(f"path must end in the extension of an image format, such as .png, got {str(path)!r}")
    with replacing(path) as temporary:
        picture.save(temporary)
