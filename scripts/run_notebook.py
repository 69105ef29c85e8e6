"""Runs a notebook from its first cell to its last and keeps what it shows: `python scripts/run_notebook.py NOTEBOOK`.

Files that it writes go to a temporary folder. Needs nbclient and ipykernel (extra "test").
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode


def executed(notebook: Path, folder: Path) -> NotebookNode:
    """The notebook with its outputs, run in a folder. Raises CellExecutionError for a cell that raises."""
    cells = nbformat.read(notebook, as_version=4)
    options = {"record_timing": False, "timeout": 600, "kernel_name": "python3"}
    NotebookClient(cells, resources={"metadata": {"path": str(folder)}}, **options).execute()
    for unneeded in ("codemirror_mode", "mimetype", "nbconvert_exporter", "version"):
        cells.metadata.language_info.pop(unneeded, None)
    return cells


def main(notebook: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(Path(notebook), Path(folder)), notebook)


if __name__ == "__main__":
    main(*sys.argv[1:])
