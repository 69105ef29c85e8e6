"""Short reprs, and the warning for a trained log-density that is given as an energy."""

from __future__ import annotations

import warnings

import pytest
import torch
from support.training_runs import SMALL

import fastlangevin as fl


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return fl.train("digits", out=tmp_path_factory.mktemp("x") / "run", n_iterations=2, log_every=1, ema=0.5, **SMALL)


def test_reprs(trained):
    trace = trained.sampler.trace(torch.zeros(3, 1, 8, 8), every=2)
    assert repr(trace) == "Trace(4 records of 3 chains of shape (1, 8, 8) over 5 steps, with energies)"
    assert repr(trained) == f"TrainResult(ConvNet after 2 iterations, out={str(trained.out)!r})"
    plan = repr(trained.sampler.plan)
    assert plan.startswith("Plan(device=") and "reasons" not in plan and len(plan) < 120


def test_a_trained_network_as_energy_warns(trained):
    for network in (trained.model, trained.ema, fl.load(trained.out)[0]):
        with pytest.warns(UserWarning, match=r"energy=.* is a log-density: .* Use log_density=") as caught:
            fl.Langevin(network)
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fl.Langevin(log_density=network)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fl.Langevin(fl.models.ConvNet(8, 1))
