"""The plot page: what is drawn, and the files."""

from __future__ import annotations

import base64
import csv
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

import fastlangevin as fl
from fastlangevin.diagnostics import page, plots

arviz = pytest.importorskip("arviz")
pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(page, "_DPI", 20)


def make_trace(n: int = 60, chains: int = 3, shift: float = 0.0) -> fl.Trace:
    x = fl.noise.normal((n, chains, 6), seed=1, step=0)
    x[:, 0, 4] += shift
    energy = x.square().sum(dim=2)
    return fl.Trace(x, energy, energy, 5 * torch.arange(n))


def chains_of(values: list[list[float]], first: int = 0, every: int = 1) -> plots.Chains:
    """A quantity "q" of chains, given one by one, whose energy it is too."""
    q = torch.tensor(values, dtype=torch.float64).T
    return plots.Chains({"energy": q, "q": q}, every * torch.arange(len(q)), first)


def test_traces_are_drawn_with_their_burn_in():
    rng = np.random.default_rng(0)
    chains = chains_of(rng.normal(size=(2, 40)).tolist(), first=10, every=5)
    figure = plots.trace_plot(chains)
    line, density = figure.axes[2:]
    assert (
        line.get_ylabel() == "q"
        and [drawn.get_ydata().tolist() for drawn in line.lines] == chains.values["q"].T.tolist()
    )
    assert line.lines[0].get_xdata().tolist() == list(range(0, 200, 5))
    (burn_in,) = [patch for patch in line.patches if patch.get_label() == "burn-in"]
    assert (burn_in.get_x(), burn_in.get_width()) == (0, 50)
    edges = density.patches[0].get_xy()[:, 1]
    draws = chains.values["q"][10:]
    assert (edges.min(), edges.max()) == (draws.min(), draws.max())


def test_many_chains_and_points_are_thinned():
    chains = chains_of(np.random.default_rng(0).normal(size=(9, 6000)).tolist())
    figure = plots.trace_plot(chains)
    assert len(figure.axes[0].lines) == 8 and "8 of 9 chains" in figure.axes[0].get_title()
    assert len(figure.axes[0].lines[0].get_xdata()) == 2000


def test_ranks_are_those_among_all_chains():
    """Of two chains, one above the other, each has its half of the ranks alone: twice the draws of equal chains."""
    chains = chains_of([[v**3 for v in range(20)], [v**3 for v in range(20, 40)]])
    low, high = plots.rank_plot(chains).axes[1].patches
    assert low.get_data().values.tolist() == [2.0] * 10 + [0.0] * 10
    assert high.get_data().values.tolist() == [0.0] * 10 + [2.0] * 10
    assert low.get_data().edges[-1] == 1.0


def test_autocorrelations_are_arviz_of_the_draws():
    walk = np.random.default_rng(0).normal(size=(2, 100)).cumsum(axis=1)
    figure = plots.autocorrelation_plot(chains_of(walk.tolist(), first=20, every=3))
    for chain, line in zip(walk, figure.axes[1].lines, strict=False):
        assert line.get_xdata().tolist() == list(range(0, 60, 3))
        np.testing.assert_allclose(line.get_ydata(), arviz.autocorr(chain[20:])[:20])


def test_energies_of_all_chains_and_of_both_halves():
    values = np.random.default_rng(0).normal(size=(5, 60))
    values[:, 40:] += 10
    line, halves = plots.energy_plot(chains_of(values.tolist(), first=20)).axes
    np.testing.assert_allclose(line.lines[0].get_ydata(), values.mean(axis=0))
    first, second = (patch.get_xy() for patch in halves.patches)
    assert first[first[:, 1] > 0, 0].max() < 5 < second[second[:, 1] > 0, 0].min()


def test_a_page_holds_its_pictures_and_says_what_to_doubt(tmp_path):
    out = tmp_path / "r.html"
    doubts = fl.diagnostics.report(
        make_trace(600, shift=3.0), out, burn_in=1000, title="<Mine>", facts={"sampler": "L & M"}
    )
    text = out.read_text("utf-8")
    assert "<h1>&lt;Mine&gt;</h1>" in text and "L &amp; M" in text and "http" not in text
    pictures = re.findall(r'alt="(\w+)" src="data:image/png;base64,([^"]+)"', text)
    assert [name for name, _ in pictures] == ["trace", "rank", "autocorrelation", "energy"]
    for _, data in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(data))).width == 200
    assert "5 rows of 7 quantities, those of largest R-hat" in text
    assert "The chains do not support these numbers" in text and re.search(r"above 1\.01, for .*x\[4\]", doubts[0])
    assert text.index("<th>energy") < text.index("<th>x[4]") < text.index("<th>x[", text.index("<th>x[4]") + 1)


def test_a_page_without_doubts(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "_png", lambda figure: b"")
    assert fl.diagnostics.report(make_trace(600), tmp_path / "r.html") == []
    assert "give no reason for doubt" in (tmp_path / "r.html").read_text("utf-8")


def test_what_never_changes_is_drawn(tmp_path):
    trace = make_trace()._replace(energy=None)
    fl.diagnostics.report(trace, tmp_path / "a", functions={"constant": lambda x: 0 * x[:, 2]})
    assert (tmp_path / "a" / "autocorrelation.png").exists()


def test_a_folder_of_pictures(tmp_path):
    with_energy, without = tmp_path / "a", tmp_path / "b"
    doubts = fl.diagnostics.report(make_trace(), with_energy, functions={"norm": lambda x: x.norm(dim=1)})
    assert sorted(p.name for p in with_energy.iterdir()) == sorted(
        ["trace.png", "rank.png", "autocorrelation.png", "energy.png", "summary.csv"]
    )
    rows = list(csv.DictReader((with_energy / "summary.csv").open()))
    assert [row[""] for row in rows] == ["energy", "norm"] and float(rows[1]["ess_bulk"]) < 400 and doubts
    fl.diagnostics.report(make_trace()._replace(energy=None), without, max_elements=1)
    assert not (without / "energy.png").exists()
    with pytest.raises(ValueError, match=r"out must end in \.html, or be a folder without an ending, got 'r\.pdf'"):
        fl.diagnostics.report(make_trace(), "r.pdf")
