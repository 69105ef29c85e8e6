"""Settings that are known to work: keyword dicts for `fastlangevin.train`, "sampler" holding options of `Langevin`."""

from __future__ import annotations

from typing import Any

# Nijkamp, Hill, Zhu and Wu, NeurIPS 2019, arXiv:1904.09770, Sections 3 and 5 and the authors' minimal script.
short_run: dict[str, Any] = {
    "features": 64,
    "n_iterations": 70_000,
    "batch_size": 64,
    "lr": 1e-4,
    "lr_decay": 0.0,
    "data_noise": 0.03,
    "sampler": {"n_steps": 100, "step_size": 1.0, "noise_std": 0.01},
    "sample_steps": None,
}

# The 8×8 digits on two CPU cores in 40 seconds. Chains of 10 steps learn as well an iteration as longer ones here and
# cost less; four steps more when sampling resolve most of the blends between digits (docs/digits.md).
digits: dict[str, Any] = {
    "features": 64,
    "n_iterations": 1_400,
    "batch_size": 32,
    "lr": 2e-3,
    "lr_decay": 0.5,
    "data_noise": 0.1,
    "sampler": {"n_steps": 10, "step_size": 1.0, "noise_std": 0.03},
    "sample_steps": 14,
}

# What `train` starts from for data known by name; anything else starts from `short_run`.
BY_DATA = {"digits": digits}
