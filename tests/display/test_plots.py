"""Plots of tables: which rows are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fastlangevin.display import plots

pytest.importorskip("matplotlib")


def test_a_table_is_drawn_along_each_setting(tmp_path, monkeypatch):
    """For each setting: sorted rows with the most frequent values of the others, without rows that lack the metric."""
    rows = [
        {"noise": 0.3, "width": 64, "fid": 5.0},
        {"noise": 0.1, "width": 64, "fid": 7.0, "mse": 0.1},
        {"noise": 0.2, "width": 64},
        {"noise": 0.3, "width": 32, "fid": 9.0},
        {"noise": 0.3, "width": 128, "fid": 1.0},
    ]
    made, figure = [], plots._figure
    monkeypatch.setattr(plots, "_figure", lambda *size: made.append(figure(*size)) or made[0])
    labels = {"noise": "σ", "width": "n_f"}, {"fid": "FID", "mse": "MSE"}
    plots.save_table_plot(rows, *labels, tmp_path / "table.png")
    points = [[(float(x), float(y)) for x, y in axes.lines[0].get_xydata()] for axes in made[0].axes]
    assert points == [[(0.1, 7), (0.3, 5)], [(32, 9), (64, 5), (128, 1)], [(0.1, 0.1)], []]
    assert [axes.get_ylabel() for axes in made[0].axes] == ["FID", "FID", "MSE", "MSE"]
    assert [axes.get_xlabel() for axes in made[0].axes[2:]] == ["σ", "n_f"]
    assert Image.open(tmp_path / "table.png").size == (1080, 528)


def test_training_is_drawn_with_running_means(tmp_path, monkeypatch):
    """Rows of earlier versions lack lr."""
    history = [
        {"iteration": i, "energy_gap": i % 3, "score_norm": 1.0, "gradient_strength": 2.0} for i in range(1, 101)
    ]
    history[50]["lr"] = 0.5
    made, figure = [], plots._figure
    monkeypatch.setattr(plots, "_figure", lambda *size: made.append(figure(*size)) or made[0])
    plots.save_training_plot(history, tmp_path / "training.png")
    gap, score, strength, lr = made[0].axes
    raw, mean = gap.lines[:2]
    assert [float(y) for _, y in raw.get_xydata()] == [row["energy_gap"] for row in history]
    assert [float(y) for _, y in mean.get_xydata()][3:-3] == pytest.approx([1.0] * 94, abs=0.5)
    assert {float(y) for _, y in strength.lines[1].get_xydata()} == {2.0} and len(score.lines) == 2
    assert [(float(x), float(y)) for x, y in lr.lines[0].get_xydata()] == [(51, 0.5)]
    assert lr.get_ylabel() == "learning rate" and lr.get_xlabel() == "iteration"


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_running_mean(n):
    values = np.random.default_rng(n).integers(0, 100, n).astype(float)
    half = max(3, n // 20) // 2
    expected = [values[max(0, i - half) : i + half + 1].mean() for i in range(n)]
    assert plots.smoothed(values) == pytest.approx(expected, rel=1e-12)
