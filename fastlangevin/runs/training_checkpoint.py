"""Saves and restores the state of a training as a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..errors import ChainDiverged, CheckpointError
from ..samplers.langevin import Langevin
from ..samplers.replay_buffer import ReplayBuffer
from . import checkpoint
from .settings import Settings


class Stateful(Protocol):
    """An object whose state is a mapping that JSON can hold."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Optimization(Stateful, Protocol):
    @property
    def name(self) -> str: ...


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

    @property
    def iteration(self) -> int:
        return self.meta["iteration"]

    @property
    def settings(self) -> Settings:
        return Settings.from_dict(self.meta["settings"])

    def load_model(self, model: nn.Module, prefix: str = "model.") -> None:
        """Loads the weights under `prefix` into the model.

        Raises:
            CheckpointError: the weights do not fit the model; the message lists the differences.
        """
        load_model(model, checkpoint.part(self.tensors, prefix), self.path)


def load(path: Path) -> TrainingCheckpoint:
    """Reads a checkpoint of a training.

    Raises:
        FileNotFoundError, CheckpointError: as for `checkpoint.load`, or a part of the state is missing.
    """
    tensors, meta = checkpoint.load(path)
    if not {"settings", "sampler", "iteration", "optimizer_groups"} <= meta.keys():
        raise checkpoint.foreign(path)
    return TrainingCheckpoint(path, tensors, meta)


def save(path: Path, training: Training) -> None:
    """Writes a checkpoint.

    Raises:
        ChainDiverged: a weight, or an element of the optimiser's state, is not finite.
    """
    optimizer, rest = optimizer_tensors(training.optimizer)
    tensors = {
        **{f"model.{name}": tensor for name, tensor in training.model.state_dict().items()},
        **{f"optimizer.{name}": tensor for name, tensor in optimizer.items()},
        "random.cpu": torch.get_rng_state(),
    }
    if training.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(training.device)
    if training.averaged is not None:
        tensors.update({f"ema.{name}": tensor for name, tensor in training.averaged.state_dict().items()})
    meta = {
        "iteration": training.iteration,
        "attempt": training.attempt,
        "diverged_at": training.diverged_at,
        "back_to": training.back_to,
        "gaps": training.gaps.state_dict(),
        "settings": training.settings.to_dict(),
        "sampler": training.sampler.state_dict(),
        "optimizer": training.optimization.name,
        "optimizer_groups": rest["groups"],
        "optimizer_rest": rest["state"],
        "scheduler": training.optimization.state_dict(),
    }
    if training.buffer is not None:
        state = training.buffer.state_dict()
        tensors.update({f"buffer.{name}": v for name, v in state.items() if isinstance(v, Tensor)})
        meta["buffer"] = {name: v for name, v in state.items() if not isinstance(v, Tensor)}
    learned = {**dict(training.model.named_parameters()), **{f"the optimiser's {k}": v for k, v in optimizer.items()}}
    bad = [name for name, tensor in learned.items() if not tensor.isfinite().all()]
    if bad:
        raise ChainDiverged(f"{', '.join(bad[:3])} are not finite", step=None, n_chains=0)
    checkpoint.save(path, tensors, meta)


def restore(training: Training, stored: TrainingCheckpoint) -> None:
    """Restores a training, and torch's random state, from a checkpoint.

    Where its settings differ from those of the checkpoint: an average of the weights that was not kept starts from the
    weights, and a replay buffer of another kind is empty. An optimiser of another class starts anew.
    """
    tensors, meta, settings, saved = stored.tensors, stored.meta, training.settings, stored.settings
    stored.load_model(training.model)
    if training.averaged is not None:
        if saved.ema:
            stored.load_model(training.averaged, "ema.")
        else:
            training.averaged.module.load_state_dict(training.model.state_dict())
    if meta.get("optimizer", "Adam") == training.optimization.name:
        rest = {"groups": meta["optimizer_groups"], "state": meta.get("optimizer_rest", {})}
        load_optimizer(training.optimizer, checkpoint.part(tensors, "optimizer."), rest)
        training.optimization.load_state_dict(meta.get("scheduler", {}))
    training.sampler.load_state_dict(meta["sampler"])
    if training.buffer is not None and _fits(settings.buffer, saved.buffer):
        training.buffer.load_state_dict({**checkpoint.part(tensors, "buffer."), **meta["buffer"]})
    training.gaps.load_state_dict(meta.get("gaps", {}))
    training.iteration, training.attempt = stored.iteration, meta.get("attempt", 0)
    training.diverged_at, training.back_to = meta.get("diverged_at"), meta.get("back_to")
    torch.set_rng_state(tensors["random.cpu"])
    if training.device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], training.device)


def _fits(options: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
    """Whether a replay buffer with these options can hold the states of the saved one."""
    return bool(saved) and {**options, "reinit": None} == {**saved, "reinit": None}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns an optimizer's state: tensors named "index.entry"; and the rest, its parameter groups ("groups") and
    other entries ("state") as plain values.
    """
    state = optimizer.state_dict()
    entries = {f"{index}.{name}": v for index, entry in state["state"].items() for name, v in entry.items()}
    tensors = {key: v for key, v in entries.items() if isinstance(v, Tensor)}
    plain = {key: v for key, v in entries.items() if key not in tensors}
    return tensors, {"groups": state["param_groups"], "state": plain}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """The inverse of `optimizer_tensors`. `capturable` is that of the optimizer, because it depends on the device."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **rest["state"]}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    own = {name: v for name, v in optimizer.defaults.items() if name == "capturable"}
    groups = [{**group, **own} for group in rest["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Loads weights. Raises CheckpointError with a list of differences if they do not fit the model."""
    own = model.state_dict()
    differences = [
        *(f"{name} is not in the file" for name in own.keys() - tensors.keys()),
        *(f"{name} is not in the model" for name in tensors.keys() - own.keys()),
        *(
            f"{name} is {tuple(tensors[name].shape)} in the file and {tuple(own[name].shape)} in the model"
            for name in own.keys() & tensors.keys()
            if own[name].shape != tensors[name].shape
        ),
    ]
    if differences:
        raise CheckpointError(f"{source} is from another model: {'; '.join(sorted(differences)[:4])}")
    model.load_state_dict(dict(tensors))
