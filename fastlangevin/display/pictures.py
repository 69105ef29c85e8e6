"""What a person looks at: grids of images, the curves of a training, and what becomes of long chains."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.ranges import UNIT, Range
from ..files import replacing

_GAP = 2  # pixels between images, before enlargement
_GREY = 128  # of the gaps
_WIDTH = 640  # the enlarged picture is at least this wide


def grid(images: Tensor, columns: int | None = None, value_range: Range = UNIT) -> Image.Image:
    """Images side by side with gaps, enlarged by a whole factor.

    Args:
        images: (N, C, H, W), C 1 or 3.
        columns: of the grid; None for about as many as rows.
        value_range: (lo, hi) of the values, black and white; values outside are clipped.
    """
    return _enlarged(_sheet(images, columns or math.ceil(math.sqrt(max(len(images), 1))), value_range))


def save_grid(images: Tensor, path: Path, columns: int | None = None, value_range: Range = UNIT) -> None:
    """Writes `grid(images)`; the file at `path` is whole at every instant."""
    with replacing(path) as temporary:
        grid(images, columns, value_range).save(temporary)


def stacked(rows: Sequence[Tensor], columns: int = 8, value_range: Range = UNIT) -> Image.Image:
    """What belongs together under one another: image i of each of the rows, each (N, C, H, W) as for `grid`.

    Of more than `columns` images the next follow in a block below, after a wider gap.
    """
    n = len(rows[0])
    blocks = [
        _sheet(torch.cat([row[i : i + columns] for row in rows]), min(columns, n - i), value_range)
        for i in range(0, n, columns)
    ]
    width, gap = blocks[0].shape[1], 2 * _GAP
    parts = [np.pad(b, ((0, gap), (0, width - b.shape[1]), (0, 0)), constant_values=_GREY) for b in blocks]
    return _enlarged(np.concatenate(parts)[:-gap])


def save_stacked(rows: Sequence[Tensor], path: Path, columns: int = 8, value_range: Range = UNIT) -> None:
    """Writes `stacked(rows)`, as `save_grid` does."""
    with replacing(path) as temporary:
        stacked(rows, columns, value_range).save(temporary)


def is_drawable(event_shape: Sequence[int]) -> bool:
    """Whether events of this shape, (1 or 3, H, W), are images that `grid` takes."""
    return len(event_shape) == 3 and event_shape[0] in (1, 3)


def _sheet(images: Tensor, columns: int, value_range: Range) -> np.ndarray:
    """The images in rows with gaps, uint8 (height, width, C)."""
    if not is_drawable(images.shape[1:]) or len(images) == 0:
        raise ValueError(f"images must be (N, 1 or 3, H, W) with N at least 1, got {tuple(images.shape)}")
    n, channels, height, width = images.shape
    rows = math.ceil(n / columns)
    lo, hi = value_range
    scaled = (images.detach().cpu().float() - lo) * (255 / (hi - lo))
    pixels = scaled.clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels), _GREY, np.uint8)
    for i, image in enumerate(pixels):
        top, left = _GAP + i // columns * (height + _GAP), _GAP + i % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _enlarged(sheet: np.ndarray) -> Image.Image:
    picture = Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet)
    factor = max(1, math.ceil(_WIDTH / sheet.shape[1]))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def save_training_plot(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Energy gap and score norm over the iterations. Needs matplotlib (`pip install 'fastlangevin[plots]'`)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    iterations = [row["iteration"] for row in history]
    top.plot(iterations, [row["energy_gap"] for row in history], color="black", linewidth=1)
    top.axhline(0, color="grey", linewidth=0.8, linestyle="--")
    top.set_ylabel("energy gap\nmean U(data) - mean U(samples)")
    bottom.plot(iterations, [row["score_norm"] for row in history], color="black", linewidth=1)
    bottom.set_ylabel("score norm\nmean |∇ log p| at the samples")
    bottom.set_xlabel("iteration")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def save_table_plot(rows: Sequence[dict[str, Any]], axes: dict[str, str], figures: dict[str, str], path: Path) -> None:
    """Figures of trainings against settings: one column of plots a setting, one row a figure. Needs matplotlib.

    Args:
        rows: one a training; figures that are not there are left out.
        axes, figures: keys of the rows, and how each is called. Along an axis are drawn the rows that have the most
            usual value of all other axes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(axes), 2.2 * len(figures)), layout="constrained")
    grid_of_plots = figure.subplots(len(figures), len(axes), squeeze=False, sharex="col")
    for column, axis in enumerate(axes):
        others = [other for other in axes if other != axis]
        usual = {other: statistics.mode(row[other] for row in rows) for other in others}
        chosen = sorted((row for row in rows if all(row[o] == usual[o] for o in others)), key=lambda row: row[axis])
        for plot, (name, title) in zip(grid_of_plots[:, column], figures.items(), strict=True):
            points = [(row[axis], row[name]) for row in chosen if name in row]
            plot.plot(*zip(*points, strict=True) if points else ([], []), color="black", marker="o", markersize=4)
            plot.set_ylabel(title)
            plot.grid(alpha=0.3)
        grid_of_plots[-1, column].set_xlabel(axes[axis])
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def save_chain_plot(result: dict[str, Any], path: Path) -> None:
    """What `evaluate` found along chains up to 10 K steps. Needs matplotlib (`pip install 'fastlangevin[plots]'`)."""
    from matplotlib.figure import Figure

    chain, steps = result["chain"], result["chain"]["steps"]
    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = {
        "energy": "energy\nmean U",
        "score_norm": "score norm\nmean |∇ log p|",
        "mean_abs": "mean |element|",
        "share_outside": "share of elements\noutside [-1, 1]",
    }
    for axes, (name, label) in zip(figure.subplots(2, 2, sharex=True).flat, panels.items(), strict=True):
        if chain[name] is not None:
            axes.plot(steps, np.array(chain[name], float), color="black", linewidth=1)
        axes.axvline(chain["n_steps"], color="grey", linewidth=0.8, linestyle="--", label=f"K = {chain['n_steps']}")
        if name == "energy" and "energy" in result:
            axes.axhline(result["energy"]["data_mean"], color="grey", linewidth=0.8, linestyle=":", label="data")
        if chain["diverged_at"] is not None:
            axes.axvline(
                chain["diverged_at"], color="black", linewidth=0.8, label=f"diverged at {chain['diverged_at']}"
            )
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    for axes in figure.axes[2:]:
        axes.set_xlabel("Langevin steps")
    figure.suptitle(f"{chain['n_chains']} chains past the K = {chain['n_steps']} steps of a sample")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
