"""The README's blocks run as they stand, one after the other, and its pictures say what the files say."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer

import fastlangevin as fl
from fastlangevin import cli

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
COMMANDS = re.findall(r"^fastlangevin (.*?)(?: +#.*)?$", TEXT, re.M)


def test_python_blocks(tmp_path, monkeypatch):
    train = fl.train
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fl, "train", lambda *a, **o: train(*a, **{"n_iterations": 1, "progress": False, **o}))
    names: dict[str, object] = {}
    assert len(BLOCKS) >= 3
    for block in BLOCKS:
        exec(block, names)
    assert (tmp_path / "runs" / "digits" / "samples.png").exists() and (tmp_path / "grid.png").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_accepted(command):
    name, *arguments = shlex.split(command)
    found = typer.main.get_command(cli.app).commands[name]
    accepted = found.make_context(name, arguments).params
    assert set(accepted) == {p.name for p in found.params if p.expose_value}


def test_length():
    assert len(TEXT.splitlines()) < 120


def test_chart():
    """`python scripts/draw_speed.py` after new results."""
    script = runpy.run_path(str(ROOT / "scripts" / "draw_speed.py"))
    assert (ROOT / "docs" / "speed.svg").read_text() == script["chart"](script["speeds"](script["RESULTS"]))


def test_badges():
    """`python scripts/draw_badges.py` after a change of pyproject.toml."""
    script = runpy.run_path(str(ROOT / "scripts" / "draw_badges.py"))
    for name, text in script["badges"]((ROOT / "pyproject.toml").read_text()).items():
        assert (ROOT / "docs" / name).read_text() == text and f"(docs/{name})" in TEXT


def test_citation():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {fl.__version__}\n" in citation
    assert f"version = {{{fl.__version__}}}" in (ROOT / "docs" / "citing.md").read_text()
