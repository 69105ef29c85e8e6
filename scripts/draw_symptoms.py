"""Draws 16 samples each of trainings that go wrong as docs/guides/bad_samples.md explains, and of one that does not.

    python scripts/draw_symptoms.py docs

Each is a training of the digits with 16 features; all take half a minute on two cores. Divergence is not detected, so
that it can be seen.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import fastlangevin as fl

BASE: dict[str, Any] = {
    **fl.recipes.digits,
    "features": 16,
    "n_iterations": 400,
    **dict.fromkeys(["max_energy_gap", "max_relative_gap", "max_saturation"], float("inf")),
}
FROM_BUFFER: dict[str, Any] = {"start": "buffer", "lr": 5e-3, "lr_decay": 0.0}
SYMPTOMS: dict[str, dict[str, Any]] = {  # what is changed
    "good": {},
    "blown-up": {"lr": 3e-2},
    "collapsed": {**FROM_BUFFER, "buffer": {"capacity": 200, "reinit": 0.05}, "sample_steps": 200},
    "noise": {**FROM_BUFFER, "buffer": {"capacity": 500, "reinit": 0.0}},
    "saturated": {"sample_steps": 100},
}


def main(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, changes in SYMPTOMS.items():
        result = fl.train("digits", progress=False, **{**BASE, **changes})
        x = result.sampler.sample((16, 1, 8, 8), step=0)
        fl.save_grid(x, Path(folder, f"own_data-{name}.png"), columns=16)
        outside, spread = (x.abs() > 1).float().mean(), x.clamp(-1, 1).std(0).mean()
        print(
            f"{name}: values from {x.min():.3g} to {x.max():.3g}, {outside:.0%} outside [-1, 1], standard deviation "
            f"between samples {spread:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/draw_symptoms.py FOLDER")
    main(sys.argv[1])
