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

from ..distributed import sharded_module
from ..distributed.ranks import Ranks
from ..distributed.sharded_module import ShardedAverage
from ..errors import ChainDiverged, CheckpointError
from ..samplers.base import Sampler
from ..samplers.noise_counter import NoiseCounter
from ..samplers.replay_buffer import ReplayBuffer
from ..samplers.sharded_buffer import ShardedReplayBuffer
from ..validation import check_int
from . import checkpoint, plain_values
from .settings import Settings


class Stateful(Protocol):
    """An object whose state is a mapping of plain values."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Optimization(Stateful, Protocol):
    @property
    def name(self) -> str: ...


class Training(Protocol):
    """The attributes of a training that its checkpoints store and restore."""

    settings: Settings
    model: nn.Module
    averaged: AveragedModel | ShardedAverage | None
    optimizer: torch.optim.Optimizer
    sampler: Sampler
    buffer: ReplayBuffer | ShardedReplayBuffer | None
    device: torch.device
    ranks: Ranks
    iteration: int
    attempt: int
    diverged_at: int | None
    back_to: int | None

    @property
    def optimization(self) -> Optimization: ...

    @property
    def gaps(self) -> Stateful: ...


class TrainingCheckpoint(NamedTuple):
    """The content of a checkpoint file. Tensors are on the CPU."""

    path: Path
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    settings: Settings

    @property
    def iteration(self) -> int:
        return self.meta["iteration"]

    def load_model(self, model: nn.Module | ShardedAverage, prefix: str = "model.") -> None:
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
        for name in ("attempt", "diverged_at", "back_to"):
            if meta.get(name) is not None:
                check_int(name, meta[name], 0)
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


def check_optimization(optimizer: torch.optim.Optimizer, scheduler: dict[str, Any]) -> None:
    """Raises TypeError for an optimiser, after a step, or the state of a scheduler that a checkpoint cannot store."""
    tensors, rest = optimizer_tensors(optimizer)
    if sparse := [name for name, tensor in tensors.items() if tensor.layout != torch.strided]:
        raise TypeError(f"the optimiser's {sparse[0]} is not dense")
    plain_values.to_json(rest, "the optimiser's state")
    plain_values.to_json(scheduler, "the scheduler's state")


def _is_json(value: object) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def save(path: Path, training: Training) -> None:
    """Writes a checkpoint; of several ranks rank 0 does, while the others wait for it. Parameters of a sharded network
    are put together on rank 0's host, so that the file is that of one process.

    Raises:
        ChainDiverged: a weight, or an element of the optimiser's state, is not finite.
    """
    buffer = {} if training.buffer is None else training.buffer.state_dict()
    is_main = training.ranks.is_main
    with training.ranks.together():
        states = {f"model.{name}": value for name, value in training.model.state_dict().items()}
        if training.averaged is not None:
            states.update({f"ema.{name}": value for name, value in training.averaged.state_dict().items()})
        optimizer, rest = optimizer_tensors(training.optimizer)
        states, optimizer = (sharded_module.whole(state, is_kept=is_main) for state in (states, optimizer))
        if is_main:
            _write(path, training, states, optimizer, rest, buffer)


def _write(
    path: Path,
    training: Training,
    states: dict[str, Any],
    optimizer: dict[str, Tensor],
    rest: dict[str, Any],
    buffer: dict[str, Any],
) -> None:
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
        "diverged_at": training.diverged_at,
        "back_to": training.back_to,
        "gaps": training.gaps.state_dict(),
        "settings": training.settings.to_dict(),
        "sampler": training.sampler.state_dict(),
        "optimizer": training.optimization.name,
        "optimizer_groups": plain_values.to_json(rest["groups"], "optimizer's groups"),
        "optimizer_rest": plain_values.to_json(rest["state"], "optimizer's state"),
        "scheduler": plain_values.to_json(training.optimization.state_dict(), "scheduler's state"),
        "extra_state": {name: value for name, value in states.items() if not isinstance(value, Tensor)},
    }
    if training.buffer is not None:
        tensors.update({f"buffer.{name}": v for name, v in buffer.items() if isinstance(v, Tensor)})
        meta["buffer"] = {name: v for name, v in buffer.items() if not isinstance(v, Tensor)}
    weights = {name: states.get(f"model.{name}", p) for name, p in training.model.named_parameters()}
    learned = {**weights, **{f"the optimiser's {k}": v for k, v in optimizer.items()}}
    bad = [name for name, tensor in learned.items() if not tensor.isfinite().all()]
    if bad:
        raise ChainDiverged(f"{', '.join(bad[:3])} are not finite", step=None, n_chains=0)
    checkpoint.save(path, tensors, meta)


def restore(training: Training, stored: TrainingCheckpoint) -> None:
    """Restores a training, and torch's random state, from a checkpoint.

    Where its settings differ from those of the checkpoint: an average of the weights that was not kept starts from the
    weights, a replay buffer of another kind is empty, and one that begins or ceases to store velocities keeps its
    states. An optimiser of another class starts anew.

    Raises:
        CheckpointError: a part of the state is missing or does not fit the training.
    """
    tensors, meta, settings, saved = stored.tensors, stored.meta, training.settings, stored.settings
    with _naming(stored.path):
        stored.load_model(training.model)
        if training.averaged is not None:
            if saved.ema:
                stored.load_model(training.averaged, "ema.")
            else:
                weights = {f"module.{name}": value for name, value in training.model.state_dict().items()}
                training.averaged.load_state_dict({"n_averaged": training.averaged.n_averaged, **weights})
        if meta.get("optimizer", "Adam") == training.optimization.name:
            rest = plain_values.from_json({"groups": meta["optimizer_groups"], "state": meta.get("optimizer_rest", {})})
            load_optimizer(training.optimizer, checkpoint.part(tensors, "optimizer."), rest)
            training.optimization.load_state_dict(plain_values.from_json(meta.get("scheduler", {})))
        training.sampler.load_state_dict(meta["sampler"])
        if training.buffer is not None and _fits(settings.buffer, saved.buffer):
            state = {**checkpoint.part(tensors, "buffer."), **meta["buffer"]}
            training.buffer.load_state_dict(_with_velocities(state, training.buffer.velocities))
        training.gaps.load_state_dict(meta.get("gaps", {}))
        training.iteration, training.attempt = stored.iteration, meta.get("attempt", 0)
        training.diverged_at, training.back_to = meta.get("diverged_at"), meta.get("back_to")
        torch.set_rng_state(tensors["random.cpu"])
        if training.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], training.device)


def _fits(options: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
    """Whether a replay buffer with these options can hold the states of the saved one."""
    return bool(saved) and {**options, "reinit": None} == {**saved, "reinit": None}


def _with_velocities(state: Mapping[str, Any], wanted: bool) -> dict[str, Any]:
    """The state of a replay buffer with or without velocities, those that it lacks to be drawn when chains go on."""
    if not wanted:
        return {name: value for name, value in state.items() if name != "velocities"}
    return {"velocities": torch.full(state["values"].shape, math.nan), **state}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns an optimizer's state: tensors named "index.entry"; and the rest, its parameter groups ("groups") and
    other entries ("state") as plain values.

    Raises:
        TypeError: state that is not of a parameter, or whose name is not a string.
    """
    state = optimizer.state_dict()
    for index, entry in state["state"].items():
        if not isinstance(index, int):
            raise TypeError(f"the optimiser's state[{index!r}] is not of a parameter")
        if other := [name for name in entry if not isinstance(name, str)]:
            raise TypeError(f"the optimiser's state of a parameter has {other[0]!r}, a name that is not a string")
    entries = {f"{index}.{name}": v for index, entry in state["state"].items() for name, v in entry.items()}
    tensors = {key: v for key, v in entries.items() if isinstance(v, Tensor)}
    plain = {key: v for key, v in entries.items() if key not in tensors}
    return tensors, {"groups": state["param_groups"], "state": plain}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """The inverse of `optimizer_tensors`. `capturable` is that of the optimizer, because it depends on the device.

    Raises:
        ValueError: state or groups of other parameters, or state that is not finite.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **rest["state"]}.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        shape = tuple(parameter.shape)
        if isinstance(value, Tensor):
            _check_tensor(f"optimizer.{key}", value, shape if isinstance(optimizer, torch.optim.Adam) else None)
            value = sharded_module.like(parameter, value) if value.shape == parameter.shape else value
        state.setdefault(int(index), {})[name] = value
    for own_group, group in zip(optimizer.state_dict()["param_groups"], rest["groups"], strict=True):
        for name, value in group.items():
            if value != own_group.get(name) and not (isinstance(value, str) and isinstance(own_group.get(name), str)):
                _check_plain(f"optimizer's {name}", value)
    own = {name: v for name, v in optimizer.defaults.items() if name == "capturable"}
    groups = [{**group, **own} for group in rest["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...] | None) -> None:
    """Raises ValueError unless the tensor is finite and, if a shape is given, has it or holds one number."""
    if shape is not None and tensor.dim() and tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)} and its parameter {shape}")
    if not tensor.isfinite().all():
        raise ValueError(f"NaN or infinity in {name}")


def _check_plain(name: str, value: object) -> None:
    """Raises ValueError unless the value is None, a bool, a finite number or a sequence of these."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if not (item is None or (isinstance(item, (int, float)) and math.isfinite(item))):
            raise ValueError(f"{name} is {value!r}")


def load_model(model: nn.Module | ShardedAverage, state: Mapping[str, Any], source: Path, prefix: str = "") -> None:
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
    model.load_state_dict({name: sharded_module.like(own[name], value) for name, value in state.items()})


def _kind(name: str, value: object) -> object:
    """What must agree of a value in a file and in a model: the shape, except of extra state, which is the module's."""
    return tuple(value.shape) if isinstance(value, Tensor) and not name.endswith("_extra_state") else "extra state"
