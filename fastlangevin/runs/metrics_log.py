"""Writes the metrics of a training to the folder of its run."""

from __future__ import annotations

import json
from typing import Any

from ..display.plots import has_plots
from .folder import RunFolder


class MetricsLog:
    """Writes rows to metrics.jsonl and, with the extra "plots", to TensorBoard. Without a run it only stores them."""

    def __init__(self, run: RunFolder | None, history: list[dict[str, Any]], first: int) -> None:
        self.history = history
        self._file = None if run is None else run.metrics.open("a", buffering=1)
        self._run, self._first = run, first
        self._board: Any = None

    def write(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        if self._run is not None and self._board is None and has_plots():
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._run.tensorboard), purge_step=self._first + 1)
        if self._file:
            self._file.write(json.dumps(row) + "\n")
        if self._board:
            for name, value in row.items():
                if name not in ("iteration", "seconds"):
                    self._board.add_scalar(name, value, row["iteration"])

    def close(self) -> None:
        if self._file:
            self._file.close()
        if self._board:
            self._board.close()
