"""Scripts of `examples/` that other parts of the project use."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
from PIL import Image

import fastlangevin as fl

EXAMPLES = Path(__file__).parent.parent / "examples"


def drawn(folder: Path, number: int, seed: int) -> dict[str, np.ndarray]:
    runpy.run_path(str(EXAMPLES / "shapes.py"))["main"](str(folder), str(number), str(seed))
    return {p.relative_to(folder).as_posix(): np.asarray(Image.open(p)) for p in sorted(folder.rglob("*.png"))}


def test_shapes(tmp_path):
    images = drawn(tmp_path / "a", 50, 0)
    assert len(images) == 50 and {x.shape for x in images.values()} == {(32, 32, 3)}
    assert {name.split("/")[0] for name in images} == {"crosses", "discs", "rings", "squares", "triangles"}
    for x in images.values():
        ground, inside = x[0, 0], (x != x[0, 0]).any(2)
        edge = np.concatenate([x[0], x[-1], x[:, 0], x[:, -1]])
        assert (edge == ground).all() and 60 <= inside.sum() <= 600  # one whole shape
    again, other = drawn(tmp_path / "b", 50, 0), drawn(tmp_path / "c", 50, 1)
    assert all((x == again[name]).all() for name, x in images.items())
    assert all((x != other[name]).any() for name, x in images.items())
    data = fl.load_data(tmp_path / "a")
    assert data.event_shape == (3, 32, 32) and data.labels is not None and data.labels.bincount().tolist() == [10] * 5
