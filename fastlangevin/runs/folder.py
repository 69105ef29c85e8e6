"""The folder of a run: its files, and when they may be written."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from torch import Tensor

from ..data.ranges import Range
from ..display import pictures
from ..files import replacing, temporary_pattern
from . import checkpoint, config


class RunFolder:
    """The files of one training.

    config.yaml      every setting, resolved
    metrics.jsonl    one line per logged iteration
    rollbacks.jsonl  one line per rollback, if there was one
    checkpoints/     the newest checkpoints, ITERATION.safetensors
    samples.png      the newest samples, above a row of the data (samples.npz if the data are not images)
    training.png     energy gap, score norm, gradient strength and lr over time (with the extra "plots")
    tensorboard/     the same and more for TensorBoard (with the extra "plots")
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / config.NAME
        self.metrics = folder / "metrics.jsonl"
        self.rollbacks = folder / "rollbacks.jsonl"
        self.checkpoints = folder / "checkpoints"
        self.samples = folder / "samples.png"
        self.samples_array = folder / "samples.npz"
        self.training = folder / "training.png"
        self.tensorboard = folder / "tensorboard"
        self._starter = folder / ".started_by"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder against other trainings. It is created if it does not exist.

        Raises:
            BlockingIOError: another process or thread is training in it.
            NotADirectoryError: it is a file.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"out must be a folder, but {self.folder} is a file")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(self.folder / ".lock", blocking=False, is_singleton=False):
                yield
        except filelock.Timeout:
            raise self._in_use("another process is training in it") from None

    @contextlib.contextmanager
    def created(self) -> Iterator[None]:
        """Creates and locks the folder of a new run. Another process may have created it since the caller looked.

        Raises:
            BlockingIOError: another process or thread is training in it, or has done so since.
        """
        with self.locked():
            if self._taken():
                raise self._in_use("another process has started a run in it since this one began")
            yield

    def was_started_by(self, program: str) -> bool:
        """Whether the run was last started by this program, of which `note_starter` was told."""
        return self._starter.is_file() and self._starter.read_text(encoding="utf-8") == program

    def note_starter(self, program: str) -> None:
        self._starter.write_text(program, encoding="utf-8")

    def _in_use(self, why: str) -> BlockingIOError:
        return BlockingIOError(f"out={str(self.folder)!r} is in use: {why}")

    def _taken(self) -> list[str]:
        """The names of a run's files that exist in the folder."""
        return [path.name for path in self._names() if path.exists()]

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Checks that the run may be written to the folder.

        Raises:
            FileExistsError: the folder holds a run and neither `resume` nor `overwrite` is set, or it holds files with
                the names of a run's files that do not belong to a run.
        """
        taken = self._taken()
        if not taken:
            return
        if not self._is_ours():
            raise FileExistsError(
                f"out={str(self.folder)!r} holds files that do not belong to a run ({', '.join(taken)}): choose "
                "another folder"
            )
        if not (resume or overwrite):
            raise FileExistsError(
                f"out={str(self.folder)!r} holds another run: continue it (resume=True, --resume), replace it "
                "(overwrite=True, --overwrite), or choose another folder"
            )

    def prepare(self, settings: dict[str, Any], *, overwrite: bool) -> None:
        """Writes the settings. `overwrite` removes the files of the old run and no others.

        The settings are written first, so that the run can be resumed or replaced if the process is killed.
        """
        config.write(self.config, settings)
        if overwrite:
            for path in self._own_files():
                path.unlink()
        for path in self._left_behind():
            path.unlink(missing_ok=True)
        self.checkpoints.mkdir(exist_ok=True)

    def forget_after(self, iteration: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
        """Removes the metrics of later iterations, which a resumed run computes again. Returns the others.

        Damaged lines are removed, and named by `say`. The last line may be half a line of a run that was killed.
        """
        if not self.metrics.exists():
            return []
        rows, damaged = [], []
        *lines, last = self.metrics.read_bytes().split(b"\n")
        for number, line in enumerate([*lines, last], 1):
            row = _row(line)
            if row is not None and row["iteration"] <= iteration:
                rows.append(row)
            elif row is None and number <= len(lines):
                damaged.append(str(number))
        if damaged:
            plural = "s" if len(damaged) > 1 else ""
            say(f"{self.metrics}: damaged line{plural} {', '.join(damaged)} left out")
        with replacing(self.metrics) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return rows

    def add_rollback(self, record: dict[str, Any]) -> None:
        with self.rollbacks.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def write_samples(self, x: Tensor, data: Tensor, value_range: Range, columns: int | None = None) -> Path:
        """Writes a picture with a row of data items below, or an array if the data are not images. Returns its path."""
        if pictures.is_drawable(x.shape[1:]):
            drawn = pictures.grid(x, columns, value_range), pictures.grid(data, len(data), value_range)
            pictures.save_captioned([("samples", drawn[0]), ("data", drawn[1])], self.samples)
            return self.samples
        save_array(x, self.samples_array)
        return self.samples_array

    def _names(self) -> list[Path]:
        return [
            *(self.config, self.metrics, self.rollbacks, self.checkpoints, self.samples, self.samples_array),
            *(self.training, self.tensorboard),
        ]

    def _is_ours(self) -> bool:
        """Whether config.yaml is that of a run or, where it was emptied, deleted or damaged, the newest checkpoint."""
        newest = checkpoint.newest(self.checkpoints)
        return config.is_of_a_run(self.config) or (newest is not None and checkpoint.is_ours(newest))

    def _own_files(self) -> list[Path]:
        """All files of a run except config.yaml."""
        files = [self.metrics, self.rollbacks, self.samples, self.samples_array, self.training]
        events = self.tensorboard.glob("events.out.tfevents.*")
        return [path for path in (*checkpoint.all_in(self.checkpoints), *events, *files) if path.is_file()]

    def _left_behind(self) -> list[Path]:
        """Temporary files of `replacing`, left by a process that was killed while writing."""
        patterns = [temporary_pattern(path) for path in self._names() if path.suffix]
        in_folder = [found for pattern in patterns for found in self.folder.glob(pattern)]
        return [*in_folder, *self.checkpoints.glob(temporary_pattern(Path("*.safetensors")))]


def _row(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl, or None if it is damaged."""
    try:
        row = json.loads(line)
        numbers = [row[name] for name in ("iteration", "seconds", "energy_gap", "score_norm")]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return row if isinstance(row["iteration"], int) and all(isinstance(n, (int, float)) for n in numbers) else None


def save_array(x: Tensor, path: Path) -> None:
    """Writes samples to an .npy file, or to an .npz file with one array, "samples"."""
    if path.suffix == ".npz":
        save_arrays(path, samples=x)
        return
    with replacing(path) as temporary:
        np.save(temporary, x.detach().cpu().float().numpy())


def save_arrays(path: Path, **tensors: Tensor) -> None:
    """Writes float32 arrays with these names to an .npz file."""
    arrays = {name: tensor.detach().cpu().float().numpy() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
