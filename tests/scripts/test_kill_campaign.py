"""The campaign of kills: what it compares."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from support.training_runs import SMALL

import fastlangevin as fl
from fastlangevin.runs import checkpoint

PATH = Path(__file__).parents[2] / "scripts" / "kill_campaign.py"
spec = importlib.util.spec_from_file_location("kill_campaign", PATH)
kill_campaign = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kill_campaign)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("campaign") / "run"
    fl.train("digits", out=out, n_iterations=2, log_every=1, **SMALL)
    return out


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (None, []),
        ("weight", ["model.net.0.weight"]),
        ("missing", ["random.cpu"]),
        ("counter", ["sampler"]),
        ("row", ["metrics.jsonl"]),
        ("seconds", []),
        ("picture", ["samples.png"]),
    ],
)
def test_what_differs_is_named(tmp_path, run, change, found):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    newest = checkpoint.newest(other / "checkpoints")
    tensors, meta = checkpoint.load(newest)
    if change == "weight":
        tensors["model.net.0.weight"].view(-1)[3] *= 1 + 2**-23
    elif change == "missing":
        del tensors["random.cpu"]
    elif change == "counter":
        meta["sampler"]["step"] += 1
    elif change in ("row", "seconds"):
        rows = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
        rows[0]["seconds" if change == "seconds" else "energy_gap"] += 1
        (other / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif change == "picture":
        (other / "samples.png").write_bytes(b"another")
    checkpoint.save(newest, tensors, meta)
    assert kill_campaign.differences(run, other) == found


def test_what_a_kill_leaves_behind(tmp_path, run):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    assert kill_campaign.left_behind(other) == 0 and kill_campaign.last_iteration(other) == 2
    (other / "checkpoints" / ".00000003.7.part.safetensors").touch()
    assert kill_campaign.left_behind(other) == 1 and kill_campaign.last_iteration(other) == 2
    (other / "checkpoints" / "00000003.safetensors").touch()
    with pytest.raises(fl.CheckpointError):
        kill_campaign.last_iteration(other)
