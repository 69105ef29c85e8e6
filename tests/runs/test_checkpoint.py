"""Checkpoints: content, loading, damaged files and files of other programs."""

from __future__ import annotations

import os

import pytest
import torch
from support.training_runs import SMALL, weights
from torch import nn

import fastlangevin as fl
from fastlangevin.runs import checkpoint


def test_load_returns_the_model_and_the_sampler_at_the_end_of_training(tmp_path):
    result = fl.train("digits", out=tmp_path, n_iterations=3, **SMALL)
    expected = result.sampler.sample((4, 1, 8, 8))
    for source in (tmp_path, str(tmp_path), checkpoint.newest(tmp_path / "checkpoints")):
        model, sampler = fl.load(source)
        assert torch.equal(weights(model), weights(result.model))
        assert torch.equal(sampler.sample((4, 1, 8, 8)), expected)
    _, other = fl.load(tmp_path, sampler={"n_steps": 7})
    with pytest.raises(TypeError, match="an option of Langevin must be one of .*; did you mean 'n_steps'"):
        fl.load(tmp_path, sampler={"n_stps": 7})
    assert other.n_steps == 7 and other.step == 15


def test_load_of_a_user_defined_model(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    options = {k: v for k, v in SMALL.items() if k != "features"}
    fl.train("digits", model, out=tmp_path, n_iterations=1, **options)
    with pytest.raises(ValueError, match="Sequential, a user-defined class: pass an instance as model="):
        fl.load(tmp_path)
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    loaded, _ = fl.load(tmp_path, model=own)
    assert loaded is own and torch.equal(weights(own), weights(model))
    with pytest.raises(fl.CheckpointError, match="is from another model: .*1.bias"):
        fl.load(tmp_path, model=fl.models.ConvNet(8, 1, 4))
    with pytest.raises(fl.CheckpointError, match="1.weight is \\(1, 64\\) in the file and \\(2, 64\\) in the model"):
        fl.load(tmp_path, model=nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_checkpoint_is_named(tmp_path, keep):
    fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
    newest = checkpoint.newest(tmp_path / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:keep])
    for use in (lambda: fl.load(tmp_path), lambda: fl.train("digits", out=tmp_path, resume=True, progress=False)):
        with pytest.raises(fl.CheckpointError, match=f"{newest.name} is damaged.*older checkpoint"):
            use()


def test_files_that_are_not_checkpoints(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(fl.CheckpointError, match="not a fastlangevin checkpoint"):
        fl.load(tmp_path / "other.safetensors")
    for meta in ("{", "{}", '{"format": 1}', "[]"):
        safetensors.torch.save_file({}, tmp_path / "odd.safetensors", metadata={"fastlangevin": meta})
        with pytest.raises(fl.CheckpointError, match="not a fastlangevin checkpoint"):
            fl.load(tmp_path / "odd.safetensors")
    safetensors.torch.save_file({}, tmp_path / "new.safetensors", metadata={"fastlangevin": '{"format": 99}'})
    with pytest.raises(fl.CheckpointError, match="has checkpoint format 99, this version reads 1"):
        fl.load(tmp_path / "new.safetensors")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        fl.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a run's folder nor a checkpoint file"):
        fl.load(tmp_path / "nowhere")


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    fl.train("digits", out=tmp_path, n_iterations=2, **SMALL)
    newest = checkpoint.newest(tmp_path / "checkpoints")
    before = newest.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match="could not be written \\(No space left on device\\); an existing file is unchanged"
    ):
        fl.train("digits", out=tmp_path, n_iterations=4, resume=True, progress=False)
    assert checkpoint.newest(tmp_path / "checkpoints") == newest and newest.read_bytes() == before
    assert [p.name for p in tmp_path.rglob(".*")] == [".lock"]


def test_tied_weights_and_buffers_are_kept(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(64, 64)
            self.b = nn.Linear(64, 64)
            self.b.weight = self.a.weight
            self.register_buffer("scale", torch.tensor(2.0))

        def forward(self, x):
            return (self.b(torch.tanh(self.a(x.flatten(1)))) * self.scale).sum(1)

    options = {k: v for k, v in SMALL.items() if k != "features"}
    model = Tied()
    fl.train("digits", model, out=tmp_path, n_iterations=2, **options)
    loaded, _ = fl.load(tmp_path, model=Tied())
    assert torch.equal(weights(loaded), weights(model))


def test_divergence_names_the_last_good_checkpoint(tmp_path):
    with pytest.raises(
        fl.ChainDiverged, match="training diverged at iteration .*lower lr.*safetensors was saved before the divergence"
    ):
        fl.train("digits", out=tmp_path, n_iterations=200, lr=1e3, checkpoint_every=1, **SMALL)
    tensors, _ = checkpoint.load(checkpoint.newest(tmp_path / "checkpoints"))
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())
