"""metrics.jsonl, the plot and TensorBoard: damaged lines, and packages that do not work."""

from __future__ import annotations

import json
import shutil
import sys
from types import ModuleType

import pytest
import torch
from support.training_runs import SMALL

import fastlangevin as fl

SHOWN = {**SMALL, "progress": True, "log_every": 1}


@pytest.fixture(scope="module")
def four_iterations(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    fl.train("digits", out=out, n_iterations=4, **SHOWN)
    return out


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({2: b'{"iter'}, "damaged line 2 left out"),
        ({1: b"\xff\xfe", 3: b"[1]"}, "damaged lines 1, 3 left out"),
        ({2: b'{"iteration": 2}'}, "damaged line 2 left out"),
        ({2: b'{"iteration": "2", "seconds": 0, "energy_gap": 0, "score_norm": 0}'}, "damaged line 2 left out"),
        ({2: b'{"iteration": 2, "seconds": 0, "energy_gap": "0", "score_norm": 0}'}, "damaged line 2 left out"),
        ({2: b"[" * 100_000}, "damaged line 2 left out"),
        ({4: b'{"iteration": 4, "ener'}, None),  # half a line at the end, of a run that was killed
    ],
)
def test_a_damaged_line_costs_that_line(four_iterations, tmp_path, capsys, damage, said):
    shutil.copytree(four_iterations, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    for number, line in damage.items():
        lines[number - 1] = line
    path.write_bytes(b"\n".join(lines) + (b"\n" if said else b""))
    capsys.readouterr()
    result = fl.train("digits", out=tmp_path, n_iterations=5, resume=True, **SHOWN)
    printed = capsys.readouterr().out
    assert (f"{path}: {said}" in printed) if said else ("left out" not in printed)
    expected = [i for i in range(1, 6) if i not in damage]
    assert [row["iteration"] for row in result.history] == expected
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == expected


def broken(name: str) -> ModuleType:
    """A module that raises where something is taken from it, as a package built for another NumPy does."""

    class Broken(ModuleType):
        def __getattr__(self, attribute):
            raise RuntimeError("numpy.dtype size changed")

    return Broken(name)


@pytest.mark.usefixtures("training_plots")
@pytest.mark.parametrize("name", ["torch.utils.tensorboard", "matplotlib.figure"])
def test_a_broken_package_costs_one_line(tmp_path, capsys, monkeypatch, name):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, name, broken(name))
    result = fl.train("digits", out=tmp_path, n_iterations=3, **SHOWN)
    printed = capsys.readouterr().out
    assert printed.count("does not work (RuntimeError: numpy.dtype size changed)") == 1
    assert len(result.history) == 3 and "done: 3 iterations" in printed
    assert (tmp_path / "training.png").exists() == (name != "matplotlib.figure")
    assert (tmp_path / "tensorboard").exists() == (name == "matplotlib.figure")


@pytest.mark.parametrize("method", ["__init__", "add_scalar", "close"])
def test_a_tensorboard_that_fails_costs_one_line(tmp_path, capsys, monkeypatch, method):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensorboard.SummaryWriter, method, fails)
    result = fl.train("digits", out=tmp_path, n_iterations=3, **SHOWN)
    assert capsys.readouterr().out.count("no more events for TensorBoard, which does not work (OSError") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(result.history) == 3


def test_files_do_not_depend_on_the_locale(tmp_path, monkeypatch):
    """Text files are UTF-8: the name of the data may have any character."""
    opened, original = [], type(tmp_path).open

    def spy(self, mode="r", buffering=-1, encoding=None, errors=None, newline=None):
        if "b" not in mode:
            opened.append((self.name, encoding))
        return original(self, mode, buffering, encoding, errors, newline)

    (tmp_path / "Bären 猫").mkdir()
    for i in range(2):
        fl.save_grid(torch.rand(1, 1, 8, 8), tmp_path / "Bären 猫" / f"{i}.png")
    monkeypatch.setattr(type(tmp_path), "open", spy)
    options = {**SMALL, "out": tmp_path / "run"}
    fl.train(tmp_path / "Bären 猫", n_iterations=1, image_size=8, **options)
    fl.train(tmp_path / "Bären 猫", n_iterations=2, image_size=8, resume=True, **options)
    assert {encoding for name, encoding in opened} == {"utf-8"}, opened
    assert "Bären 猫" in (tmp_path / "run" / "config.yaml").read_text("utf-8")
