"""config.yaml of a run: writing it, and what a person has edited in it since."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..files import replacing
from ..validation import nearest
from .settings import DECLARATIONS, Settings

NAME = "config.yaml"
_UNDO = "undo the edit, or delete the file to restore it from the checkpoint"
_MARK = "fastlangevin"  # the key that identifies the folder of a run
_COMMENT = """\
# The settings of this run. They are used from the newest checkpoint: if you change one here, continue the run with
# --resume --override config.yaml (in Python: resume_overrides="config.yaml"). Checksum {checksum}
"""


def write(path: Path, settings: Mapping[str, Any]) -> None:
    text = yaml.safe_dump({_MARK: "run", **settings}, sort_keys=False, allow_unicode=True)
    with replacing(path) as temporary:
        temporary.write_text(_COMMENT.format(checksum=_checksum(yaml.safe_load(text))) + text, encoding="utf-8")


def is_of_a_run(path: Path) -> bool:
    """Whether the file is that of a run."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(config, dict) and config.get(_MARK) == "run"


def edits(path: Path, saved: Settings) -> dict[str, Any] | None:
    """The settings that were edited in the file, by name, with their values; None if the file is missing or empty.

    Args:
        saved: the settings of the newest checkpoint.

    Raises:
        ValueError: the file is not readable as settings, names an unknown one, or changes what identifies the run.
    """
    try:
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} was edited and is not valid YAML ({error}): {_UNDO}") from error
    if config is None:
        return None
    if not isinstance(config, dict):
        raise ValueError(f"{path} was edited and does not hold settings by name: {_UNDO}")
    checksum = re.search(r"Checksum ([0-9a-f]{16})", text)
    if checksum is not None and checksum[1] == _checksum(config):
        return {}  # it may be newer than the checkpoint, if the run was killed in between
    stored, found = yaml.safe_load(yaml.safe_dump(saved.to_dict())), {}
    for name, value in config.items():
        if name == _MARK:
            continue
        if name not in stored:
            raise ValueError(f"{path} was edited and has an unknown setting {name!r}{nearest(name, stored)}: {_UNDO}")
        if _plain(value) == _plain(stored[name]):
            continue
        if name not in DECLARATIONS:
            raise ValueError(
                f"{path} was edited: {name} is {value!r} there and {stored[name]!r} in the newest checkpoint, which "
                f"cannot change: {_UNDO}"
            )
        found[name] = _plain(value)
    return found


def refuse(path: Path, edited: Mapping[str, Any], saved: Settings) -> None:
    """Raises ValueError for settings that were edited, if there are any."""
    if edited:
        names = [f"{n} is {v!r} there and {saved.to_dict()[n]!r} in the newest checkpoint" for n, v in edited.items()]
        raise ValueError(
            f"{path} was edited: {'; '.join(names)}. Continue with the edited settings by --override config.yaml (in "
            f'Python: resume_overrides="config.yaml"), or {_UNDO}'
        )


def _checksum(config: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    """Numbers as floats, also those that YAML 1.1 reads as text, such as 5e-4."""
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
