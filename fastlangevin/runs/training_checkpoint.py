"""Saves and restores the state of a training as a checkpoint."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..errors import ChainDiverged, CheckpointError
from ..samplers.langevin import Langevin
from ..samplers.noise_counter import NoiseCounter
from ..samplers.replay_buffer import ReplayBuffer
from ..validation import check_int
from . import checkpoint
from .settings import Settings


class Training(Protocol):
    """The attributes of a training that its checkpoints store and restore."""

    settings: Settings
    model: nn.Module
    averaged: AveragedModel | None
    optimizer: torch.optim.Optimizer
    sampler: Langevin
    buffer: ReplayBuffer | None
    device: torch.device
    iteration: int
    attempt: int


class TrainingCheckpoint(NamedTuple):
    """The content of a checkpoint file. Tensors are on the CPU."""

    path: Path
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    settings: Settings

    @property
    def iteration(self) -> int:
        return self.meta["iteration"]

    def load_model(self, model: nn.Module, prefix: str = "model.") -> None:
        """Loads the weights under `prefix` into the model.

        Raises:
            CheckpointError: the weights are not finite or do not fit the model; the message lists the differences.
        """
        state = {**self.tensors, **self.meta.get("extra_state", {})}
        load_model(model, checkpoint.part(state, prefix), self.path, prefix)


def load(path: Path) -> TrainingCheckpoint:
    """Reads a checkpoint of a training.

    Raises:
        FileNotFoundError, CheckpointError: as for `checkpoint.load`; or a part of the state is missing, or has values
            that no training writes.
    """
    tensors, meta = checkpoint.load(path)
    if not {"settings", "sampler", "iteration", "optimizer_groups"} <= meta.keys():
        raise checkpoint.foreign(path)
    with _naming(path):
        check_int("iteration", meta["iteration"], 0)
        check_int("attempt", meta.get("attempt", 0), 0)
        NoiseCounter.check(meta["sampler"])
        return TrainingCheckpoint(path, tensors, meta, Settings.from_dict(meta["settings"]))


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes errors in the body, which values of the file cause, `CheckpointError`s that name it."""
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise checkpoint.damaged(path, f"holds values that cannot be restored ({what})") from error


def check(model: nn.Module) -> None:
    """Raises TypeError for a model whose state a checkpoint cannot store."""
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) and not _is_json(value):
            raise TypeError(
                f"model's {name} must be a tensor or a value that JSON stores unchanged, to be written to checkpoints, "
                f"got {type(value).__name__}: return such a value from get_extra_state, or train without out="
            )
        if isinstance(value, Tensor) and value.layout != torch.strided:
            raise TypeError(f"model's {name} must be dense, to be written to checkpoints, got layout {value.layout}")


def _is_json(value: object) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def save(path: Path, training: Training) -> None:
    """Writes a checkpoint.

    Raises:
        ChainDiverged: a weight, or an element of Adam's state, is not finite.
    """
    optimizer, groups = optimizer_tensors(training.optimizer)
    states = {f"model.{name}": value for name, value in training.model.state_dict().items()}
    if training.averaged is not None:
        states.update({f"ema.{name}": value for name, value in training.averaged.state_dict().items()})
    tensors = {
        **{name: value for name, value in states.items() if isinstance(value, Tensor)},
        **{f"optimizer.{name}": tensor for name, tensor in optimizer.items()},
        "random.cpu": torch.get_rng_state(),
    }
    if training.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(training.device)
    meta = {
        "iteration": training.iteration,
        "attempt": training.attempt,
        "settings": training.settings.to_dict(),
        "sampler": training.sampler.state_dict(),
        "optimizer_groups": groups,
        "extra_state": {name: value for name, value in states.items() if not isinstance(value, Tensor)},
    }
    if training.buffer is not None:
        state = training.buffer.state_dict()
        tensors.update({f"buffer.{name}": v for name, v in state.items() if isinstance(v, Tensor)})
        meta["buffer"] = {name: v for name, v in state.items() if not isinstance(v, Tensor)}
    learned = {**dict(training.model.named_parameters()), **{f"Adam's {k}": v for k, v in optimizer.items()}}
    bad = [name for name, tensor in learned.items() if not tensor.isfinite().all()]
    if bad:
        raise ChainDiverged(f"{', '.join(bad[:3])} are not finite", step=None, n_chains=0)
    checkpoint.save(path, tensors, meta)


def restore(training: Training, stored: TrainingCheckpoint) -> None:
    """Restores a training, and torch's random state, from a checkpoint.

    Raises:
        CheckpointError: a part of the state is missing or does not fit the training.
    """
    tensors, meta = stored.tensors, stored.meta
    with _naming(stored.path):
        stored.load_model(training.model)
        if training.averaged is not None:
            stored.load_model(training.averaged, "ema.")
        load_optimizer(training.optimizer, checkpoint.part(tensors, "optimizer."), meta["optimizer_groups"])
        training.sampler.load_state_dict(meta["sampler"])
        if training.buffer is not None:
            training.buffer.load_state_dict({**checkpoint.part(tensors, "buffer."), **meta["buffer"]})
        training.iteration, training.attempt = stored.iteration, meta.get("attempt", 0)
        torch.set_rng_state(tensors["random.cpu"])
        if training.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], training.device)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Returns an optimizer's state as tensors named "index.entry", and its parameter groups."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": torch.as_tensor(v) for index, entry in state["state"].items() for name, v in entry.items()
    }
    return tensors, state["param_groups"]


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """The inverse of `optimizer_tensors`. `capturable` is that of the optimizer, because it depends on the device.

    Raises:
        ValueError: state or groups of other parameters, or state that is not finite.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        shape = tuple(parameters[int(index)].shape)
        if tensor.dim() and tuple(tensor.shape) != shape:
            raise ValueError(f"optimizer.{key} is {tuple(tensor.shape)} and its parameter {shape}")
        if not tensor.isfinite().all():
            raise ValueError(f"NaN or infinity in optimizer.{key}")
        state.setdefault(int(index), {})[name] = tensor
    for group in groups:
        for name, value in group.items():
            _check_plain(f"optimizer's {name}", value)
    capturable = optimizer.defaults["capturable"]
    own_groups = [{**group, "capturable": capturable} for group in groups]
    optimizer.load_state_dict({"state": state, "param_groups": own_groups})


def _check_plain(name: str, value: object) -> None:
    """Raises ValueError unless the value is None, a bool, a finite number or a sequence of these."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if not (item is None or (isinstance(item, (int, float)) and math.isfinite(item))):
            raise ValueError(f"{name} is {value!r}")


def load_model(model: nn.Module, state: Mapping[str, Any], source: Path, prefix: str = "") -> None:
    """Loads weights and extra state, which have the names of the model after `prefix` in the file.

    Raises:
        CheckpointError: they do not fit the model (the message lists the differences), or weights are not finite.
    """
    own = model.state_dict()
    differences = [
        *(f"{name} is not in the file" for name in own.keys() - state.keys()),
        *(f"{name} is not in the model" for name in state.keys() - own.keys()),
        *(
            f"{name} is {_kind(name, state[name])} in the file and {_kind(name, own[name])} in the model"
            for name in own.keys() & state.keys()
            if _kind(name, state[name]) != _kind(name, own[name])
        ),
    ]
    if differences:
        raise CheckpointError(f"{source} is from another model: {'; '.join(sorted(differences)[:4])}")
    for name, _ in model.named_parameters():
        if not state[name].isfinite().all():
            raise checkpoint.damaged(source, f"holds NaN or infinity in {prefix}{name}")
    model.load_state_dict(dict(state))


def _kind(name: str, value: object) -> object:
    """What must agree of a value in a file and in a model: the shape, except of extra state, which is the module's."""
    return tuple(value.shape) if isinstance(value, Tensor) and not name.endswith("_extra_state") else "extra state"
