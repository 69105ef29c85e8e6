"""What a person looks at: grids of images, the curves of a training, and what becomes of long chains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from .checkpoint import replacing

_GAP = 2  # pixels between images, before enlargement
_WIDTH = 640  # the enlarged grid is at least this wide


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Images side by side with gaps, enlarged by a whole factor.

    Args:
        images: (N, C, H, W) in [-1, 1] (values outside are clipped), C 1 or 3.
        columns: of the grid; None for about as many as rows.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images must be (N, 1 or 3, H, W) with N at least 1, got {tuple(images.shape)}")
    n, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    pixels = ((images.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels), 128, np.uint8)
    for i, image in enumerate(pixels):
        top, left = _GAP + i // columns * (height + _GAP), _GAP + i % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = image
    picture = Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
    factor = max(1, math.ceil(_WIDTH / sheet.shape[1]))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def save_grid(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Writes `grid(images)`; the file at `path` is whole at every instant."""
    with replacing(path) as temporary:
        grid(images, columns).save(temporary)


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
