"""Files that are whole at every instant: written under a temporary name and renamed into place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which takes `path`'s place once the body has ended and the bytes are on the disk.

    A kill, or a full disk, at any instant leaves `path` as it was.

    Raises:
        OSError: it could not be written (no space, no permission); the message names `path`.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno, f"{path} could not be written ({error.strerror}); what was there before is untouched"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_pattern(path: Path) -> str:
    """The names, as a glob, under which `replacing` writes to `path`."""
    return f".{path.stem}.*.part{path.suffix}"
