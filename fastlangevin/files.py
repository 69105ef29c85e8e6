"""Atomic writes of files: a temporary file is written and renamed into place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name to write to. The file replaces `path` after the body, once its bytes are on the disk.

    If the process is killed or the disk is full, `path` keeps its former content.

    Raises:
        OSError: the file cannot be written (no space, no permission); the message names `path`.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno, f"{path} could not be written ({error.strerror}); an existing file is unchanged"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_pattern(path: Path) -> str:
    """A glob pattern of the temporary names that `replacing` uses for `path`."""
    return f".{path.stem}.*.part{path.suffix}"
