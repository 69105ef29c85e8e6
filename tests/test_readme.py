"""The README's blocks run as they stand, one after the other."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

import fastlangevin as fl
from fastlangevin import cli

TEXT = (Path(__file__).parent.parent / "README.md").read_text()
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
    assert found.make_context(name, arguments).params
