"""Small trainings, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from torch import nn

import fastlangevin as fl
from fastlangevin.runs import checkpoint

SMALL = {
    "features": 4,
    "batch_size": 8,
    "lr_decay": 0.0,
    "sampler": {"n_steps": 5, "noise_std": 0.01},
    "sample_steps": 5,
    "progress": False,
}


def save_blank_plot(history: list[dict], path: Path) -> None:
    """In place of the plot of a training, and as large: a plot takes longer than most trainings of the tests."""
    assert all(isinstance(row["iteration"], int) for row in history)
    Image.new("L", (960, 1080)).save(path)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def tensors_of(folder) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.newest(folder / "checkpoints"))[0]


def assert_same_run(a, b) -> None:
    expected, got = tensors_of(a), tensors_of(b)
    assert expected.keys() == got.keys()
    for name in expected:  # by their bytes: velocities that are not known are NaN
        assert torch.equal(*(t[name].reshape(-1).view(torch.uint8) for t in (expected, got))), name
    meta_a, meta_b = (checkpoint.load(checkpoint.newest(f / "checkpoints"))[1] for f in (a, b))
    assert meta_a["sampler"] == meta_b["sampler"] and meta_a["iteration"] == meta_b["iteration"]
    strip = lambda folder: [
        {k: v for k, v in json.loads(line).items() if k != "seconds"}
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert strip(a) == strip(b)
    assert (a / "samples.png").read_bytes() == (b / "samples.png").read_bytes()


OPTIONS = ["--features", "4", "--batch-size", "8", "--lr-decay", "0", "--steps", "5", "--noise-std", "0.01"]
OPTIONS += ["--sample-steps", "5"]


def finish(out, n_iterations: int) -> None:
    """Ends a run in this process, with one thread as it began."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fl.train("digits", out=out, n_iterations=n_iterations, checkpoint_every=3, resume=True, progress=False)
    finally:
        torch.set_num_threads(before)
