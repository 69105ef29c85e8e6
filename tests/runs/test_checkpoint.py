"""Checkpoints: content, loading, damaged files and files of other programs."""

from __future__ import annotations

import json
import os
import random
import shutil

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


class ConvNet(nn.Sequential):
    """A user-defined network with the name of the library's."""


@pytest.mark.parametrize("classes", [None, 10])
def test_load_of_a_convnet_that_the_caller_made(tmp_path, classes):
    options = {**{k: v for k, v in SMALL.items() if k != "features"}, "class_conditional": classes is not None}
    model = fl.models.ConvNet(8, 1, 4, classes)
    fl.train("digits", model, out=tmp_path / "ours", n_iterations=1, **options)
    assert torch.equal(weights(fl.load(tmp_path / "ours")[0]), weights(model))
    fl.train("digits", out=tmp_path / "ours", n_iterations=2, resume=True, **options)
    if classes is None:
        model = ConvNet(nn.Flatten(), nn.Linear(64, 1))
        fl.train("digits", model, out=tmp_path / "own", n_iterations=1, **options)
        assert torch.equal(weights(fl.load(tmp_path / "own", model=ConvNet(*model))[0]), weights(model))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_checkpoint_is_named(tmp_path, keep):
    fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
    newest = checkpoint.newest(tmp_path / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:keep])
    for use in (lambda: fl.load(tmp_path), lambda: fl.train("digits", out=tmp_path, resume=True, progress=False)):
        with pytest.raises(fl.CheckpointError, match=f"{newest.name} is damaged.*older checkpoint .*00000000"):
            use()


def test_a_flipped_bit_is_noticed(tmp_path):
    """Anywhere in the file; in the values of a tensor, the error names it."""
    fl.train("digits", out=tmp_path, n_iterations=1, **SMALL)
    path = checkpoint.newest(tmp_path / "checkpoints")
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    offsets = {k: v["data_offsets"] for k, v in json.loads(content[8:start]).items() if k != "__metadata__"}
    for name, (begin, _) in offsets.items():
        flipped = bytearray(content)
        flipped[start + begin] ^= 0x20
        path.write_bytes(flipped)
        with pytest.raises(fl.CheckpointError, match=f"{path.name} is damaged: its tensor '{name}' .*older .*00000000"):
            fl.load(tmp_path)
    rng = random.Random(0)
    for place in [*rng.sample(range(len(content)), 40), *rng.sample(range(start), 200)]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(fl.CheckpointError, match=path.name):
            fl.load(tmp_path)
    path.unlink()
    fl.load(tmp_path)


@pytest.mark.parametrize("name", ["model.net.0.weight", "optimizer.0.exp_avg", "ema.module.net.2.bias"])
def test_values_that_are_not_finite_are_named(tmp_path, name):
    options = {"out": tmp_path, "ema": 0.5, **SMALL}
    fl.train("digits", n_iterations=1, **options)
    path = checkpoint.newest(tmp_path / "checkpoints")
    tensors, meta = checkpoint.load(path)
    tensors[name].view(-1)[0] = torch.nan
    checkpoint.save(path, tensors, meta)
    words = f"{path.name} holds .*NaN or infinity in {name}.*older"
    with pytest.raises(fl.CheckpointError, match=words):
        fl.train("digits", n_iterations=2, resume=True, **options)
    if not name.startswith("optimizer"):
        with pytest.raises(fl.CheckpointError, match=words):
            fl.load(tmp_path, ema=name.startswith("ema"))


def changed(meta, key, value):
    *outer, last = key.split("/")
    for name in outer:
        meta = meta[int(name) if name.isdigit() else name]
    if value is None:
        del meta[last]
    else:
        meta[last] = value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("iteration", "7"),
        ("iteration", -1),
        ("attempt", [1]),
        ("diverged_at", "7"),
        ("back_to", -1),
        ("sampler", []),
        ("sampler/step", -1),
        ("sampler/seed", "x"),
        ("settings", [3]),
        ("settings/batch_size", 0),
        ("settings/data", None),
        ("settings/event_shape", 3),
        ("settings/event_shape", [1, -8]),
        ("settings/lr", "NaN"),
        ("settings/sampler", {"n_steps": -5}),
        ("settings/sampler", {"evil": 1}),
        ("settings/model", {"class": "ConvNet", "image_size": 8, "channels": 1, "features": 4, "evil": 1}),
        ("settings/model", {"class": "ConvNet", "image_size": 7, "channels": 1, "features": 4}),
        ("settings/model", []),
        ("settings/model", {"class": "ConvNet", "image_size": 8, "channels": 1, "features": 4, "n_classes": 0}),
        ("settings/n_classes", "3"),
        ("settings/changes", 1),
    ],
)
def test_values_that_no_training_writes(tmp_path, run, key, value):
    tensors, meta = checkpoint.load(run)
    changed(meta, key, value)
    path = tmp_path / "00000001.safetensors"
    checkpoint.save(path, tensors, meta)
    with pytest.raises(fl.CheckpointError, match=f"{path.name} holds values that cannot be restored \\(.*; no older"):
        fl.load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer_groups", "lr"),
        ("optimizer_groups", [1]),
        ("optimizer_groups", []),
        ("optimizer_groups/0/params", [0]),
        ("optimizer_groups/0/eps", "x"),
        ("optimizer_groups/0/betas", [0.9, float("nan")]),
        ("optimizer_rest", {"99.step": 1}),
        ("gaps", []),
        ("gaps/recent", 1),
        ("gaps/above", ["x"]),
        ("gaps/is_settled", 1),
        ("tensor/optimizer.0.exp_avg", torch.zeros(3)),
        ("tensor/optimizer.99.exp_avg", torch.zeros(3)),
        ("tensor/optimizer.x", torch.zeros(3)),
        ("tensor/random.cpu", torch.zeros(3)),
        ("tensor/random.cpu", None),
    ],
)
def test_a_state_that_no_training_writes(tmp_path, run, key, value):
    out = tmp_path / "run"
    shutil.copytree(run.parents[1], out)
    path = out / "checkpoints" / run.name
    tensors, meta = checkpoint.load(path)
    both = {**meta, "tensor": tensors}
    changed(both, key, value)
    checkpoint.save(path, both.pop("tensor"), both)
    with pytest.raises(fl.CheckpointError, match=f"{path.name} holds values that cannot be restored .*older .*0000"):
        fl.train("digits", out=out, n_iterations=2, resume=True, progress=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("checkpoint") / "run"
    fl.train("digits", out=out, n_iterations=1, **SMALL)
    return checkpoint.newest(out / "checkpoints")


class WithExtraState(nn.Module):
    def __init__(self, extra):
        super().__init__()
        self.linear, self.extra, self.restored = nn.Linear(2, 1), extra, None

    def forward(self, x):
        return self.linear(x)

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.restored = state


@pytest.mark.parametrize("extra", [{"version": 1, "names": ["a", None]}, torch.arange(3), 0.5, None])
def test_extra_state_of_modules_is_kept(tmp_path, extra):
    options = dict(out=tmp_path, batch_size=4, sampler={"n_steps": 2}, progress=False, ema=0.5)
    fl.train(torch.rand(20, 2), WithExtraState(extra), n_iterations=1, **options)
    model = WithExtraState("another")
    fl.load(tmp_path, model=model)
    assert torch.equal(model.restored, extra) if isinstance(extra, torch.Tensor) else model.restored == extra
    with pytest.raises(fl.CheckpointError, match="_extra_state is not in the model"):
        fl.load(tmp_path, model=nn.Sequential(nn.Linear(2, 1)))


@pytest.mark.parametrize("extra", [{1: "a"}, (1, 2), {"f": len}, {"x": torch.zeros(2)}, torch.eye(2).to_sparse()])
def test_extra_state_that_cannot_be_stored_is_refused_at_the_start(tmp_path, extra):
    options = dict(batch_size=4, sampler={"n_steps": 2}, progress=False, n_iterations=1)
    with pytest.raises(TypeError, match="model's _extra_state must be"):
        fl.train(torch.rand(20, 2), WithExtraState(extra), out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    fl.train(torch.rand(20, 2), WithExtraState(extra), **options)


def test_files_that_are_not_checkpoints(tmp_path):
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(fl.CheckpointError, match="not a fastlangevin checkpoint"):
        fl.load(tmp_path / "other.safetensors")
    for meta in ("{", "{}", '{"format": 1}', "[]", "9" * 5000, "[" * 100_000):
        safetensors.torch.save_file({}, tmp_path / "odd.safetensors", metadata={"fastlangevin": meta})
        with pytest.raises(fl.CheckpointError, match="not a fastlangevin checkpoint"):
            fl.load(tmp_path / "odd.safetensors")
    safetensors.torch.save_file({}, tmp_path / "new.safetensors", metadata={"fastlangevin": '{"format": 99}'})
    with pytest.raises(fl.CheckpointError, match="has checkpoint format 99, this version reads 1 and 2"):
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
