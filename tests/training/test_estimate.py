"""The line that says how long a training takes."""

from __future__ import annotations

import pytest
from support.training_runs import SMALL

import fastlangevin as fl
from fastlangevin.training import estimate


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(estimate.time, "monotonic", lambda: now[0])
    return now


def lines(clock, first: int, last: int, seconds: float, on_cpu: bool = True) -> dict[int, str]:
    """The lines by iteration, where the first iteration takes 100 times as long as others."""
    timed, found = estimate.Estimate(first, last, on_cpu), {}
    for iteration in range(first + 1, min(last, first + 30) + 1):
        clock[0] += 100 * seconds if iteration == first + 1 else seconds
        if line := timed.after(iteration):
            found[iteration] = line
    return found


def test_once_and_without_the_first_iteration(clock):
    assert lines(clock, 0, 104, 0.5) == {4: "about 50 s for the other 100 iterations, 0.5 s each"}
    assert list(lines(clock, 50, 150, 0.5)) == [54]
    assert lines(clock, 0, 19, 0.5) == {}


def test_no_second_line_after_a_rollback(clock):
    timed = estimate.Estimate(0, 100, True)
    assert sum(timed.after(iteration) is not None for _ in range(2) for iteration in range(1, 9)) == 1


def test_a_long_training_without_a_gpu(clock):
    (line,) = lines(clock, 0, 70_004, 15.0).values()
    assert line.startswith("about 12 days 4 h for the other 70,000 iterations, 15 s each: that is long without a GPU")
    assert "--recipe small" in line and "--iterations" in line
    assert "recipe" not in lines(clock, 0, 70_004, 15.0, on_cpu=False)[4]
    assert "recipe" not in lines(clock, 0, 7_004, 0.5)[4]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119, "119 s"), (121, "2 min"), (7_000, "117 min"), (12_000, "3 h 20 min"), (1e6, "11 days 14 h")],
)
def test_durations(seconds, text):
    assert estimate.duration(seconds) == text


def test_training_prints_it(capsys):
    fl.train("digits", n_iterations=25, **{**SMALL, "progress": True})
    assert capsys.readouterr().out.count("for the other 21 iterations") == 1
