"""The file format of checkpoints: safetensors, with values other than tensors as JSON in its header. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import replacing

_KEY = "fastlangevin"
FORMAT = 1


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes a checkpoint atomically: a reader sees the old or the new file, never a part of it."""
    # Clones, because safetensors does not accept tensors that share memory, such as tied weights.
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(plain, metadata={_KEY: json.dumps({"format": FORMAT, **meta})})
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a checkpoint: its tensors (on the CPU) and its other values.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is not a checkpoint of this library, is damaged, or has another format version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({error}); "
            "remove it to resume from an older checkpoint in the same folder, if there is one"
        ) from error
    try:
        meta = json.loads(header or "")
        if meta["format"] != FORMAT:
            raise CheckpointError(f"{path} has checkpoint format {meta['format']}, this version reads {FORMAT}")
    except (json.JSONDecodeError, KeyError, TypeError):
        raise foreign(path) from None
    return tensors, meta


def is_ours(path: Path) -> bool:
    """Whether a file has the header of a checkpoint of this library."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return _KEY in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def foreign(path: Path) -> CheckpointError:
    """The error for a safetensors file of another program."""
    return CheckpointError(f"{path} is a safetensors file but not a fastlangevin checkpoint")


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, with the prefix removed from the names."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def path_for(folder: Path, iteration: int) -> Path:
    return folder / f"{iteration:08d}.safetensors"


def newest(folder: Path) -> Path | None:
    """The checkpoint of the latest iteration in a folder, or None."""
    return max(all_in(folder), default=None)


def iteration_of(path: Path) -> int:
    return int(path.stem)


def newest_before(folder: Path, iteration: int) -> Path | None:
    """The newest checkpoint of an earlier iteration, else the oldest in the folder; None if it holds none."""
    paths = sorted(all_in(folder))
    earlier = [path for path in paths if iteration_of(path) < iteration]
    return earlier[-1] if earlier else min(paths, default=None)


def prune(folder: Path, keep: int, since: int = 0) -> None:
    """Removes all but the newest `keep` of the checkpoints from iteration `since` on."""
    for path in sorted(path for path in all_in(folder) if iteration_of(path) >= since)[:-keep]:
        path.unlink(missing_ok=True)


def remove_after(folder: Path, iteration: int) -> None:
    """Removes the checkpoints of later iterations."""
    for path in all_in(folder):
        if iteration_of(path) > iteration:
            path.unlink(missing_ok=True)


def all_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, in arbitrary order."""
    return [p for p in folder.glob("*.safetensors") if p.stem.isdigit()]
