"""The line that says how long a training takes."""

from __future__ import annotations

import pytest
from support.training_runs import SMALL

import fastlangevin as fl
from fastlangevin.training import estimate

RECIPE = " Small images train in half an hour with --recipe small (in Python: **fastlangevin.recipes.small)."
HINT = " Fewer --iterations or --steps, or a smaller --batch-size, shorten any run. Ctrl-C stops it and saves"


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(estimate.time, "monotonic", lambda: now[0])
    return now


def lines(
    clock, first: int, last: int, seconds: float, on_cpu: bool = True, of_the_first: float = 9.9, n_steps: int = 100
) -> dict[int, str]:
    """The lines by iteration."""
    timed, found = estimate.Estimate(first, last, n_steps, on_cpu), {}
    clock[0] += 1000.0  # for the first checkpoint and its picture
    timed.begin()
    for iteration in range(first + 1, min(last, first + 30) + 1):
        clock[0] += of_the_first if iteration == first + 1 else seconds
        if line := timed.after(iteration):
            found[iteration] = line
    return found


def test_once_and_without_the_first_iteration(clock):
    assert lines(clock, 0, 104, 0.5) == {4: "about 50 s for the other 100 iterations, 0.5 s each"}
    assert list(lines(clock, 50, 150, 0.5)) == [54]
    assert lines(clock, 0, 19, 0.5) == {}


def test_slow_iterations_are_not_waited_for(clock):
    assert list(lines(clock, 0, 104, 3.2)) == [4] and list(lines(clock, 0, 104, 5.0)) == [3]
    assert lines(clock, 0, 102, 60.0, of_the_first=30.0) == {
        1: "about 50 min for the other 101 iterations, 30 s each, if all take as long as the first",
        2: "about 100 min for the other 100 iterations, 60 s each: that is long without a GPU." + HINT,
    }
    both = lines(clock, 0, 102, 60.0, of_the_first=120.0)
    assert both[1].endswith(HINT) and both[2] == "about 100 min for the other 100 iterations, 60 s each"


def test_no_second_line_after_a_rollback(clock):
    timed = estimate.Estimate(0, 100, 100, True)
    assert sum(timed.after(iteration) is not None for _ in range(2) for iteration in range(1, 9)) == 1


def test_a_long_training_without_a_gpu(clock):
    (line,) = lines(clock, 0, 70_002, 15.0).values()
    assert line.startswith("about 12 days 4 h for the other 70,000 iterations, 15 s each: that is long without a GPU")
    assert line.endswith(RECIPE + HINT)
    assert "recipe" not in lines(clock, 0, 70_002, 15.0, on_cpu=False)[2]
    assert "recipe" not in lines(clock, 0, 7_004, 0.5)[4]


def test_the_recipe_is_not_named_to_those_who_use_it(clock):
    small = fl.recipes.small
    n_iterations, n_steps = small["n_iterations"], small["sampler"]["n_steps"]
    for last, steps in ((n_iterations, n_steps), (n_iterations + 1, n_steps), (n_iterations, n_steps + 1)):
        (line,) = lines(clock, 0, last, 8.0, n_steps=steps).values()
        assert line.endswith("." + HINT) and (RECIPE in line) == (last * steps > n_iterations * n_steps)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119, "119 s"), (121, "2 min"), (7_000, "117 min"), (12_000, "3 h 20 min"), (1e6, "11 days 14 h")],
)
def test_durations(seconds, text):
    assert estimate.duration(seconds) == text


def test_training_prints_it(capsys):
    fl.train("digits", n_iterations=25, **{**SMALL, "progress": True})
    assert capsys.readouterr().out.count("for the other 21 iterations") == 1
