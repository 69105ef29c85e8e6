"""The folder of a run: files that are written, and files that never change."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.forked import start
from support.training_runs import SMALL
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from torch import nn
from torch.utils.data import Dataset

import fastlangevin as fl
from fastlangevin.runs.folder import RunFolder


@pytest.mark.usefixtures("training_plots")
def test_files_of_a_run(tmp_path):
    out = tmp_path / "run"
    result = fl.train("digits", out=out, n_iterations=25, checkpoint_every=10, keep_checkpoints=2, log_every=5, **SMALL)
    assert result.out == out and result.sampler.step == 25 * 5
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["00000020.safetensors", "00000025.safetensors"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [5, 10, 15, 20, 25] and rows == result.history
    for row in rows:
        assert row["energy_gap"] == row["energy_data"] - row["energy_samples"]
        assert row["score_norm"] > 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["data"] == "digits" and config["sampler"]["n_steps"] == 5 and config["batch_size"] == 8
    picture = Image.open(out / "samples.png")
    assert picture.width >= 640 and len(set(np.asarray(picture).ravel().tolist())) > 20
    assert Image.open(out / "training.png").width > 500
    assert list((out / "tensorboard").glob("events.*"))
    assert [p.name for p in out.rglob(".*")] == [".lock"]


def test_another_run_does_not_change_unless_requested(tmp_path):
    fl.train("digits", out=tmp_path, n_iterations=2, **SMALL)
    (tmp_path / "notes.txt").write_text("mine")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(FileExistsError, match="holds another run.*resume.*overwrite"):
        fl.train("digits", out=tmp_path, n_iterations=2, **SMALL)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    fl.train("digits", out=tmp_path, n_iterations=1, overwrite=True, **SMALL)
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == [
        "00000000.safetensors",
        "00000001.safetensors",
    ]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("option", [{"resume": True}, {"overwrite": True}, {}])
def test_files_that_do_not_belong_to_a_run_never_change(tmp_path, option):
    (tmp_path / "checkpoints").mkdir()
    for name in ("config.yaml", "samples.png", "metrics.jsonl", "checkpoints/00000007.safetensors"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match="holds files that do not belong to a run"):
        fl.train("digits", out=tmp_path, n_iterations=1, **option, **SMALL)
    for name in ("config.yaml", "samples.png", "metrics.jsonl", "checkpoints/00000007.safetensors"):
        assert (tmp_path / name).read_text() == "mine"


def test_overwrite_removes_only_files_of_the_run(tmp_path):
    fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
    mine = [tmp_path / "checkpoints" / "thesis.pt", tmp_path / "tensorboard" / "notes", tmp_path / "more.yaml"]
    for path in mine:
        path.write_text("mine")
    fl.train("digits", out=tmp_path, n_iterations=2, overwrite=True, **SMALL)
    assert all(path.read_text() == "mine" for path in mine)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("operation", ["unlink", "mkdir", "replace"])
def test_a_run_killed_while_it_creates_its_folder_can_be_resumed(tmp_path, monkeypatch, old, operation):
    if old:
        fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
        (tmp_path / ".samples.123.part.png").touch()

    def killed(*_, **__):
        raise KeyboardInterrupt

    def prepare(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(os if operation == "replace" else Path, operation, killed)
            whole(*args, **options)

    whole = RunFolder.prepare
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "prepare", prepare)
        with pytest.raises(KeyboardInterrupt):
            fl.train("digits", out=tmp_path, overwrite=True, **SMALL)
    assert fl.train("digits", out=tmp_path, n_iterations=2, resume=True, **SMALL).history
    assert not list(tmp_path.glob(".samples.*"))


@pytest.mark.parametrize("change", [{"sampler": {"n_steps": 0}}, {"model": nn.Flatten()}, {"lr": -1.0}])
def test_a_new_run_that_cannot_start_does_not_change_the_old_one(tmp_path, change):
    fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ValueError):
        fl.train("digits", out=tmp_path, overwrite=True, progress=False, **change)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


@pytest.mark.any_processor
def test_one_training_per_folder(tmp_path):
    process = start(tmp_path / "run")
    try:
        with pytest.raises(BlockingIOError, match="is in use: another process is training in it"):
            fl.train("digits", out=tmp_path / "run", resume=True, progress=False)
    finally:
        process.send(signal.SIGKILL)
        process.wait()
    fl.train("digits", out=tmp_path / "run", overwrite=True, n_iterations=1, **SMALL)


class Meanwhile(Dataset):
    """Data whose opening takes as long as what another process does meanwhile."""

    def __init__(self, other):
        self.other = other

    def __len__(self):
        return 16

    def __getitem__(self, i):
        other, self.other = self.other, lambda: None
        other()
        return torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(i))


@pytest.mark.parametrize("option", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("folder_exists", [False, True])
def test_of_two_trainings_in_one_new_folder_the_second_is_refused(tmp_path, option, folder_exists):
    """While the second opens its data, the first begins, or runs to its end."""
    out = tmp_path / "run"
    if folder_exists:
        out.mkdir()
    with contextlib.ExitStack() as first:
        data = Meanwhile(lambda: first.enter_context(RunFolder(out).locked()))
        if folder_exists:
            data.other()
        with pytest.raises(BlockingIOError, match="is in use: another process is training in it$"):
            fl.train(data, out=out, n_iterations=1, **option, **SMALL)
        assert [p.name for p in out.iterdir()] == [".lock"]


@pytest.mark.parametrize("option", [{}, {"resume": True}, {"overwrite": True}])
def test_a_run_that_began_and_ended_while_the_data_were_opened_is_kept(tmp_path, option):
    before = {}

    def other():
        fl.train("digits", out=tmp_path / "run", n_iterations=1, **SMALL)
        before.update({p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()})

    with pytest.raises(BlockingIOError, match="another process has started a run in it since this one began"):
        fl.train(Meanwhile(other), out=tmp_path / "run", n_iterations=3, **option, **SMALL)
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


def test_a_run_that_ended_before_the_lock_is_kept(tmp_path, monkeypatch):
    """In a folder that exists: the second has looked, and the first ends before the second has the lock."""
    locked, checks = RunFolder.locked, []

    def after_the_first(self):
        if not checks:
            checks.append(self)
            fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
        return locked(self)

    monkeypatch.setattr(RunFolder, "locked", after_the_first)
    with pytest.raises(FileExistsError, match="holds another run"):
        fl.train("digits", out=tmp_path, n_iterations=3, **SMALL)


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
    halves = [tmp_path / "checkpoints" / ".00000001.123.part.safetensors", tmp_path / ".samples.123.part.png"]
    for half in halves:
        half.write_text("half")
    fl.train("digits", out=tmp_path, n_iterations=2, resume=True, progress=False)
    assert not any(half.exists() for half in halves)


def test_out_must_not_lie_in_the_data(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="out must not lie inside the data's folder"):
        fl.train(tmp_path, out=tmp_path / "runs" / "x", n_iterations=1, **SMALL)
    with pytest.raises(ValueError, match="out must be a folder's name or None, got an empty string"):
        fl.train("digits", out="", n_iterations=1, **SMALL)


def test_out_must_not_be_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="out must be a folder"):
        fl.train("digits", out=tmp_path / "file", n_iterations=1, **SMALL)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": {"n_steps": 0}}, "n_steps must be an int"),
        ({"sampler": {"precision": "tf32"}}, "precision='tf32' is a mode of NVIDIA GPUs"),
        ({"model": nn.Conv2d(1, 1, 3)}, "log_density must return one number per chain"),
    ],
)
def test_bad_options_create_no_folder(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        fl.train("digits", out=tmp_path / "run", progress=False, **change)
    assert not (tmp_path / "run").exists()


def test_run_of_points_writes_an_array(tmp_path):
    model = nn.Linear(2, 1)
    fl.train(
        torch.randn(50, 2), model, out=tmp_path, n_iterations=1, batch_size=4, sampler={"n_steps": 2}, progress=False
    )
    assert np.load(tmp_path / "samples.npz")["samples"].shape == (64, 2)


def test_pictures_and_settings_are_in_tensorboard(tmp_path):
    fl.train(
        "digits", out=tmp_path, n_iterations=4, checkpoint_every=2, log_every=1, lr=[(0, 1e-3), (2, 5e-4)], **SMALL
    )
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("lr")] == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4])
    assert [event.step for event in events.Images("samples")] == [0, 2, 4]
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(start).session_start_info.hparams
    assert settings["batch_size"].number_value == 8 and settings["sampler.n_steps"].number_value == 5
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["lr"] for row in rows] == [1e-3, 1e-3, 5e-4, 5e-4]


def test_the_picture_shows_data_below_the_samples(tmp_path):
    images = torch.full((16, 1, 8, 8), -1.0)
    images[8:] = 1.0  # of the eight items that are shown, spread over the data, four are black and four white
    fl.train(images, out=tmp_path, n_iterations=1, **SMALL)
    picture = np.asarray(Image.open(tmp_path / "samples.png").convert("L"))
    factor = picture.shape[1] // 82
    row = picture[-25 - 7 * factor]  # through the row of data, above its caption
    assert [int(row[(2 + 10 * i + 4) * factor]) for i in range(8)] == [0] * 4 + [255] * 4
