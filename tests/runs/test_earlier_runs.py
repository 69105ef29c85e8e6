"""A run of version 0.1, as it was left on disk then: it opens, and goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import fastlangevin as fl

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
    result = fl.train("digits", out=out, n_iterations=6, resume=True, log_every=1, device="cpu", progress=False)
    assert result.history[:4] == rows and [row["iteration"] for row in result.history[4:]] == [5, 6]
    assert result.sampler.step == 12 + 2 * 3
    before = safetensors.torch.load_file(CHECKPOINT)
    after = safetensors.torch.load_file(out / "checkpoints" / "00000006.safetensors")
    assert after.keys() == before.keys()
    assert {n: (t.shape, t.dtype) for n, t in after.items()} == {n: (t.shape, t.dtype) for n, t in before.items()}
    for name in before:
        if name.startswith(("model.", "ema.module.")) and name.endswith("weight"):
            assert not torch.equal(after[name], before[name]) and torch.isfinite(after[name]).all()
    with (RUN / "config.yaml").open() as old, (out / "config.yaml").open() as new:
        assert new.read() == old.read().replace("n_iterations: 4", "n_iterations: 6")
