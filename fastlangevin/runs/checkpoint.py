"""Checkpoints: one safetensors file, tensors by name and the rest as JSON in its header. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import replacing

_KEY = "fastlangevin"
FORMAT = 1


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes a checkpoint in one step: a reader sees the old file or the new one, never a part."""
    # Clones: safetensors refuses tensors that share memory, which tied weights do.
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(plain, metadata={_KEY: json.dumps({"format": FORMAT, **meta})})
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the rest of a checkpoint.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a checkpoint of this library, or a truncated or damaged one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            meta = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({error}); "
            "remove it to go on from an older checkpoint in the same folder, if there is one"
        ) from error
    try:
        content = json.loads(meta or "")
        if content["format"] != FORMAT:
            raise CheckpointError(f"{path} has checkpoint format {content['format']}, this version reads {FORMAT}")
        content["settings"], content["sampler"], content["iteration"], content["optimizer_groups"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise CheckpointError(f"{path} is a safetensors file but no fastlangevin checkpoint") from None
    return tensors, content


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def path_for(folder: Path, iteration: int) -> Path:
    return folder / f"{iteration:08d}.safetensors"


def newest(folder: Path) -> Path | None:
    """The checkpoint of the latest iteration in a folder."""
    return max(all_in(folder), default=None)


def prune(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints."""
    for path in sorted(all_in(folder))[:-keep]:
        path.unlink(missing_ok=True)


def all_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, in no order."""
    return [p for p in folder.glob("*.safetensors") if p.stem.isdigit()]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimiser's state as tensors named "index.entry", and its parameter groups."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": torch.as_tensor(v) for index, entry in state["state"].items() for name, v in entry.items()
    }
    return tensors, state["param_groups"]


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """The inverse of `optimizer_tensors`. Whether it can be captured follows the device, not the checkpoint."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    capturable = optimizer.defaults["capturable"]
    own_groups = [{**group, "capturable": capturable} for group in groups]
    optimizer.load_state_dict({"state": state, "param_groups": own_groups})


def load_model(model: torch.nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Loads weights, or says in one message how the model differs from the one that was saved."""
    own = model.state_dict()
    differences = [
        *(f"{name} is missing in the file" for name in own.keys() - tensors.keys()),
        *(f"{name} is unknown to the model" for name in tensors.keys() - own.keys()),
        *(
            f"{name} is {tuple(tensors[name].shape)} in the file and {tuple(own[name].shape)} in the model"
            for name in own.keys() & tensors.keys()
            if own[name].shape != tensors[name].shape
        ),
    ]
    if differences:
        raise CheckpointError(f"{source} is from another model: {'; '.join(sorted(differences)[:4])}")
    model.load_state_dict(dict(tensors))
