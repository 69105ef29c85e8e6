"""Writes the metrics of a training to the folder of its run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from ..display.plots import has_plots
from .folder import RunFolder


class MetricsLog:
    """Writes rows to metrics.jsonl and, with the extra "plots", to TensorBoard. Without a run it only stores them.

    A TensorBoard that does not work costs its events, and one line of `say`.
    """

    def __init__(
        self, run: RunFolder | None, history: list[dict[str, Any]], first: int, say: Callable[[str], None]
    ) -> None:
        self.history = history
        self._file = None if run is None else run.metrics.open("a", encoding="utf-8", buffering=1)
        self._run, self._first, self._say = run, first, say
        self._board: Any = None
        self._has_board = run is not None and has_plots()

    def write(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        if self._file:
            self._file.write(json.dumps(row) + "\n")
        with self._without_a_broken_board():
            self._add_to_board(row)

    def close(self) -> None:
        if self._file:
            self._file.close()
        with self._without_a_broken_board():
            if self._board:
                self._board.close()

    def _add_to_board(self, row: dict[str, Any]) -> None:
        if self._run is None or not self._has_board:
            return
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._run.tensorboard), purge_step=self._first + 1)
        for name, value in row.items():
            if name not in ("iteration", "seconds"):
                self._board.add_scalar(name, value, row["iteration"])

    @contextlib.contextmanager
    def _without_a_broken_board(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # an installation may be broken in any way
            self._board, self._has_board = None, False
            self._say(f"no more events for TensorBoard, which does not work ({type(error).__name__}: {error})")
