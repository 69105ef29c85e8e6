"""Seeds and counts that are NumPy integers mean what Python's do, wherever they are given."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.training_runs import SMALL, assert_same_run

import fastlangevin as fl
from fastlangevin.data.order import batch_indices


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.int32])
def test_of_samplers_buffers_and_noise(kind):
    def results(integer):
        seed, step = integer(7), integer(3)
        sampler = fl.Langevin(fl.energies.DoubleWell(2), n_steps=integer(2), seed=seed)
        buffer = fl.ReplayBuffer(integer(5), (2,), seed=seed)
        yield sampler.sample((integer(4), 2), step=step, chain_offset=integer(1))
        yield sampler.trace(sampler.initial((4, 2), step=step), every=integer(1), step=step).x
        yield sampler(torch.ones(4, 2), n_steps=integer(3))
        sampler.load_state_dict({"seed": seed, "step": step, "stream_version": fl.noise.STREAM_VERSION})
        yield sampler.sample((4, 2))
        yield buffer.sample(integer(3)).x
        yield fl.noise.normal((5,), seed=seed, step=step, stream=integer(1), offset=integer(2))
        yield fl.langevin_update_(torch.ones(3), None, None, 1.0, seed=seed, step=step)
        yield batch_indices(integer(9), integer(4), seed=seed, iteration=integer(2))
        assert type(sampler.seed) is type(sampler.step) is type(buffer.seed) is int

    for expected, got in zip(results(int), results(kind), strict=True):
        assert torch.equal(expected, got)


def test_of_a_training_and_its_evaluation(tmp_path):
    options = {**SMALL, "log_every": 1}
    for name, integer in (("python", int), ("numpy", np.int64)):
        for n in (1, 2):
            numbers = {"n_iterations": integer(n), "seed": integer(5), "checkpoint_every": integer(1)}
            fl.train("digits", out=tmp_path / name, resume=True, **options, **numbers)
    assert_same_run(tmp_path / "python", tmp_path / "numpy")
    measured = {"fid": False, "n_reconstruct": np.int64(1), "n_chains": np.int64(2), "progress": False}
    result = fl.evaluate(tmp_path / "numpy", "digits", n=np.int64(64), seed=np.int64(3), **measured)
    assert json.loads(json.dumps(result))["seed"] == 3 and "coverage" in result


@pytest.mark.parametrize("seed", [True, 1.0, -1, 2**64, np.float64(1), "1"])
def test_seeds_of_a_training_that_are_none(seed):
    with pytest.raises(ValueError, match=r"seed must be an int in 0 … 2\^64 - 1"):
        fl.train("digits", n_iterations=1, seed=seed, **SMALL)
