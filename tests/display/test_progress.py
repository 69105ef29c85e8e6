"""Progress on terminals of any width, that cannot show every character, or that are gone."""

from __future__ import annotations

import io
import os
import sys

import pytest

from fastlangevin.display import progress

ROW = {"iteration": 1234, "energy_gap": 0.25, "score_norm": 1.5}


class Terminal(io.TextIOWrapper):
    """A terminal, or a file, of some encoding."""

    def __init__(self, encoding, is_terminal):
        super().__init__(io.BytesIO(), encoding=encoding)
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp437"])
def test_characters_that_a_terminal_cannot_show(monkeypatch, encoding, is_terminal):
    monkeypatch.setattr(sys, "stdout", Terminal(encoding, is_terminal))
    reporter = progress.Reporter(2, 0, 10, "Langevin", show=True)
    reporter.say("folder:猫: 5 items of 1×8×8, σ … \udcff")
    with reporter:
        reporter.row({"iteration": 1, "energy_gap": 0.5, "score_norm": 1.0})
        reporter.advance(1)
        reporter.row({"iteration": 2, "energy_gap": 0.5, "score_norm": 1.0})
    stages = progress.Stages(show=True)
    assert list(stages.track("pixels' Fréchet distance", [1, 2], 2)) == [1, 2]
    written = sys.stdout.buffer.getvalue().decode(encoding)
    assert "5 items of 1" in written and "gap +0.500 score 1.000" in written
    assert ("folder:猫: 5 items of 1×8×8, σ …" in written) == (encoding == "utf-8")


def test_without_a_standard_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    reporter = progress.Reporter(2, 0, 10, "Langevin", show=True)
    with reporter:
        reporter.say("nobody reads this")


def test_a_terminal_that_is_gone(monkeypatch):
    """After a hang-up every write is an error; here: after the reader of a pipe has closed it."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        reporter = progress.Reporter(2, 0, 10, "Langevin", show=True)
        for _ in range(3):
            reporter.say("nobody reads this")
        stream.write("nor this")
        stream.flush()


@pytest.mark.parametrize("width", [40, 60, 100])
def test_the_bar_keeps_iteration_speed_and_time_left(monkeypatch, width):
    screen, console = io.StringIO(), progress.Console
    monkeypatch.setattr(
        progress, "Console", lambda file, **o: console(file=screen, force_terminal=True, width=width, **o)
    )
    reporter = progress.Reporter(70_000, 1230, 100, "Langevin", show=True)
    reporter._started -= 2.0
    with reporter:
        reporter.advance(1234)
        reporter.row(ROW)
        reporter._bar.refresh()
    last = screen.getvalue().replace("\r", "\n").split("\n")[-2]
    assert "1234/70000" in last and "it/s" in last and "left" in last and "…" not in last
    assert ("gap +0.250" in last) == (width == 100)
