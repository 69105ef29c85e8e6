"""Opening a run: its newest checkpoint as a model and a sampler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..samplers.langevin import Langevin
from . import checkpoint, checks, training_checkpoint
from .folder import RunFolder
from .settings import Settings


def load(
    run: str | Path,
    *,
    model: nn.Module | None = None,
    sampler: dict[str, Any] | None = None,
    ema: bool | None = None,
    device: str | torch.device = "cpu",
) -> tuple[nn.Module, Langevin]:
    """The model and the sampler of a run's newest checkpoint, the counter where training left it.

    Args:
        run: a run's folder, or one checkpoint file.
        model: of the class that was trained, unless that was `models.ConvNet`; the weights are loaded into it.
        sampler: options of `Langevin` that replace the run's. step_size goes with noise_std: a number, or None for
            sqrt(2·step_size·temperature).
        ema: True for the averaged weights, False for the learned ones; None for the average if there is one.
        device: to load to; "auto" as for `train`.

    Raises:
        FileNotFoundError: no such run, or no checkpoint in it.
        CheckpointError: a damaged checkpoint, or one of another model.
        ValueError: ema=True of a run that kept no average; a step_size without noise_std, or a temperature beside a
            number for noise_std.
    """
    loaded = open_run(run, model=model, sampler=sampler, ema=ema, device=device)
    return loaded.model, loaded.sampler


class OpenedRun(NamedTuple):
    """A run's newest checkpoint, ready to sample from."""

    model: nn.Module
    sampler: Langevin
    settings: Settings


def open_run(
    run: str | Path,
    *,
    model: nn.Module | None = None,
    sampler: dict[str, Any] | None = None,
    ema: bool | None = None,
    device: str | torch.device = "cpu",
) -> OpenedRun:
    """What `load` returns, and the run's settings."""
    path = Path(run)
    if path.is_dir():
        newest = checkpoint.newest(RunFolder(path).checkpoints)
        if newest is None:
            raise FileNotFoundError(f"run={str(run)!r} holds no checkpoint (checkpoints/*.safetensors)")
        path = newest
    if not path.is_file():
        raise FileNotFoundError(f"run={str(run)!r} is neither a run's folder nor a checkpoint file")
    stored = training_checkpoint.load(path)
    settings = stored.settings
    checks.check_sampler_pair(sampler or {}, settings.sampler)
    model = (settings.make_model() if model is None else model).to(resolve_device(device))
    if ema and not settings.ema:
        raise ValueError(f"ema=True needs a run that kept an average of its weights, and run={str(run)!r} kept none")
    stored.load_model(model, "ema.module." if settings.ema and ema is not False else "model.")
    made = make_sampler(model, settings, settings.sample_steps, stored.meta["sampler"], sampler or {})
    return OpenedRun(model, made, settings)


def make_sampler(
    model: nn.Module, settings: Settings, n_steps: int, state: dict[str, int], options: Mapping[str, Any]
) -> Langevin:
    """The run's sampler with another number of steps and other options, its counter as in `state`."""
    sampler = Langevin(log_density=model, seed=0, **settings.langevin_options(**{"n_steps": n_steps, **options}))
    sampler.load_state_dict(state)
    return sampler


def resolve_device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or another of torch's, got {device!r}") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r} needs a CUDA device, and torch {torch.__version__} sees none")
    return resolved
