"""Plots of tables: which rows are drawn."""

from __future__ import annotations

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
