"""The fixture that times the contenders of one work, and the machine information that is stored with the results."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comparison
import processor
import pytest
import rooflines
import torch
from comparison import Floor, Row
from contenders import OURS
from timing import Call, once, one_round, rounds_for, settle, synchronise

from fastlangevin import kernels
from fastlangevin.kernels import native

BUDGET, LEAST_ROUNDS, MOST_ROUNDS = 12.0, 5, 31  # seconds per work, for all contenders together
_PACKAGES = ("torch", "triton", "numpy", "jax", "jaxlib", "torchebm", "ebmkit", "posteriors", "blackjax")

_tables: list[tuple[str, list[str]]] = []  # titles, and rows as lines of text


@dataclass
class Comparison:
    """Times fastlangevin with pytest-benchmark, and the other contenders before each of its rounds."""

    benchmark: Any

    def __call__(
        self,
        kind: str,
        title: str,
        calls: Mapping[str, Call],
        rows: list[Row],
        floor: Floor,
        most_rounds: int = MOST_ROUNDS,
        **more: Any,
    ) -> None:
        """Records the given rows, one row for each call, and `more`."""
        if OURS not in calls:
            pytest.fail(f"{title}: {[row for row in rows if row['contender'] == OURS]}")
        before = one_round(calls)
        rounds = rounds_for(before, BUDGET, LEAST_ROUNDS, most_rounds)
        seconds: dict[str, list[float]] = {name: [] for name in calls}

        def others() -> None:
            for name, call in calls.items():
                if name != OURS:
                    settle(call, before[name])
                    seconds[name].append(once(call))
            settle(calls[OURS], before[OURS])

        def ours() -> None:
            calls[OURS]()
            synchronise()

        load = os.getloadavg()[0]
        self.benchmark.pedantic(ours, setup=others, rounds=rounds, iterations=1)
        seconds[OURS] = list(self.benchmark.stats.stats.data)
        self.record(kind, title, comparison.timed_rows(seconds, floor) + rows, load=load, **more)

    def record(
        self, kind: str, title: str, rows: list[Row], text: Callable[[Row], str] = comparison.text, **more: Any
    ) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.benchmark.extra_info.update(kind=kind, title=title, device=device, rows=rows, **more)
        _tables.append((title, [text(row) for row in rows]))


@pytest.fixture
def compare(benchmark):
    return Comparison(benchmark)


def pytest_terminal_summary(terminalreporter):
    for title, lines in _tables:
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


def pytest_benchmark_update_machine_info(config, machine_info):
    why = kernels.BACKENDS["cpu"].unsupported()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate, what = rooflines.multiply_adds(device, "fp32")
    machine_info["fastlangevin"] = {
        "torch": torch.__version__,
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg(),
        "processor": processor.name(),
        "cpu_kernels": native.cpu_capability() if why is None else why,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "driver": _line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "revision": _line("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "rooflines": {
            "copy, bytes per second": rooflines.copy_bandwidth(device),
            f"{what} per second": rate,
            "bf16 matrix product, multiply-adds per second": rooflines.matrix_product(device, "bf16"),
        },
    }


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Drops what committed results do not need: single rounds, the processor's flags, the host's name."""
    for entry in output_json["benchmarks"]:
        entry["stats"].pop("data", None)
    output_json["machine_info"].get("cpu", {}).pop("flags", None)
    output_json["machine_info"].pop("node", None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
