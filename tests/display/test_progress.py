"""The progress bar on terminals of any width."""

from __future__ import annotations

import functools
import io

import pytest

from fastlangevin.display import progress

ROW = {"iteration": 1234, "energy_gap": 0.25, "score_norm": 1.5}


@pytest.mark.parametrize("width", [40, 60, 100])
def test_the_bar_keeps_iteration_speed_and_time_left(monkeypatch, width):
    screen, console = io.StringIO(), progress._Console
    monkeypatch.setattr(
        progress,
        "_Console",
        lambda file, **o: functools.partial(console, force_terminal=True, width=width)(file=screen, **o),
    )
    reporter = progress.Reporter(70_000, 1230, 100, show=True)
    reporter._started -= 2.0
    with reporter:
        reporter.advance(1234)
        reporter.row(ROW)
        reporter._bar.refresh()
    last = screen.getvalue().replace("\r", "\n").split("\n")[-2]
    assert "1234/70000" in last and "it/s" in last and "left" in last and "…" not in last
    assert ("gap +0.250" in last) == (width == 100)
