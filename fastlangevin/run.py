"""A run's folder: what is in it, and when it may be written to."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from . import checkpoint, pictures


class Run:
    """The files of one training.

    config.yaml      every setting, as it was resolved
    metrics.jsonl    one line a logged iteration
    checkpoints/     the newest few, ITERATION.safetensors
    samples.png      the newest samples (samples.npz where the data are not images)
    training.png     energy gap and score norm over time (with the extra "plots")
    tensorboard/     the same and more for TensorBoard (with the extra "plots")
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.metrics = folder / "metrics.jsonl"
        self.checkpoints = folder / "checkpoints"
        self.samples = folder / "samples.png"
        self.samples_array = folder / "samples.npz"
        self.training = folder / "training.png"
        self.tensorboard = folder / "tensorboard"

    def _files(self) -> list[Path]:
        return [
            *(self.config, self.metrics, self.checkpoints, self.samples, self.samples_array),
            *(self.training, self.tensorboard),
        ]

    def exists(self) -> bool:
        """Whether a run, or a part of one, is here already."""
        return any(path.exists() for path in self._files())

    def prepare(self, *, resume: bool, overwrite: bool) -> None:
        """Makes the folder ready, or refuses to touch another run in it.

        Raises:
            FileExistsError: a run is here and neither `resume` nor `overwrite` was said.
            NotADirectoryError: a file of this name is in the way.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"out must be a folder, and {self.folder} is a file")
        if self.exists() and not resume:
            if not overwrite:
                raise FileExistsError(
                    f"out={str(self.folder)!r} holds another run: go on with it (resume=True, --resume), replace it "
                    "(overwrite=True, --overwrite), or choose another folder"
                )
            for path in self._files():
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    def write_config(self, config: dict[str, Any]) -> None:
        with checkpoint.replacing(self.config) as temporary:
            temporary.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def read_config(self) -> dict[str, Any]:
        return yaml.safe_load(self.config.read_text())

    def forget_after(self, iteration: int) -> list[dict[str, Any]]:
        """Drops the metrics of later iterations, which a resumed run makes anew; returns those that stay."""
        if not self.metrics.exists():
            return []
        rows = []
        for line in self.metrics.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # the last line of a run that was killed while it wrote
                break
        rows = [row for row in rows if row["iteration"] <= iteration]
        with checkpoint.replacing(self.metrics) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return rows

    def write_samples(self, x: Tensor) -> Path:
        """The picture, or for data that are not images the array; returns its path."""
        if x.dim() == 4 and x.shape[1] in (1, 3):
            pictures.save_grid(x, self.samples)
            return self.samples
        save_array(x, self.samples_array)
        return self.samples_array


def save_array(x: Tensor, path: Path) -> None:
    """Samples as an .npz file with one array, "samples"."""
    import numpy as np

    with checkpoint.replacing(path) as temporary:
        np.savez_compressed(temporary, samples=x.detach().cpu().float().numpy())


def has_plots() -> bool:
    """Whether the extra "plots" is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("matplotlib", "tensorboard"))
