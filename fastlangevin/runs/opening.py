"""Loads the newest checkpoint of a run as a model and a sampler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..distributed.start import local_device
from ..network.target import note_log_density
from ..samplers.base import Sampler
from . import checkpoint, sampler_options, training_checkpoint
from .folder import RunFolder
from .settings import Settings


def load(
    run: str | Path,
    *,
    model: nn.Module | None = None,
    sampler: dict[str, Any] | None = None,
    ema: bool | None = None,
    device: str | torch.device = "cpu",
) -> tuple[nn.Module, Sampler]:
    """Loads the model and the sampler of a run's newest checkpoint.

    Args:
        run: a run's folder, or a checkpoint file.
        model: an instance of the trained class, into which the weights are loaded. It is required unless that class is
            `models.ConvNet`.
        sampler: options that replace those of the run's sampler. Of `Langevin` step_size must be given with noise_std:
            a number, or None for sqrt(2·step_size·temperature). A "kind" chooses another sampler, as in `train`, with
            those of the run's options that it has, but for step_size.
        ema: True for the averaged weights, False for the learned ones. None: the average if there is one.
        device: of the model; "auto" as for `train`.

    Returns:
        The model, a log-density; and its sampler with `sample_steps` steps, whose noise counter has the value at the
        end of training.

    Raises:
        FileNotFoundError: no such run, or no checkpoint in it.
        CheckpointError: a damaged checkpoint, or one of another model or format.
        ValueError: no model for a run of a user-defined class; ema=True for a run without an average; step_size without
            noise_std, or a temperature other than 1 without noise_std=None; another kind without a step_size; another
            option's value that the sampler does not accept; a device that does not exist.
        TypeError: an unknown option of the sampler.

    Examples:
        >>> _ = fl.train("digits", out="runs/digits", n_iterations=2, features=8, progress=False)
        >>> model, sampler = fl.load("runs/digits")
        >>> sampler.sample((4, 1, 8, 8)).shape
        torch.Size([4, 1, 8, 8])
        >>> _, longer = fl.load("runs/digits", sampler={"n_steps": 50})
        >>> longer.n_steps
        50
    """
    loaded = open_run(run, model=model, sampler=sampler, ema=ema, device=device)
    return loaded.model, loaded.sampler


class OpenedRun(NamedTuple):
    """The newest checkpoint of a run as a model, its sampler and the settings."""

    model: nn.Module
    sampler: Sampler
    settings: Settings


def open_run(
    run: str | Path,
    *,
    model: nn.Module | None = None,
    sampler: dict[str, Any] | None = None,
    ema: bool | None = None,
    device: str | torch.device = "cpu",
) -> OpenedRun:
    """Loads a run like `load`, with its settings."""
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
    sampler_options.check_noise(sampler or {}, settings.sampler)
    model = (settings.make_model() if model is None else model).to(resolve_device(device))
    if ema and not settings.ema:
        raise ValueError(f"ema=True needs a run with an average of the weights, but run={str(run)!r} has none")
    stored.load_model(model, "ema.module." if settings.ema and ema is not False else "model.")
    note_log_density(model, settings.n_classes)
    made = make_sampler(model, settings, settings.sample_steps, stored.meta["sampler"], sampler or {})
    return OpenedRun(model, made, settings)


def make_sampler(
    model: nn.Module, settings: Settings, n_steps: int, state: dict[str, int], options: Mapping[str, Any]
) -> Sampler:
    """Returns the run's sampler with n_steps and other options replaced, and the noise counter of `state`."""
    sampler = settings.make_sampler(model, 0, **{"n_steps": n_steps, **options})
    sampler.load_state_dict(state)
    return sampler


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that is meant; of several GPUs that of this rank."""
    if device == "auto":
        return local_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or another device of torch, got {device!r}") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r} needs a CUDA device, but torch {torch.__version__} finds none")
    return local_device(resolved)
