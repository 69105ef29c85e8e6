"""Plots of chains: traces, ranks, autocorrelations and energies, by matplotlib (extra "diagnostics")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _ROW = 10.0, 1.9  # inches
_MOST_CHAINS = 8  # that are drawn one by one
_MOST_POINTS = 2000  # of a line; more are not seen
_RANK_BINS = 20
_PERIODS = 100  # of a run, in which energies are averaged


class Chains:
    """Quantities of chains, as they are plotted.

    Args:
        values: (T, B) by name.
        steps: (T,) of the records.
        first: the first record after the burn-in.
    """

    def __init__(self, values: Mapping[str, Tensor], steps: Tensor, first: int) -> None:
        self.values = {name: value.numpy() for name, value in values.items()}
        self.steps = steps.numpy()
        self.first = first

    def draws(self, name: str) -> np.ndarray:
        """The (T, B) values after the burn-in."""
        return self.values[name][self.first :]


def trace_plot(chains: Chains) -> Figure:
    """Each quantity against the step, and the distribution of its draws, a line a chain."""
    figure, rows = _rows(len(chains.values), ratios=(3, 1))
    for (line, density), name in zip(rows, chains.values, strict=True):
        _lines(line, chains, name)
        values = chains.draws(name)
        bins = np.histogram_bin_edges(values[np.isfinite(values)], 30)
        for chain in values.T[:_MOST_CHAINS]:
            density.hist(chain, bins, histtype="step", density=True, linewidth=1, orientation="horizontal")
        density.sharey(line)
        density.tick_params(labelleft=False)
        density.set_xticks([])
    rows[-1][0].set_xlabel("step")
    rows[0][0].set_title(f"values along {_shown(chains)}", fontsize="medium")
    rows[0][1].set_title("density after burn-in", fontsize="medium")
    return figure


def rank_plot(chains: Chains) -> Figure:
    """Histograms of the ranks of each chain's draws among those of all chains: flat where chains agree (Vehtari et al.
    2021, Section 5.5).
    """
    scipy_stats = require("scipy.stats", "diagnostics")
    figure, rows = _rows(len(chains.values))
    for (axes,), name in zip(rows, chains.values, strict=True):
        values = chains.draws(name)
        ranks = scipy_stats.rankdata(values).reshape(values.shape) - 0.5
        edges = np.linspace(0, values.size, _RANK_BINS + 1)
        counts = np.stack([np.histogram(chain, edges)[0] for chain in ranks.T[:_MOST_CHAINS]])
        expected = len(values) / _RANK_BINS
        for i, count in enumerate(counts):
            axes.stairs(count / expected, edges / values.size, color=f"C{i}", linewidth=1.2)
        axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.01)
        _label(axes, name)
    rows[-1][0].set_xlabel("rank among the draws of all chains, as a share")
    rows[0][0].set_title(f"number of draws in a bin over that of equal chains, {_shown(chains)}", fontsize="medium")
    return figure


def autocorrelation_plot(chains: Chains) -> Figure:
    """The autocorrelation of each chain's draws, as ArviZ estimates it, up to a quarter of their number."""
    arviz = require("arviz", "diagnostics")
    figure, rows = _rows(len(chains.values))
    lags = (chains.steps - chains.steps[0])[: max(2, (len(chains.steps) - chains.first) // 4)]
    for (axes,), name in zip(rows, chains.values, strict=True):
        correlations = arviz.autocorr(chains.draws(name).T[:_MOST_CHAINS])
        for i, correlation in enumerate(correlations):
            axes.plot(lags, correlation[: len(lags)], color=f"C{i}", linewidth=1)
        axes.axhline(0, color="black", linewidth=0.8, linestyle="--")
        axes.set_ylim(min(-0.2, float(np.nanmin(correlations[:, : len(lags)], initial=0)) - 0.05), 1.05)
        axes.margins(x=0.01)
        _label(axes, name)
    rows[-1][0].set_xlabel("lag in steps")
    rows[0][0].set_title(f"autocorrelation after burn-in, {_shown(chains)}", fontsize="medium")
    return figure


def energy_plot(chains: Chains) -> Figure:
    """The mean energy and its spread in periods of the run, and the distribution in both halves of the draws."""
    figure, ((line, halves),) = _rows(1, ratios=(3, 2), height=3.2)
    periods = np.array_split(np.arange(len(chains.steps)), min(_PERIODS, len(chains.steps)))
    steps = [chains.steps[period].mean() for period in periods]
    energies = [chains.values["energy"][period] for period in periods]
    low, high = np.array([np.quantile(energy, [0.05, 0.95]) for energy in energies]).T
    line.fill_between(steps, low, high, color="grey", alpha=0.35, linewidth=0, label="5 … 95 % of the values")
    line.plot(steps, [energy.mean() for energy in energies], color="black", linewidth=1, label="mean over chains")
    _mark_burn_in(line, chains)
    line.set_xlabel("step")
    line.set_ylabel("energy U")
    line.legend(fontsize="small")
    draws = chains.draws("energy")
    bins = np.histogram_bin_edges(draws[np.isfinite(draws)], 40)
    for half, name in zip(np.array_split(draws, 2), ("first half", "second half"), strict=True):
        halves.hist(half.ravel(), bins, histtype="step", density=True, linewidth=1.3, label=name)
    halves.set_xlabel("energy U after burn-in")
    halves.set_ylabel("density")
    halves.legend(fontsize="small")
    for axes in (line, halves):
        axes.grid(alpha=0.3)
    return figure


def _rows(n: int, ratios: tuple[int, ...] = (1,), height: float = _ROW) -> tuple[Figure, Any]:
    figure = require("matplotlib.figure", "diagnostics").Figure(
        figsize=(_WIDTH, height * n + 0.6), layout="constrained"
    )
    return figure, figure.subplots(n, len(ratios), width_ratios=ratios, squeeze=False)


def _lines(axes: Axes, chains: Chains, name: str) -> None:
    thin = slice(None, None, max(1, len(chains.steps) // _MOST_POINTS))
    for chain in chains.values[name].T[:_MOST_CHAINS]:
        axes.plot(chains.steps[thin], chain[thin], linewidth=0.7, alpha=0.8)
    _mark_burn_in(axes, chains)
    _label(axes, name)


def _mark_burn_in(axes: Axes, chains: Chains) -> None:
    if chains.first:
        axes.axvspan(chains.steps[0], chains.steps[chains.first], color="grey", alpha=0.15, label="burn-in")
    axes.margins(x=0.01)


def _label(axes: Axes, name: str) -> None:
    axes.set_ylabel(name)
    axes.grid(alpha=0.3)


def _shown(chains: Chains) -> str:
    n_chains = next(iter(chains.values.values())).shape[1]
    return f"{n_chains} chains" if n_chains <= _MOST_CHAINS else f"{_MOST_CHAINS} of {n_chains} chains"
