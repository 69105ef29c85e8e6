"""The images in a folder and its subfolders, and what of it is left out."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageFile

_NO_PIXELS = ("EPS", "MPEG")  # which Pillow recognises: it draws the first by another program, and reads no videos


@functools.cache
def suffixes() -> frozenset[str]:
    """The endings of the files that Pillow reads, in lower case."""
    return frozenset(end for end, name in Image.registered_extensions().items() if _is_read(name))


def _is_read(name: str) -> bool:
    if name not in Image.OPEN or name in _NO_PIXELS:
        return False
    factory = Image.OPEN[name][0]
    return not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))


def image_files(folder: Path) -> tuple[list[Path], str | None]:
    """All images in a folder and its subfolders, and links to such, sorted by path, without hidden ones.

    Returns:
        The files, and a description of what was left out, or None.

    Raises:
        ValueError: there are no images.
    """
    left_out: Counter[str] = Counter()
    files = sorted(_walk(folder, (), left_out), key=lambda file: file.relative_to(folder).as_posix())
    counted = ", ".join(f"{n} {what}" for what, n in sorted(left_out.items()))
    if not files:
        others = f"; left out: {counted}" if counted else ""
        raise ValueError(f"the folder {folder} holds no images (.png, .jpg, or another that Pillow reads){others}")
    return files, counted or None


def _walk(folder: Path, above: tuple[Path, ...], left_out: Counter[str]) -> Iterator[Path]:
    """The images in a folder. `above` has the real paths of the folders that lead to it."""
    above = (*above, Path(os.path.realpath(folder)))
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            left_out["hidden"] += 1
        elif entry.is_dir():
            if Path(os.path.realpath(entry)) in above:
                left_out["links to a folder that they are in"] += 1
            else:
                yield from _walk(entry, above, left_out)
        elif not entry.is_file():
            left_out["broken links or special files"] += 1
        elif entry.suffix.lower() in suffixes():
            yield entry
        else:
            left_out[entry.suffix.lower() or "without an ending"] += 1
