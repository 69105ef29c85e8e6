"""examples/quickstart.ipynb runs, and what is committed is what a run has shown."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def shown(cells: list[dict]) -> list[list[str]]:
    """The kinds of output of each cell of code: "stdout" or types of data."""
    return [
        [
            kind
            for output in cell["outputs"]
            for kind in ([output["name"]] if "name" in output else sorted(output["data"]))
        ]
        for cell in cells
        if cell["cell_type"] == "code"
    ]


def test_it_runs_and_shows_what_is_committed(tmp_path):
    pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra test")
    pytest.importorskip("nbclient", reason="needs nbclient, of the extra test")
    cells = runpy.run_path(str(ROOT / "scripts" / "run_notebook.py"))["executed"](NOTEBOOK, tmp_path).cells
    committed = json.loads(NOTEBOOK.read_text())["cells"]
    assert shown(cells) == shown(committed)
    text = json.dumps(cells)
    assert "ConvNet after 320 iterations" in text
    assert "runs on cuda" in text or "largest difference from the samples above: 0.0" in text
    assert (tmp_path / "runs" / "quickstart" / "samples.png").exists()


def test_what_is_committed_was_run_in_order():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/png" in kinds for kinds in shown(cells)) == 3
    assert NOTEBOOK.stat().st_size < 150_000


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\((\.\./[^)]+)\)", NOTEBOOK.read_text())
    assert links and all((NOTEBOOK.parent / link).exists() for link in links)
