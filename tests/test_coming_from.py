"""docs/coming_from.md: our blocks run as they stand, one after the other, and sample the density of the first one.

Blocks marked "python" are ours; those of other libraries, marked "py", are not run.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import torch

import fastlangevin as fl

TEXT = (Path(__file__).parent.parent / "docs" / "coming_from.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
COVARIANCE = torch.linalg.inv(torch.tensor([[2.0, -1.0], [-1.0, 2.0]]))


def test_blocks_run_and_sample_the_density():
    names: dict[str, object] = {}
    torch.manual_seed(0)
    n_checked = 0
    for block in BLOCKS:
        names.pop("x", None)
        exec(block, names)
        if "U" not in block.split("def ")[0] or "x" not in names:
            continue
        sampler = names["sampler"]
        assert sampler.target.function is names["U"]
        x = names["x"]
        last = (x[:, -1] if "transpose" in block else x[-1]) if x.dim() == 3 else x
        # Of 64 independent draws the mean has a variance of 1/64 of theirs; bounds and the step size move it little.
        assert (last.mean(0).abs() < 5 * (COVARIANCE.diag() / 64).sqrt()).all(), block
        # And their mean square, that of 64 squares of normal numbers, a relative one of 2/64; x0's is 13 times it.
        of_another_density = "grad_clip" in block
        assert (
            of_another_density or (last.square().mean(0) / COVARIANCE.diag() - 1).abs().max() < 5 * (2 / 64) ** 0.5
        ), block
        n_checked += 1
    assert n_checked >= 6


def test_options_that_the_tables_give_our_samplers_exist():
    called = re.findall(r"`fl\.([A-Z]\w+)\(([^`]*?)\)[.`]", TEXT)
    found = {(name, option) for name, options in called for option in re.findall(r"(\w+)=", options)}
    assert len(found) >= 20
    for name, option in found:
        assert option in inspect.signature(getattr(fl, name)).parameters, (name, option)


def test_names_that_the_page_gives_exist():
    for name in re.findall(r"`fl\.([\w.]+)", TEXT):
        found: object = fl
        for part in name.split("."):
            found = getattr(found, part)
