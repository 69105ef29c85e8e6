"""Plots of a training, of tables and of long chains. The one module that uses matplotlib (extra "plots")."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import require
from ..files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def has_plots() -> bool:
    """Whether the extra "plots" (matplotlib and TensorBoard) is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("matplotlib", "tensorboard"))


def check_matplotlib() -> None:
    """Raises ImportError if matplotlib is not installed or cannot be imported."""
    require("matplotlib.figure", "plots")


def save_training_plot(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Plots energy gap, score norm, gradient strength and lr against the iteration, with running means.

    Args:
        history: of `TrainResult`. An entry that its rows lack is left out.
    """
    figure = _figure(8, 9)
    panels = {
        "energy_gap": "energy gap\nmean U(data) - mean U(samples)",
        "score_norm": "score norm\nmean |∇ log p| at the samples",
        "gradient_strength": "gradient strength\nmean |∇ log p| along chains",
        "lr": "learning rate",
    }
    plots = figure.subplots(len(panels), 1, sharex=True, height_ratios=[2, 2, 2, 1])
    for axes, (name, label) in zip(plots, panels.items(), strict=True):
        rows = [row for row in history if name in row]
        iterations, values = [row["iteration"] for row in rows], np.array([row[name] for row in rows], float)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if name == "lr":
            axes.plot(iterations, values, color="black", linewidth=1)
            continue
        axes.plot(iterations, values, color="grey", linewidth=0.8, alpha=0.6, label="each")
        axes.plot(iterations, smoothed(values), color="black", linewidth=1.2, label="running mean")
    plots[0].axhline(0, color="grey", linewidth=0.8, linestyle="--")
    plots[0].legend(fontsize="small", loc="upper right")
    plots[-1].set_xlabel("iteration")
    _save(figure, path)


def smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of each value and of its neighbours, together a twentieth of all and at least 3, fewer at the ends."""
    width = max(3, len(values) // 20) | 1
    ones = np.ones(width)
    return (
        np.convolve(values, ones, "full")[width // 2 :][: len(values)]
        / np.convolve(np.ones(len(values)), ones, "full")[width // 2 :][: len(values)]
    )


def save_table_plot(
    rows: Sequence[dict[str, Any]], settings: dict[str, str], metrics: dict[str, str], path: Path
) -> None:
    """Plots metrics of trainings against settings: one column of plots per setting, one row per metric.

    Args:
        rows: one per training. A row without a metric is left out of its plots.
        settings, metrics: keys of the rows, and their labels. A setting's plots show the rows in which each other
            setting has its most frequent value.
    """
    figure = _figure(4.5 * len(settings), 2.2 * len(metrics))
    plots = figure.subplots(len(metrics), len(settings), squeeze=False, sharex="col")
    for column, setting in enumerate(settings):
        others = [other for other in settings if other != setting]
        common = {other: statistics.mode(row[other] for row in rows) for other in others}
        shown = [row for row in rows if all(row[other] == common[other] for other in others)]
        shown.sort(key=lambda row: row[setting])
        for plot, (name, label) in zip(plots[:, column], metrics.items(), strict=True):
            points = [(row[setting], row[name]) for row in shown if name in row]
            plot.plot(*zip(*points, strict=True) if points else ([], []), color="black", marker="o", markersize=4)
            plot.set_ylabel(label)
            plot.grid(alpha=0.3)
        plots[-1, column].set_xlabel(settings[setting])
    _save(figure, path)


def save_chain_plot(result: dict[str, Any], path: Path) -> None:
    """Plots what `evaluate` recorded along chains of up to 10 K steps.

    Args:
        result: of `evaluate`, with the entry "chain".
    """
    chain, steps = result["chain"], result["chain"]["steps"]
    figure = _figure(9, 6)
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
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
