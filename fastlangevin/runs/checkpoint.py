"""The file format of checkpoints: safetensors, with values other than tensors as JSON in its header. No pickle."""

from __future__ import annotations

import hashlib
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

_KEY, _DIGEST = "fastlangevin", "fastlangevin_digest"
FORMAT = 2  # 1 had no digests


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes a checkpoint atomically: a reader sees the old or the new file, never a part of it."""
    # Clones, because safetensors does not accept tensors that share memory, such as tied weights.
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    digests = {name: _digest(tensor) for name, tensor in plain.items()}
    header = json.dumps({**meta, "format": FORMAT, "digests": digests})
    data = safetensors.torch.save(plain, metadata={_KEY: header, _DIGEST: _hex(header.encode())})
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a checkpoint: its tensors (on the CPU) and its other values.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is not a checkpoint of this library, is damaged, or has another format version. The
            message names the tensor that differs from what was written, and the checkpoint before it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise damaged(path, f"is damaged or not a safetensors file ({error})") from error
    header, digest = metadata.get(_KEY, ""), metadata.get(_DIGEST)
    if digest is not None and digest != _hex(header.encode()):
        raise damaged(path, "is damaged: its metadata are not those that were written")
    try:
        meta = json.loads(header)
        version = meta.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise foreign(path) from None
    if version not in (1, FORMAT):
        raise CheckpointError(f"{path} has checkpoint format {version}, this version reads 1 and {FORMAT}")
    if version == FORMAT:
        digests = meta.pop("digests", None)
        if digest is None or not isinstance(digests, dict):
            raise damaged(path, "is damaged: it lacks its digests")
        for name in sorted(digests.keys() | tensors.keys()):
            if name not in tensors or digests.get(name) != _digest(tensors[name]):
                raise damaged(path, f"is damaged: its tensor {name!r} is not the one that was written")
    return tensors, meta


def _digest(tensor: Tensor) -> str:
    """A digest of a contiguous tensor on the CPU: of its dtype, shape and bytes."""
    digest = hashlib.blake2b(repr((tensor.dtype, tuple(tensor.shape))).encode(), digest_size=16)
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _hex(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def damaged(path: Path, what: str) -> CheckpointError:
    """The error for a checkpoint that cannot be used, which names the checkpoint before it."""
    older = [other for other in all_in(path.parent) if path.stem.isdigit() and int(other.stem) < int(path.stem)]
    advice = f"remove it to use the older checkpoint {max(older)}" if older else "no older checkpoint is beside it"
    return CheckpointError(f"{path} {what}; {advice}")


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
