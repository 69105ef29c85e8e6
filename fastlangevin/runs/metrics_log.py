"""Writes the metrics of a training to the folder of its run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from ..display.plots import has_plots
from .folder import RunFolder


class MetricsLog:
    """Writes rows to metrics.jsonl and, with the extra "plots", to TensorBoard. Without a run it only stores them.

    A TensorBoard that does not work costs its events, and one line of `say`.
    """

    def __init__(
        self,
        run: RunFolder | None,
        history: list[dict[str, Any]],
        first: int,
        settings: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self.history = history
        self._file = None if run is None else run.metrics.open("a", encoding="utf-8", buffering=1)
        self._run, self._first, self._settings, self._say = run, first, settings, say
        self._board: Any = None
        self._has_board = run is not None and has_plots()

    def write(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        if self._file:
            self._file.write(json.dumps(row) + "\n")
        with self._without_a_broken_board():
            if board := self._opened_board():
                for name, value in row.items():
                    if name not in ("iteration", "seconds"):
                        board.add_scalar(name, value, row["iteration"])

    def add_picture(self, iteration: int) -> None:
        """Adds samples.png, if there is one, to TensorBoard."""
        if self._run is None or not self._run.samples.exists():
            return
        with self._without_a_broken_board():
            if board := self._opened_board():
                with Image.open(self._run.samples) as picture:
                    board.add_image("samples", np.asarray(picture.convert("RGB")), iteration, dataformats="HWC")

    def close(self) -> None:
        if self._file:
            self._file.close()
        with self._without_a_broken_board():
            if self._board:
                self._board.close()

    def _opened_board(self) -> Any:
        """The writer of TensorBoard, whose first event is the settings; None without TensorBoard or a run."""
        if self._run is not None and self._board is None and self._has_board:
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams

            self._board = SummaryWriter(str(self._run.tensorboard), purge_step=self._first + 1)
            for event in hparams(_flat(self._settings), {"energy_gap": None}):
                self._board.file_writer.add_summary(event)
        return self._board

    @contextlib.contextmanager
    def _without_a_broken_board(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # an installation may be broken in any way
            self._board, self._has_board = None, False
            self._say(f"no more events for TensorBoard, which does not work ({type(error).__name__}: {error})")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | str | float]:
    """Settings as numbers and strings, an option of a setting as "setting.option"."""
    flat: dict[str, bool | str | float] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
