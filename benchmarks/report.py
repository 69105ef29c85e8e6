"""Results, as pytest-benchmark left them, into one Markdown table and two plots.

    python benchmarks/report.py [RESULTS.json …] [--out FOLDER]

Without arguments: those committed in benchmarks/results, into docs/benchmarks.md, docs/benchmarks-time.png and
docs/benchmarks-floor.png. Times are quoted for GPUs only; on CPUs, ratios to the eager loop of the same run.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from comparison import Row, is_ours
from contenders import OURS
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

ROOT = Path(__file__).resolve().parent.parent
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
NAME, TIME_PLOT, FLOOR_PLOT = "benchmarks.md", "benchmarks-time.png", "benchmarks-floor.png"
KINDS = ("chain", "train", "update", "first-call")
_MARKERS = ("o", "s", "D", "^", "v", "<", ">", "p", "P", "*", "h", "X", "d", "8", (3, 1, 0), (4, 1, 0), (6, 1, 0), "H")
_BUSY = 1.5  # a load of so many a core is not the benchmarks' own
_HEIGHT = 0.8  # of a work's row, in which its markers stand
Entry = dict[str, Any]  # a benchmark's extra_info

_INTRODUCTION = """# Benchmarks: measured

Written by `python benchmarks/report.py` from `benchmarks/results/`; do not edit. What the works are and why the figures
are as they are: [performance.md](performance.md).

Every contender takes its turn in every round. A speed is how many times as fast as the eager loop of the same round:
the median over rounds, with quartiles. *Checked*: before it was timed, the contender's states were seen to agree with
the eager loop's, without noise, and with noise in their moments (`benchmarks/checks.py`); what fails has no time. *Of
its floor*: the time that bytes or operations need at the least, at the peak that this machine showed in the same run,
over ours (`benchmarks/rooflines.py`, `works.py`).

    make bench         # measures, and writes such a page into .benchmarks/report
    make bench-docs    # the last run's results into benchmarks/results, and this page from them

## Machine
"""
_FIRST_CALLS = """\
Processes of their own, from the start, imports included, to the first x_K: how many times as fast as the eager loop's
process. Cold: with empty caches, kernels built and code compiled. Warm: those are found. Peak memory is the process's,
and in brackets what came on top of imports and the work's own tensors."""


def load(paths: list[Path]) -> tuple[list[Entry], list[dict[str, Any]]]:
    """The benchmarks' own records, in the order of KINDS, and the machine of each file."""
    entries, machines = [], []
    for path in paths:
        content = json.loads(path.read_text())
        found = [b["extra_info"] for b in content["benchmarks"] if b["extra_info"].get("kind") in KINDS]
        loads = [entry["load"] for entry in found]
        machine = content["machine_info"]["fastlangevin"]
        machines.append(machine | {"date": content["datetime"][:10], "loads": (min(loads), max(loads))})
        entries += found
    return sorted(entries, key=lambda entry: KINDS.index(entry["kind"])), machines


def markdown(entries: list[Entry], machines: list[dict[str, Any]]) -> str:
    lines = [*_INTRODUCTION.splitlines(), "", *_machine_lines(machines), "", "## All works, all contenders", ""]
    on_gpu = any(entry["device"] == "cuda" for entry in entries)
    head = ["work", "contender", "checked", "speed", "quartiles", "rounds", "of its floor"]
    lines += _table_head(head + (["time"] if on_gpu else []))
    for entry in entries:
        if entry["kind"] != "first-call":
            lines += [_line(entry, row, on_gpu) for row in _merged(entry["rows"])]
    lines += ["", "![Time of a step, relative to the eager loop's](benchmarks-time.png)"]
    lines += ["", "![How much of its floor each work of ours reaches](benchmarks-floor.png)"]
    lines += ["", "## Where a peer is faster", "", *_faster_peers(entries)]
    lines += ["", "## First call and peak memory", "", *_first_calls(entries)]
    return "\n".join(lines) + "\n"


def _machine_lines(machines: list[dict[str, Any]]) -> list[str]:
    lines = []
    for m in machines:
        load = "load {:.1f} to {:.1f} as the works' turns began".format(*m["loads"])
        gpu = f"; {m['gpu']}, driver {m['driver']}" if m["gpu"] else ""
        versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
        rates = "; ".join(f"{what}: {rate / 1e9:.4g}·10⁹" for what, rate in m["rooflines"].items())
        line = f"- {m['date']}, revision {m['revision']}: {m['processor']}, {m['cores']} cores, {m['threads']} threads"
        line += f", {m['cpu_kernels']}{gpu}; {load}; {versions}. {rates}."
        if m["loads"][1] > _BUSY * m["cores"]:
            line += (
                " **Other programs ran meanwhile**: ratios of paired rounds bear that, shares of the floor less well."
            )
        lines.append(line)
    return lines


def _table_head(columns: list[str]) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]


def _merged(rows: list[Row]) -> list[Row]:
    """Fastest first; those that were not timed after them, one row a reason."""
    untimed: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["status"] != "timed":
            untimed.setdefault((row["status"], row["reason"]), []).append(row["contender"])
    timed = sorted((row for row in rows if row["status"] == "timed"), key=lambda row: -row["ratio"])
    return timed + [
        {"contender": ", ".join(names), "status": status, "reason": reason}
        for (status, reason), names in untimed.items()
    ]


def _line(entry: Entry, row: Row, on_gpu: bool) -> str:
    cells = [entry["title"], row["contender"]]
    if row["status"] == "timed":
        cells += ["yes", f"{row['ratio']:.2f}×", _quartiles(row), str(row["rounds"])]
        cells.append(f"{row['of_floor']:.0%}: {row['floor']}" if "of_floor" in row else "")
        if on_gpu:
            cells.append(f"{row['seconds'] * 1e3:.3g} ms" if entry["device"] == "cuda" else "")
    else:
        said = "failed" if row["status"] == "failed" else "no"
        cells += [said, f"{row['status']}: {row['reason']}", *[""] * (4 if on_gpu else 3)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _quartiles(row: Row) -> str:
    return "{:.2f}, {:.2f}".format(*row["ratio_quartiles"])


def _faster_peers(entries: list[Entry]) -> list[str]:
    """Peers with a better median than ours in fp32, whatever their own precision, best first."""
    lines = []
    for entry in entries:
        timed = {row["contender"]: row["ratio"] for row in entry["rows"] if row["status"] == "timed"}
        ours = {name: ratio for name, ratio in timed.items() if is_ours(name)}
        faster = sorted(((r, n) for n, r in timed.items() if n not in ours and r > timed[OURS]), reverse=True)
        if entry["kind"] == "first-call" or not faster:
            continue
        peers = ", ".join(f"{name} {ratio:.2f}×" for ratio, name in faster)
        ours_text = ", ".join(f"{name} {ratio:.2f}×" for name, ratio in ours.items())
        lines.append(f"- {entry['title']}: {peers}; beside {ours_text}.")
    return lines or ["Nowhere in these results."]


def _first_calls(entries: list[Entry]) -> list[str]:
    lines = [
        *_FIRST_CALLS.splitlines(),
        "",
        *_table_head(["work", "contender", "cold", "warm", "quartiles", "peak memory"]),
    ]
    for entry in entries:
        if entry["kind"] != "first-call":
            continue
        for row in _merged(entry["rows"]):
            cells = [entry["title"], row["contender"]]
            if row["status"] == "timed":
                memory = f"{row['peak'] / 2**20:.0f} MiB ({row['own_peak'] / 2**20:.0f})"
                cells += [f"{row['cold_ratio']:.2f}×", f"{row['ratio']:.2f}×", _quartiles(row), memory]
            else:
                cells += [f"{row['status']}: {row['reason']}", "", "", ""]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def plot_times(entries: list[Entry]) -> Figure:
    """Time of a step over the eager loop's, a row a work, a marker a contender; readable in grey."""
    shown = [entry for entry in entries if entry["kind"] in ("chain", "train")]
    found = dict.fromkeys(row["contender"] for e in shown for row in e["rows"] if row["status"] == "timed")
    names = sorted(found, key=lambda name: not is_ours(name))
    figure = Figure(figsize=(11, 1.2 + 0.9 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    for i, name in enumerate(names):
        aside = _HEIGHT * ((i + 0.5) / len(names) - 0.5)  # markers of equal times side by side
        points = [
            (1 / row["ratio"], y + aside)
            for y, entry in enumerate(shown)
            for row in entry["rows"]
            if row["status"] == "timed" and row["contender"] == name
        ]
        ours = is_ours(name)
        fill = "black" if ours else "none" if i % 2 else "0.75"
        style = {"s": 75 if ours else 45, "marker": _MARKERS[i % len(_MARKERS)], "zorder": 3 if ours else 2}
        axes.scatter(*zip(*points, strict=True), label=name, facecolors=fill, edgecolors="black", **style)
    axes.axvline(1, color="0.5", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [_short(entry["title"]) for entry in shown])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.grid(axis="x", color="0.9")
    for y in range(1, len(shown)):
        axes.axhline(y - 0.5, color="0.8", linewidth=1)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel("time of a step over the eager loop's (log scale; further left is faster)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    return figure


def plot_floors(entries: list[Entry]) -> Figure:
    """The share of its floor that each figure of ours reaches."""
    bars = [
        (f"{_short(entry['title'])}{_variant(row['contender'])}", row["of_floor"])
        for entry in entries
        for row in entry["rows"]
        if "of_floor" in row
    ]
    figure = Figure(figsize=(9, 1.2 + 0.24 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    names, shares = zip(*bars, strict=True)
    patches = axes.barh(range(len(bars)), shares, color="0.7", edgecolor="black")
    axes.bar_label(patches, [f"{share:.0%}" for share in shares], padding=3, fontsize=8)
    axes.set_yticks(range(len(bars)), names, fontsize=8)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, max(1.1, 1.1 * max(shares)))
    axes.axvline(1, color="0.5", linewidth=1, zorder=0)
    axes.set_xlabel("least time on this machine over the time taken")
    return figure


def _variant(contender: str) -> str:
    rest = contender.removeprefix(OURS).strip()
    return f", {rest}" if rest else ""


def _short(title: str) -> str:
    """Without the number of chains, which is the same for all of a kind."""
    return re.sub(r", [\d,]+ chains", "", title)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, help="default: all of benchmarks/results")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the page and its plots")
    options = parser.parse_args(arguments)
    entries, machines = load(options.results or sorted(RESULTS.glob("*.json")))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / NAME).write_text(markdown(entries, machines))
    plot_times(entries).savefig(options.out / TIME_PLOT, dpi=120)
    plot_floors(entries).savefig(options.out / FLOOR_PLOT, dpi=120)
    print(f"written: {options.out / NAME}, {TIME_PLOT}, {FLOOR_PLOT}")


if __name__ == "__main__":
    main()
