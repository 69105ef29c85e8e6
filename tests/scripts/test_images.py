"""The scripts that draw images, and alter them to judge samples."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name):
    return runpy.run_path(str(SCRIPTS / name))


def test_images_of_other_kinds():
    pytest.importorskip("sklearn")
    draw, random = script("draw_images.py"), np.random.default_rng(0)
    for drawn in (draw["patches"](20, random), [draw["texture"](kind, random) for kind in draw["TEXTURES"]]):
        images = np.stack([np.asarray(image) for image in drawn])
        assert images.shape[1:] == (32, 32, 3) and images.dtype == np.uint8
        assert images.std(0).mean() > 10 and images.std((1, 2)).mean(1).min() > 2  # no two alike, and none plain


def test_altered_images_keep_their_pixels():
    judge = script("judge_shapes.py")
    x = torch.rand(8, 3, 32, 32)
    for size in (4, 8):
        moved = judge["shuffled"](x, size)
        assert not torch.equal(moved, x) and torch.equal(moved.flatten(2).sort(2)[0], x.flatten(2).sort(2)[0])
        blocks = [t.unfold(2, size, size).unfold(3, size, size).flatten(4).sum(4).flatten(2) for t in (x, moved)]
        assert torch.equal(blocks[0].sort(2)[0], blocks[1].sort(2)[0])
    altered = judge["altered"](x)
    assert altered.shape == x.shape and torch.equal(altered[1], (x[1] + x[0]) / 2)


def test_pictures_of_trainings_that_go_wrong(tmp_path):
    draw = script("draw_symptoms.py")
    draw["BASE"]["n_iterations"] = 1
    draw["main"](str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {f"own_data-{name}.png" for name in draw["SYMPTOMS"]}
