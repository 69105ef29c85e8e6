from __future__ import annotations

import pytest

import fastlangevin as fl


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation") / "run"
    options = dict(features=4, batch_size=8, sampler={"n_steps": 3}, sample_steps=5, n_iterations=2)
    fl.train("digits", out=out, progress=False, **options)
    return out
