"""Interleaved rounds, ratios of paired rounds, and the peak memory of a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import comparison
import timing
from contenders import BASELINE, OURS

ROOT = Path(__file__).parents[2]


def test_ratios_are_of_paired_rounds():
    seconds = {BASELINE: [2.0, 4.0, 6.0, 8.0], "peer": [1.0, 1.0, 2.0, 2.0], OURS: [0.5, 0.5, 0.5, 0.5]}
    rows = comparison.timed_rows(seconds, lambda name: (0.1, "the floor"))
    assert [row["contender"] for row in rows] == list(seconds)
    assert [row["ratio"] for row in rows] == [1.0, 3.5, 10.0] and rows[1]["ratio_quartiles"] == (3.0, 4.0)
    assert rows[2]["of_floor"] == 0.2 and rows[2]["floor"] == "the floor"
    assert "of_floor" not in rows[0] and "of_floor" not in rows[1]


def test_contenders_alternate():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = timing.in_turns(calls, 3)
    assert "".join(order) == "abcabcabc" and {name: len(s) for name, s in seconds.items()} == dict.fromkeys("abc", 3)


def test_peak_memory_is_that_of_the_process():
    """Not that of the parent process."""
    child = "import first_call; print(first_call.peak())"
    start = f"subprocess.check_output([sys.executable, '-c', {child!r}])"
    parent = f"import subprocess, sys; held = b'1' * 300_000_000; print(int({start}))"
    command = [sys.executable, "-c", parent]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True)
    assert 1_000_000 < int(done.stdout) < 200_000_000


def test_short_calls_are_made_once_before():
    made = []
    timing.settle(lambda: made.append("short"), 0.001)
    timing.settle(lambda: made.append("long"), 1.0)
    assert made == ["short"]
