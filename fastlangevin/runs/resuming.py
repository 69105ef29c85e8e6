"""What a training continues from: the settings of a resume, and of a new run that starts from an old state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..data.dataset import Data
from . import checkpoint, config, training_checkpoint
from .folder import RunFolder
from .resolution import changed, resolve
from .settings import DECLARATIONS, Settings
from .training_checkpoint import TrainingCheckpoint


def find(from_checkpoint: str | Path) -> TrainingCheckpoint:
    """The checkpoint of that name, or the newest one of a run's folder.

    Raises:
        FileNotFoundError, CheckpointError: no such checkpoint, or it cannot be read.
    """
    path = Path(from_checkpoint)
    if path.is_dir():
        newest = checkpoint.newest(RunFolder(path).checkpoints)
        if newest is None:
            raise FileNotFoundError(f"from_checkpoint={str(from_checkpoint)!r} holds no checkpoint")
        path = newest
    return training_checkpoint.load(path)


def settings_from(
    origin: TrainingCheckpoint, overrides: Mapping[str, Any], data: Data, model: nn.Module | None
) -> Settings:
    """Returns the settings of a new run that starts from the state `origin`, whose settings are the defaults."""
    saved = origin.settings
    defaults = {name: getattr(saved, name) for name in DECLARATIONS}
    settings = resolve(overrides, defaults, data, model, None)
    if settings.model != saved.model:
        raise ValueError(f"from_checkpoint needs the model of {origin.path}, {saved.model}, got {settings.model}")
    return settings.with_origin(str(origin.path))


def settings_of_resume(
    run: RunFolder,
    stored: TrainingCheckpoint,
    overrides: Mapping[str, Any],
    resume_overrides: Mapping[str, Any] | str | None,
    data: Data,
    model: nn.Module | None,
) -> tuple[Settings, list[str]]:
    """Returns the settings of a resume, and lines that say how it differs from a run without interruption.

    Raises:
        ValueError, TypeError: as for `resolve` and `changed`, or config.yaml was edited and the caller did not ask for
            the edited settings.
    """
    saved = stored.settings
    settings = resolve(overrides, {}, data, model, saved)
    edited, notes = config.edits(run.config, saved), []
    if edited is None:
        notes.append(f"{run.config} was missing or empty, and is restored from {stored.path.name}")
    if resume_overrides == config.NAME:
        settings = changed(settings, edited or {}, stored.iteration)
    elif isinstance(resume_overrides, Mapping) or resume_overrides is None:
        config.refuse(run.config, edited or {}, saved)
        settings = changed(settings, resume_overrides or {}, stored.iteration)
    else:
        raise TypeError(f"resume_overrides must be a dict of settings or {config.NAME!r}, got {resume_overrides!r}")
    if len(settings.changes) > len(saved.changes):
        record = settings.changes[-1]
        notes += [
            f"{name} is {value!r} from iteration {stored.iteration + 1} on, {record['before'][name]!r} before"
            for name, value in record["after"].items()
        ]
    if settings.n_iterations != saved.n_iterations and settings.lr_decay:
        notes.append(
            f"n_iterations is {settings.n_iterations} now and {saved.n_iterations} in the run: lr falls over the last "
            f"{settings.lr_decay:.0%} of all iterations, so its schedule differs from the one that the run started with"
        )
    return settings, notes
