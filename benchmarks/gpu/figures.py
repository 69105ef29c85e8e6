"""The performance of the kernels and the chain on one GPU, each figure with its baseline of the same run.

    python benchmarks/gpu/figures.py figures.json [--budget SECONDS] [--dry-run]

Rounds are interleaved, so that all contenders run at the same clock rates. A time is the median over rounds between two
CUDA events, a ratio the median of the rounds' ratios, both with quartiles. A contender that disagrees with its baseline
is reported as failed, without a time. The file is written after every figure, and a second call measures only the
missing ones, the decisive ones first. Needs only torch and this package. With --dry-run each figure is a row without a
value, which needs no GPU.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # makes benchmarks/ importable, as in pytest
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from timing import Call, spread
from torch import Tensor

import fastlangevin as fl
from gpu import chains, densities, networks
from gpu.timing import Row, captured, failed, host_times, times

SIZES = (2**12, 2**14, 2**16, 196_608, 2**20, 2**23, 2**26)
BACKENDS = ("cuda", "triton")
UPDATE_BYTES, COPY_BYTES = 12, 8  # per element: read x and score, write x; read x, write y
_LEAST_SECONDS = 20.0  # no figure is started with less of the budget left


def main(out_json: Path, budget: float) -> int:
    """Measures the figures that `out_json` lacks. Returns 0 if all are present and no contender failed, else 1."""
    deadline = time.monotonic() + budget
    done: dict[str, list[Row]] = json.loads(out_json.read_text()) if out_json.exists() else {}
    for name, measure in FIGURES.items():
        if name in done and not failures(done[name]):
            continue
        if deadline - time.monotonic() < _LEAST_SECONDS:
            print(f"{name}: not started, the budget of {budget:.0f} s is spent", flush=True)
            continue
        started = time.monotonic()
        try:
            done[name] = measure()
        except Exception as error:  # a failed figure must not stop the others
            done[name] = [failed(name, f"{type(error).__name__}: {error}")]
        write_json(out_json, done)
        print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)
        for row in done[name]:
            print(f"    {text(row)}", flush=True)
    return int(set(done) < set(FIGURES) or any(map(failures, done.values())))


def write_json(path: Path, content: object) -> None:
    """Writes atomically: after a kill there is either the old file or the new one."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def failures(rows: list[Row]) -> list[str]:
    return [f"{row['what']}: {row['failure']}" for row in rows if row.get("failure")]


def text(row: Row) -> str:
    """A row as one line of text."""
    if row.get("failure"):
        return f"{row['what']:44} FAILED: {row['failure']}"
    line = f"{row['what']:44} {row['value']:10.4g} {row['unit']:8}"
    if "quartiles" in row:
        line += " [{:.4g}, {:.4g}]".format(*row["quartiles"])
    if "ratio" in row:
        line += f"  {row['ratio']:.2f}× {row['ratio_to']}"
    if "ratio_quartiles" in row:
        line += " [{:.2f}, {:.2f}]".format(*row["ratio_quartiles"])
    if "wanted" in row:
        line += f"  (wanted: {row['wanted']})"
    return line


def floor() -> list[Row]:
    """The minimum cost of a launch: an add to one element, from Python and inside a graph."""
    x = torch.zeros(1, device="cuda")
    n = 500
    seconds = times({"python": lambda: x.add_(1.0), "graph": captured(lambda: x.add_(1.0), n)}, rounds=25, calls=20)
    rows = []
    for name, per_call, what in (("python", 1, "one launch from Python"), ("graph", n, "one launch inside a graph")):
        value, quartiles = spread([s / per_call * 1e6 for s in seconds[name]])
        rows.append({"what": f"floor: {what}", "value": value, "unit": "µs", "quartiles": quartiles})
    return rows


def host() -> list[Row]:
    """The host's share of an update of few elements, and of a call of a captured chain, which calls can overlap."""
    states, score, rows = _updates(4096)
    calls: dict[str, Call] = {
        f"update, {name}": functools.partial(_update, x, score, name) for name, x in states.items()
    }
    problem = chains.Problem(8, "fp32", image_size=8, batch=8)
    calls["captured chain"] = functools.partial(problem.sampler(n_steps=10), problem.x0)
    for name, call in calls.items():
        value, quartiles = spread([s * 1e6 for s in host_times(call, rounds=25, calls=20)])
        rows.append({"what": f"host's share: {name}", "value": value, "unit": "µs", "quartiles": quartiles})
    return rows


def update(n: int) -> list[Row]:
    """One update of n float32 elements by each backend, relative to the bandwidth of a device-to-device copy."""
    states, score, failing = _updates(n)
    y = torch.empty(n, device="cuda")
    calls: dict[str, Call] = {"copy": lambda: y.copy_(score)}
    calls |= {name: functools.partial(_update, x, score, name) for name, x in states.items()}
    n_calls = max(1, min(200, 2**28 // n))
    seconds = times(calls, rounds=25, calls=n_calls)
    copy_rate, copy_quartiles = spread([COPY_BYTES * n / s / 1e9 for s in seconds["copy"]])
    rows = [{"what": f"copy of {n:,}", "value": copy_rate, "unit": "GB/s", "quartiles": copy_quartiles}]
    for name in states:
        value, quartiles = spread([UPDATE_BYTES * n / s / 1e9 for s in seconds[name]])
        shares = [UPDATE_BYTES * c / (COPY_BYTES * s) for s, c in zip(seconds[name], seconds["copy"], strict=True)]
        ratio, ratio_quartiles = spread(shares)
        row = {"what": f"update of {n:,}, {name}", "value": value, "unit": "GB/s", "quartiles": quartiles}
        row |= {"ratio": ratio, "ratio_quartiles": ratio_quartiles, "ratio_to": "copy's GB/s"}
        rows.append(row | ({"wanted": "0.90 of the copy"} if n == 2**26 else {}))
    return rows + failing


def update_in_graph(n: int = 196_608, n_nodes: int = 200) -> list[Row]:
    """One of n_nodes updates in a CUDA graph: the kernel without its launch from Python."""
    states, score, rows = _updates(n)
    replays = {name: captured(functools.partial(_update, x, score, name), n_nodes) for name, x in states.items()}
    for name, seconds in times(replays, rounds=25, calls=5).items():
        value, quartiles = spread([s / n_nodes * 1e6 for s in seconds])
        what = f"update of {n:,} in a graph, {name}"
        rows.append({"what": what, "value": value, "unit": "µs", "quartiles": quartiles, "wanted": "3 µs or less"})
    return rows


def _update(x: Tensor, score: Tensor, backend: str) -> None:
    fl.langevin_update_(x, score, 0.0, chains.NOISE, seed=1, step=1, backend=backend)


def _updates(n: int) -> tuple[dict[str, Tensor], Tensor, list[Row]]:
    """The backends that agree with the reference bit for bit, each with its state; the score; rows of the others."""
    score = torch.randn(n, device="cuda")
    looked_at = min(n, 2**20)
    expected = torch.zeros(looked_at)
    _update(expected, score[:looked_at].cpu(), "reference")
    states, failing = {}, []
    for name in BACKENDS:
        x = torch.zeros(n, device="cuda")
        try:
            _update(x, score, name)
            if not torch.equal(x[:looked_at].cpu(), expected):
                raise AssertionError("the result differs from the reference's bits")
            states[name] = x
        except Exception as error:  # a missing or broken backend must not stop the other
            failing.append(failed(f"update of {n:,}, {name}", f"{type(error).__name__}: {error}"))
    return states, score, failing


def stand_in(name: str) -> list[Row]:
    """What a dry run has in place of a figure."""
    return [{"what": name, "value": 0.0, "unit": "of a dry run"}]


FIGURES: dict[str, Callable[[], list[Row]]] = {
    "floor": floor,
    "host": host,
    "update-in-graph": update_in_graph,
    "chain-64": functools.partial(chains.chain, 64),
    **{f"network-{name}": functools.partial(networks.network, name) for name in ("jem", "igebm-parametrization")},
    "growth": chains.growth,
    "densities": densities.chains,
    "chain-32": functools.partial(chains.chain, 32),
    "memory-64": functools.partial(chains.memory, 64),
    "chain-64-batch-128": functools.partial(chains.chain, 64, batch=128),
    "chain-64-of-64": functools.partial(chains.chain, 64, image_size=64),
    **{f"update-{n}": functools.partial(update, n) for n in SIZES},
    "memory-32": functools.partial(chains.memory, 32),
    "chain-64-compiled": functools.partial(chains.chain_compiled, 64),
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_json", type=Path)
    parser.add_argument("--budget", type=float, default=300.0, help="seconds, after which no figure is started")
    parser.add_argument("--dry-run", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    if arguments.dry_run:
        FIGURES = {name: functools.partial(stand_in, name) for name in FIGURES}
    elif not torch.cuda.is_available():
        sys.exit(f"figures.py needs an NVIDIA GPU, but torch {torch.__version__} finds none")
    sys.exit(main(arguments.out_json, arguments.budget))
