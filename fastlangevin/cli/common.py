"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

RunPath = Annotated[Path, typer.Argument(help="A run's folder, or one checkpoint.", show_default=False)]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def check_out(out: Path, suffixes: Sequence[str], overwrite: bool, option: str = "--out") -> None:
    """Raises for a file to write that has another ending, or that exists and may not be replaced."""
    if out.suffix not in suffixes:
        raise ValueError(f"{option} must end in {' or '.join(suffixes)}, got {str(out)!r}")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{option} {out} exists: say --overwrite to replace it")


def say(text: str, quiet: bool) -> None:
    Console(quiet=quiet, highlight=False).print(text, markup=False, soft_wrap=True)
