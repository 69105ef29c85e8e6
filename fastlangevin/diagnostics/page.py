"""`report`: the table of `summary` and plots of a trace, as one page or as pictures."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import replacing
from ..samplers.trace import Trace
from . import plots
from .convergence import ADVICE, Functions, first_record, quantities, table_of

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

_PLOTTED = 4  # quantities beside the energy
_DPI = 110
_PLOTS: dict[str, tuple[Callable[[plots.Chains], Figure], str]] = {
    "trace": (plots.trace_plot, "Chains that agree lie over each other, and after the burn-in do not drift."),
    "rank": (plots.rank_plot, "Flat where chains have the same distribution; the dashed line is that of equal chains."),
    "autocorrelation": (
        plots.autocorrelation_plot,
        "The sooner it falls to 0, the more a draw is worth.",
    ),
    "energy": (plots.energy_plot, "In equilibrium the mean is level, and both halves have one distribution."),
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 0.9rem; } td, th { padding: 0.2rem 0.7rem; text-align: right; }
tr + tr, tbody { border-top: 1px solid #ddd; } th:first-child { text-align: left; }
img { max-width: 100%; } .doubts { background: #fdecea; border-left: 4px solid #c0392b; padding: 0.5rem 1rem; }
.fine { background: #eaf6ec; border-left: 4px solid #2e8b57; padding: 0.5rem 1rem; }
"""


def report(
    trace: Trace,
    out: str | os.PathLike[str],
    *,
    functions: Functions | None = None,
    burn_in: int = 0,
    max_elements: int | None = 100,
    title: str = "Chains",
    facts: Mapping[str, str] | None = None,
) -> list[str]:
    """Writes plots and the table of `summary` of a trace, and returns what speaks against believing the table.

    The plots are traces with densities, ranks, autocorrelations and energies of the energy and the four quantities of
    largest R-hat.

    Args:
        out: a page that contains its pictures (.html), or a folder, which is created, for trace.png, rank.png,
            autocorrelation.png, energy.png (if energies are known) and summary.csv. Existing files are replaced.
        functions, burn_in, max_elements: as for `summary`.
        title, facts: heading of the page, and what it says below.

    Raises:
        ValueError: as for `summary`; another ending of `out`.
        ImportError: ArviZ or matplotlib is not installed; the message says how to.

    Examples:
        >>> trace = fl.MALA(fl.energies.DoubleWell(), step_size=0.05, seed=1).trace(torch.zeros(4, 2), n_steps=100)
        >>> doubts = fl.diagnostics.report(trace, "report.html")
        >>> len(doubts) > 0  # 4 chains of 100 steps are not enough
        True
    """
    path = check_out(out)
    values = quantities(trace, functions, max_elements)
    first = first_record(trace, burn_in)
    table, doubts = table_of({name: value[first:] for name, value in values.items()})
    shown = {name: values[name] for name in _most_doubtful(table)}
    chains = plots.Chains(shown, trace.steps, first)
    figures = {name: _png(draw(chains)) for name, (draw, _) in _PLOTS.items() if name != "energy" or "energy" in shown}
    if path.suffix == ".html":
        page = _page(title, facts or {}, table.loc[list(shown)], len(table), doubts, figures)
        with replacing(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return doubts
    path.mkdir(exist_ok=True)
    for name, picture in figures.items():
        with replacing(path / f"{name}.png") as temporary:
            temporary.write_bytes(picture)
    with replacing(path / "summary.csv") as temporary:
        table.to_csv(temporary)
    return doubts


def check_out(out: str | os.PathLike[str]) -> Path:
    """Raises ValueError for an `out` that is neither a page nor a folder."""
    path = Path(out)
    if path.suffix not in (".html", ""):
        raise ValueError(f"out must end in .html, or be a folder without an ending, got {str(out)!r}")
    return path


def _most_doubtful(table: pandas.DataFrame) -> list[str]:
    """The energy, and the quantities of largest R-hat."""
    worst = table.drop(index="energy", errors="ignore").sort_values("r_hat", ascending=False, kind="stable")
    return [*(["energy"] if "energy" in table.index else []), *worst.index[:_PLOTTED]]


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI)
    return picture.getvalue()


def _page(
    title: str,
    facts: Mapping[str, str],
    table: pandas.DataFrame,
    n_quantities: int,
    doubts: list[str],
    figures: Mapping[str, bytes],
) -> str:
    of = f" of {n_quantities} quantities, those of largest R-hat" if len(table) < n_quantities else ""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if facts:
        rows = "".join(f"<tr><th>{html.escape(name)}<td>{html.escape(value)}" for name, value in facts.items())
        parts.append(f"<table>{rows}</table>")
    if doubts:
        items = "".join(f"<li>{html.escape(doubt)}" for doubt in doubts)
        parts.append(f'<div class="doubts">The chains do not support these numbers:<ul>{items}</ul>{ADVICE}.</div>')
    else:
        parts.append('<div class="fine">R-hat and effective sample sizes give no reason for doubt.</div>')
    parts.append(f"<h2>Summary</h2>{table.to_html(float_format='{:.4g}'.format, border=0)}<p>{len(table)} rows{of}.")
    for name, picture in figures.items():
        data = base64.b64encode(picture).decode()
        parts.append(
            f'<h2>{name.capitalize()}</h2><p>{_PLOTS[name][1]}</p><img alt="{name}" src="data:image/png;base64,{data}">'
        )
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'
