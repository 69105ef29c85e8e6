"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TextIO, TypeVar, cast

import rich.progress
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

_SECONDS_BETWEEN_LINES = 10.0
_WIDE = 72  # columns of a terminal from which on the bar and the energies are shown
_T = TypeVar("_T")


class _Output:
    """Standard output that ends no program.

    Characters that the terminal cannot show are replaced. When it is gone (a closed pipe, a terminal that was hung up)
    the program continues silently.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        with self._silent_if_gone():
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._silent_if_gone():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _silent_if_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def console(show: bool) -> Console:
    """A console of standard output, silent unless `show`."""
    file = None if sys.stdout is None else cast(TextIO, _Output(sys.stdout))
    return Console(file=file, quiet=not show or file is None, highlight=False)


class _WideColumn(ProgressColumn):
    """A column that is left out where the terminal is narrow."""

    def __init__(self, console: Console, column: ProgressColumn, table_column: Column) -> None:
        super().__init__(table_column)
        self._console, self._column = console, column

    def render(self, task: Task) -> RenderableType:
        return self._column.render(task) if self._console.width >= _WIDE else Text()


class Reporter:
    """Shows rows of metrics if `show`: in a bar on a terminal, elsewhere on a line at most every 10 seconds."""

    def __init__(self, n_iterations: int, first: int, n_steps: int, sampler: str, show: bool) -> None:
        self._console = console(show)
        self._n_iterations, self._n_steps, self._sampler = n_iterations, n_steps, sampler
        self._first, self._started, self._last_line = first, time.monotonic(), float("-inf")
        self._bar = None
        if show and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.completed}/{task.total}", table_column=Column(no_wrap=True)),
                _WideColumn(self._console, BarColumn(bar_width=None), Column(ratio=1)),
                TextColumn("{task.fields[rate]}", table_column=Column(no_wrap=True)),
                _WideColumn(self._console, TextColumn("{task.fields[figures]}"), Column(no_wrap=True)),
                TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
                TextColumn("left", table_column=Column(no_wrap=True)),
                console=self._console,
                expand=True,
            )
            self._task = self._bar.add_task("train", total=n_iterations, completed=first, figures="", rate="")

    def __enter__(self) -> Reporter:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def advance(self, iteration: int) -> None:
        if self._bar:
            self._bar.update(self._task, completed=iteration)

    def row(self, row: dict[str, Any]) -> None:
        elapsed = time.monotonic() - self._started
        rate = (row["iteration"] - self._first) / max(elapsed, 1e-9)
        figures = f"gap {row['energy_gap']:+.3f} score {row['score_norm']:.3f}"
        speed = f"{rate:.3g} iterations/s, {rate * self._n_steps:.0f} {self._sampler} steps/s"
        if self._bar:
            self._bar.update(self._task, figures=figures, rate=f"{rate:.3g} it/s")
        elif elapsed - self._last_line >= _SECONDS_BETWEEN_LINES or row["iteration"] == self._n_iterations:
            self._last_line = elapsed
            left = (self._n_iterations - row["iteration"]) / max(rate, 1e-9)
            self.say(f"iteration {row['iteration']}/{self._n_iterations}  {figures}  {speed}  {left:.0f} s left")


class Stages:
    """Shows the stages of an evaluation if `show`: a bar for each on a terminal, elsewhere its name on a line."""

    def __init__(self, show: bool) -> None:
        self._console = console(show)

    def say(self, stage: str) -> None:
        self._console.print(stage, markup=False, soft_wrap=True)

    def track(self, stage: str, items: Iterable[_T], total: int) -> Iterable[_T]:
        """Returns the items, `total` in number, and shows how many have been taken."""
        if self._console.is_terminal and not self._console.quiet:
            return rich.progress.track(items, stage, total=total, console=self._console, transient=True)
        self.say(stage)
        return items
