"""A table that a script writes into a page of docs/, between two comments that name the script."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"


def show(lines: Iterable[str], page: str | None, script: str) -> None:
    """Prints the lines as they come, and writes them to `page` of docs/, if it is not None."""
    kept = []
    for line in lines:
        print(line, flush=True)
        kept.append(line)
    if page is not None:
        path = DOCS / page
        path.write_text(replaced(path.read_text(), kept, script))


def replaced(text: str, lines: list[str], script: str) -> str:
    """The text with the lines between the comments, which it must have once."""
    begin, end = f"<!-- begin: {script} -->\n", f"<!-- end: {script} -->"
    found = re.split(f"(?<={re.escape(begin)})(?:.*?)(?={re.escape(end)})", text, flags=re.S)
    if len(found) != 2:
        raise ValueError(f"the page must have {begin.strip()!r} and {end!r} once")
    return found[0] + "".join(f"{line}\n" for line in lines) + found[1]
