"""Interleaved comparisons: every round runs the baseline, then ours, so that both meet the same moments."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from fastlangevin import kernels
from fastlangevin.kernels import native

_rows: list[tuple[str, str, float, float, float, float]] = []
_missing: list[str] = []


@dataclass
class Comparison:
    """Benchmarks `ours` through pytest-benchmark with the named peers timed, in turn, before each of its rounds."""

    benchmark: object
    name: str

    def __call__(
        self,
        ours: Callable[[], object],
        peers: dict[str, Callable[[], object]],
        rounds: int,
        missing: dict[str, str | None] | None = None,
    ) -> None:
        """`missing` says why a peer is not there: a row of its own, instead of none."""
        times: dict[str, list[float]] = {name: [] for name in peers}

        def run_peers() -> None:
            for name, peer in peers.items():
                start = time.perf_counter()
                peer()
                times[name].append(time.perf_counter() - start)

        self.benchmark.pedantic(ours, setup=run_peers, rounds=rounds, warmup_rounds=3, iterations=1)
        ours_times = self.benchmark.stats.stats.data
        for name, peer_times in times.items():
            ratios = sorted(b / o for b, o in zip(peer_times[-rounds:], ours_times, strict=True))
            quarter = len(ratios) // 4
            low, ratio, high = ratios[quarter], statistics.median(ratios), ratios[-1 - quarter]
            self.benchmark.extra_info[name] = {
                "median_s": statistics.median(peer_times[-rounds:]),
                "ratio": ratio,
                "ratio_quartiles": (low, high),
            }
            _rows.append((self.name, name, statistics.median(ours_times), ratio, low, high))
        for name, why in (missing or {}).items():
            if why is not None:
                self.benchmark.extra_info[name] = why
                _missing.append(f"{self.name:44} {name}: {why}")


@pytest.fixture(autouse=True)
def fresh_compiler():
    """torch.compile gives up on a function after eight networks."""
    torch.compiler.reset()


@pytest.fixture
def compare(benchmark, request):
    return Comparison(benchmark, request.node.name)


def pytest_terminal_summary(terminalreporter):
    if not _rows:
        return
    terminalreporter.section("ratio to the baseline of the same run (median of paired rounds, quartiles)")
    for name, baseline, ours, ratio, low, high in _rows:
        terminalreporter.write_line(
            f"{name:44} {ours * 1e6:12.1f} µs  {ratio:6.2f}×  [{low:.2f}, {high:.2f}]  of {baseline}"
        )
    for line in _missing:
        terminalreporter.write_line(line)


def pytest_benchmark_update_machine_info(config, machine_info):
    why = kernels.BACKENDS["cpu"].unavailable()
    machine_info["fastlangevin"] = {
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "processor": platform.processor(),
        "cpu_kernels": native.cpu_capability() if why is None else why,
    }
