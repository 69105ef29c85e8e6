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


@dataclass
class Comparison:
    """Benchmarks `ours` through pytest-benchmark with the named baseline timed before each of its rounds."""

    benchmark: object
    name: str

    def __call__(
        self, ours: Callable[[], object], baseline_name: str, baseline: Callable[[], object], rounds: int
    ) -> None:
        baseline_times: list[float] = []

        def run_baseline() -> None:
            start = time.perf_counter()
            baseline()
            baseline_times.append(time.perf_counter() - start)

        self.benchmark.pedantic(ours, setup=run_baseline, rounds=rounds, warmup_rounds=3, iterations=1)
        ours_times = self.benchmark.stats.stats.data
        ratios = sorted(b / o for b, o in zip(baseline_times[-rounds:], ours_times, strict=True))
        quarter = len(ratios) // 4
        ratio = statistics.median(ratios)
        self.benchmark.extra_info.update(
            baseline=baseline_name,
            baseline_median_s=statistics.median(baseline_times),
            ratio=ratio,
            ratio_quartiles=(ratios[quarter], ratios[-1 - quarter]),
        )
        ours_median = statistics.median(ours_times)
        _rows.append((self.name, baseline_name, ours_median, ratio, ratios[quarter], ratios[-1 - quarter]))


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


def pytest_benchmark_update_machine_info(config, machine_info):
    why = kernels.BACKENDS["cpu"].unavailable()
    machine_info["fastlangevin"] = {
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "processor": platform.processor(),
        "cpu_kernels": native.cpu_capability() if why is None else why,
    }
