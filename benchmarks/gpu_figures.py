"""What the kernels and the chain reach on one GPU, each figure beside its baseline of the same run.

    python benchmarks/gpu_figures.py figures.json [--budget SECONDS]

Contenders take turns in every round, so that all meet the same clocks; a time is the median of the rounds between two
CUDA events, a ratio the median of the rounds' ratios, both with quartiles. A contender that computes something else
than its baseline is reported as failed, without a time. The file is written after every figure, and a second call
measures only those that it lacks. Needs torch and this package alone.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastlangevin as fl
from fastlangevin.score import precision as precisions

Call = Callable[[], object]
Row = dict[str, Any]

SIZES = (2**12, 2**14, 2**16, 196_608, 2**20, 2**23, 2**26)
BACKENDS = ("cuda", "triton")
UPDATE_BYTES, COPY_BYTES = 12, 8  # an element: read x and score, write x; read x, write y
PRECISIONS = ("fp32", "tf32", "bf16")
BATCH, N_STEPS, NOISE = 64, 100, 0.01
TARGETS = {  # a chain's least ratio to the eager loop of the same precision and layout
    (32, "tf32"): 3.0,
    (32, "bf16"): 3.0,
    (64, "tf32"): 1.2,
    (64, "bf16"): 1.2,
}
TOLERANCE = {"fp32": 1e-3, "tf32": 2e-2, "bf16": 5e-2}  # of the distance that the state moves
_LEAST_SECONDS = 20.0  # no figure is begun with less of the budget left


def main(out_json: Path, budget: float) -> int:
    """Measures what `out_json` lacks. Returns 0 where every figure is there and no contender failed, else 1."""
    deadline = time.monotonic() + budget
    done: dict[str, list[Row]] = json.loads(out_json.read_text()) if out_json.exists() else {}
    for name, measure in FIGURES.items():
        if name in done and not failures(done[name]):
            continue
        if deadline - time.monotonic() < _LEAST_SECONDS:
            print(f"{name}: not begun, the budget of {budget:.0f} s is spent", flush=True)
            continue
        started = time.monotonic()
        try:
            done[name] = measure()
        except Exception as error:  # one figure that fails must not cost the others
            done[name] = [failed(name, f"{type(error).__name__}: {error}")]
        write_json(out_json, done)
        print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)
        for row in done[name]:
            print(f"    {text(row)}", flush=True)
    return int(set(done) < set(FIGURES) or any(map(failures, done.values())))


def write_json(path: Path, content: object) -> None:
    """In one step: a kill leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def failures(rows: list[Row]) -> list[str]:
    return [f"{row['what']}: {row['failure']}" for row in rows if row.get("failure")]


def failed(what: str, why: str) -> Row:
    return {"what": what, "failure": why.strip().splitlines()[0][:300]}


def text(row: Row) -> str:
    """A row in one line."""
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


def spread(values: list[float]) -> tuple[float, tuple[float, float]]:
    """The median and the quartiles."""
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return statistics.median(ordered), (ordered[quarter], ordered[-1 - quarter])


def times(contenders: dict[str, Call], rounds: int, calls: int = 1, warmup: int = 3) -> dict[str, list[float]]:
    """Seconds a call of each contender, round by round, all taking turns."""
    for call in contenders.values():
        for _ in range(warmup):
            call()
    torch.cuda.synchronize()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(calls):
                call()
            end.record()
            end.synchronize()
            seconds[name].append(begin.elapsed_time(end) / 1000 / calls)
    return seconds


def captured(call: Call, n: int) -> Call:
    """n calls as one CUDA graph; returns its replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(n):
            call()
    return graph.replay


def floor() -> list[Row]:
    """What one launch costs at the least: an add to one element, from Python and inside a graph."""
    x = torch.zeros(1, device="cuda")
    n = 500
    seconds = times({"python": lambda: x.add_(1.0), "graph": captured(lambda: x.add_(1.0), n)}, rounds=25, calls=20)
    rows = []
    for name, per_call, what in (("python", 1, "one launch from Python"), ("graph", n, "one launch inside a graph")):
        value, quartiles = spread([s / per_call * 1e6 for s in seconds[name]])
        rows.append({"what": f"floor: {what}", "value": value, "unit": "µs", "quartiles": quartiles})
    return rows


def update(n: int) -> list[Row]:
    """One update of n float32 elements by each backend, as a share of a device-to-device copy's bandwidth."""
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
    fl.langevin_update_(x, score, 0.0, NOISE, seed=1, step=1, backend=backend)


def _updates(n: int) -> tuple[dict[str, Tensor], Tensor, list[Row]]:
    """The backends that give the reference's bits, each with a state of its own; the score; rows of the others."""
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
        except Exception as error:  # a backend that is missing or broken must not cost the other its figure
            failing.append(failed(f"update of {n:,}, {name}", f"{type(error).__name__}: {error}"))
    return states, score, failing


class Problem:
    """A network and x0 in a precision and its usual layout: contiguous for fp32, else channels_last."""

    def __init__(self, features: int, precision: str, image_size: int = 32, batch: int = BATCH) -> None:
        torch.manual_seed(0)
        layout = torch.contiguous_format if precision == "fp32" else torch.channels_last
        self.precision = precision
        self.net: nn.Module = fl.models.ConvNet(image_size, 3, features).cuda().to(memory_format=layout)
        shape = (batch, 3, image_size, image_size)
        self.x0 = torch.empty(shape, device="cuda").uniform_(-1, 1).contiguous(memory_format=layout)

    def eager(self, n_steps: int = N_STEPS, noise: float = NOISE) -> Tensor:
        """The loop that one writes by hand."""
        x = self.x0.clone()
        with _as_by_hand(self.precision):
            for _ in range(n_steps):
                x.requires_grad_()
                (gradient,) = torch.autograd.grad(self.net(x).sum(), x)
                x = x.detach().add_(gradient)
                if noise:
                    x.add_(torch.randn_like(x), alpha=noise)
        return x

    def sampler(self, n_steps: int = N_STEPS, noise: float = NOISE) -> fl.Langevin:
        return fl.Langevin(
            log_density=self.net,
            n_steps=n_steps,
            step_size=1.0,
            noise_std=noise,
            precision=self.precision,
            graph=True,
            engine="autograd",
            seed=1,
        )

    def disagreement(self) -> str | None:
        """Why sampler and loop do not compute the same without noise over three steps, or None."""
        expected, got = self.eager(3, 0.0), self.sampler(3, 0.0)(self.x0)
        moved = (expected - self.x0).abs().max().item()
        apart = (expected - got).abs().max().item()
        if not apart <= TOLERANCE[self.precision] * moved:  # not: NaN too
            return f"without noise, 3 steps are {apart:.2g} away from the eager loop's, which move by {moved:.2g}"
        return None


@contextlib.contextmanager
def _as_by_hand(precision: str) -> Iterator[None]:
    """Autocast as its users have it, weight cache included; for float32 the flags that the sampler sets."""
    with contextlib.ExitStack() as stack:
        if precision == "bf16":
            stack.enter_context(torch.autocast("cuda", torch.bfloat16))
        else:
            stack.enter_context(precisions.running(precision, torch.device("cuda")))
        yield


def chain(features: int) -> list[Row]:
    """K = 100 steps of the paper's network, 64 chains of 32×32: the sampler by its graph, and the eager loops."""
    calls: dict[str, Call] = {}
    rows, plans = [], {}
    for precision in PRECISIONS:
        problem = Problem(features, precision)
        calls[f"eager {precision}"] = problem.eager
        try:
            why = problem.disagreement()
            if why:
                raise AssertionError(why)
            sampler = problem.sampler()
            sampler(problem.x0)
            sampler.check()
            plans[precision] = sampler.plan_for(problem.x0.device)
            calls[f"graph {precision}"] = functools.partial(sampler, problem.x0)
        except Exception as error:  # the eager loops are worth their time all the same
            rows.append(failed(f"chain n_f={features} {precision}, graph", f"{type(error).__name__}: {error}"))
    seconds = times(calls, rounds=15, warmup=2)
    for name, values in seconds.items():
        kind, precision = name.split()
        value, quartiles = spread([s * 1e3 for s in values])
        row: Row = {"what": f"chain n_f={features} {precision}, {kind}", "value": value, "unit": "ms"}
        row["quartiles"] = quartiles
        if kind == "graph":
            row |= _ratio(seconds[f"eager {precision}"], values, f"eager {precision}")
            row["plan"] = str(plans[precision])
            if (features, precision) in TARGETS:
                row["wanted"] = f"{TARGETS[features, precision]}×"
        rows.append(row)
    if "graph tf32" in seconds:
        value, quartiles = spread([s * 1e3 for s in seconds["graph tf32"]])
        row = {"what": f"chain n_f={features} tf32 beside the paper's", "value": value, "unit": "ms"}
        row |= {"quartiles": quartiles} | _ratio(seconds["eager fp32"], seconds["graph tf32"], "eager fp32")
        rows.append(row | ({"wanted": "2.5×"} if features == 64 else {}))
    return rows


def _ratio(baseline: list[float], ours: list[float], name: str) -> Row:
    ratio, quartiles = spread([b / o for b, o in zip(baseline, ours, strict=True)])
    return {"ratio": ratio, "ratio_quartiles": quartiles, "ratio_to": name}


def memory(features: int) -> list[Row]:
    """Peak memory of the eager loop and of the graph, network and state included."""
    rows: list[Row] = []
    for precision in PRECISIONS:
        peaks = {}
        for kind in ("eager", "graph"):
            with _peak() as peak:
                problem = Problem(features, precision)
                call = problem.eager if kind == "eager" else functools.partial(problem.sampler(), problem.x0)
                for _ in range(3):
                    call()
                torch.cuda.synchronize()
                del problem, call
            peaks[kind] = peak
        for measure in ("allocated", "reserved"):
            row: Row = {"what": f"memory n_f={features} {precision}, {measure}", "unit": "MiB"}
            row |= {"value": peaks["graph"][measure] / 2**20, "ratio_to": "eager's", "wanted": "1.3× or less"}
            rows.append(row | {"ratio": peaks["graph"][measure] / peaks["eager"][measure]})
    return rows


@contextlib.contextmanager
def _peak() -> Iterator[dict[str, int]]:
    """Bytes that the body had allocated and reserved at its peak, beyond what there was before it."""
    _collect()
    before = {"allocated": torch.cuda.memory_allocated(), "reserved": torch.cuda.memory_reserved()}
    torch.cuda.reset_peak_memory_stats()
    peak: dict[str, int] = {}
    yield peak
    peak["allocated"] = torch.cuda.max_memory_allocated() - before["allocated"]
    peak["reserved"] = torch.cuda.max_memory_reserved() - before["reserved"]


def growth(n_calls: int = 1000) -> list[Row]:
    """What 1,000 calls of one sampler add to the memory in use."""
    problem = Problem(8, "fp32", image_size=8, batch=8)
    sampler = problem.sampler(n_steps=10)
    for _ in range(20):
        sampler(problem.x0)
    _collect()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for _ in range(n_calls):
        sampler(problem.x0)
    sampler.check()
    _collect()
    grown = max(torch.cuda.memory_allocated() - before[0], torch.cuda.memory_reserved() - before[1])
    row: Row = {"what": f"memory grown over {n_calls:,} calls", "value": grown, "unit": "bytes", "wanted": "0"}
    return [row | ({"failure": f"{grown:,} bytes more are held than before"} if grown > 0 else {})]


def _collect() -> None:
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()


FIGURES: dict[str, Callable[[], list[Row]]] = {
    "floor": floor,
    **{f"update-{n}": functools.partial(update, n) for n in SIZES},
    "update-in-graph": update_in_graph,
    "chain-64": functools.partial(chain, 64),
    "chain-32": functools.partial(chain, 32),
    "memory-64": functools.partial(memory, 64),
    "memory-32": functools.partial(memory, 32),
    "growth": growth,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_json", type=Path)
    parser.add_argument("--budget", type=float, default=300.0, help="seconds; no figure is begun after them")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"gpu_figures.py needs an NVIDIA GPU, and torch {torch.__version__} sees none")
    sys.exit(main(arguments.out_json, arguments.budget))
