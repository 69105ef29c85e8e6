"""A run folder written by version 0.1 can be loaded and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml

import fastlangevin as fl
from fastlangevin.runs import checkpoint
from fastlangevin.runs.settings import DECLARATIONS, Settings

CLASSES = ("n_classes", "label_fingerprint")
RUN = Path(__file__).parent.parent / "fixtures" / "run_0.1"
CHECKPOINT = RUN / "checkpoints" / "00000004.safetensors"


@pytest.mark.parametrize(("ema", "prefix"), [(None, "ema.module."), (False, "model.")])
def test_it_loads(ema, prefix):
    model, sampler = fl.load(RUN, ema=ema)
    stored = safetensors.torch.load_file(CHECKPOINT)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored[prefix + name])
    assert (sampler.n_steps, sampler.step_size, sampler.noise_std) == (5, 0.5, 0.02)
    assert sampler.state_dict() == {"seed": 1, "step": 12, "stream_version": 1}


def test_it_resumes(tmp_path):
    out = shutil.copytree(RUN, tmp_path / "run")
    rows = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    result = fl.train("digits", out=out, n_iterations=6, resume=True, device="cpu", log_every=1, progress=False)
    assert result.history[:4] == rows and [row["iteration"] for row in result.history[4:]] == [5, 6]
    assert result.sampler.step == 12 + 2 * 3
    before = safetensors.torch.load_file(CHECKPOINT)
    after = safetensors.torch.load_file(out / "checkpoints" / "00000006.safetensors")
    assert after.keys() == before.keys()
    assert {n: (t.shape, t.dtype) for n, t in after.items()} == {n: (t.shape, t.dtype) for n, t in before.items()}
    for name in before:
        if name.startswith(("model.", "ema.module.")) and name.endswith("weight"):
            assert not torch.equal(after[name], before[name]) and torch.isfinite(after[name]).all()
    old, new = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (RUN, out))
    assert {name: new[name] for name in old} == {**old, "n_iterations": 6}
    newer = {
        name: DECLARATIONS[name]
        for name in new.keys() - old.keys() - {"optimizer", "from_checkpoint", "changes", *CLASSES}
    }
    assert new["from_checkpoint"] is None and new["changes"] == []
    expected = {name: d.check(name, d.default) for name, d in newer.items()}
    assert {name: new[name] for name in newer} == {**expected, "log_every": 1}


def test_a_checkpoint_from_before_rollbacks_resumes(tmp_path):
    """It does not store how many there were: none."""
    for name in ("a", "b"):
        out = shutil.copytree(RUN, tmp_path / name)
        path = out / "checkpoints" / CHECKPOINT.name
        tensors, meta = checkpoint.load(path)
        if name == "a":
            del meta["attempt"]
        checkpoint.save(path, tensors, meta)
        fl.train("digits", out=out, n_iterations=6, resume=True, device="cpu", progress=False)
    (a, meta), (b, _) = (checkpoint.load(checkpoint.newest(tmp_path / name / "checkpoints")) for name in ("a", "b"))
    assert meta["attempt"] == 0 and all(torch.equal(a[name], b[name]) for name in b)


def test_a_temperature_without_effect_is_ignored(tmp_path):
    """Version 0.1 stored one together with a number for noise_std, which is an error in new settings."""
    out = shutil.copytree(RUN, tmp_path / "run")
    path = out / "checkpoints" / CHECKPOINT.name
    tensors, meta = checkpoint.load(path)
    meta["settings"]["sampler"]["temperature"] = 0.5
    checkpoint.save(path, tensors, meta)
    config = yaml.safe_load((out / "config.yaml").read_text())
    config["sampler"]["temperature"] = 0.5
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    assert fl.load(out)[1].temperature == 1.0 and fl.load(out, sampler={"n_steps": 2})[1].noise_std == 0.02
    options = {"sampler": {"step_size": 0.5, "temperature": 0.5}, "resume": True, "progress": False, "device": "cpu"}
    assert fl.train("digits", out=out, n_iterations=5, **options).sampler.temperature == 1.0


def test_settings_that_a_stored_run_lacks_are_the_defaults():
    """For a run that was written before a setting existed."""
    stored = checkpoint.load(CHECKPOINT)[1]["settings"]
    whole = Settings.from_dict(stored)
    lacking = Settings.from_dict({k: v for k, v in stored.items() if k not in ("adam_betas", "ema")})
    assert lacking.adam_betas == [0.9, 0.999] and lacking.ema == 0.0
    assert whole.ema == 0.5 and whole.features == 2
    assert {name: whole.to_dict()[name] for name in stored} == stored
