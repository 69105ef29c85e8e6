"""Options are read-only; `replace` returns another sampler, which shares the noise counter."""

from __future__ import annotations

import functools

import pytest
import torch
from support.fake_capture import FakeCapture
from support.langevin_reference import normal, quadratic, small_net

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache

CHANGES = {
    "n_steps": 7,
    "step_size": 0.5,
    "noise_std": 0.2,
    "temperature": 1.0,
    "grad_clip": 0.1,
    "grad_clip_norm": 0.2,
    "bounds": (-1.0, 1.0),
    "noise_first": True,
    "noise_last": False,
    "preconditioner": fl.RMSprop(),
    "init": "normal",
    "precision": "bf16",
    "engine": "autograd",
    "backend": "reference",
    "graph": False,
    "unroll": 1,
}


@pytest.mark.parametrize("name", CHANGES)
def test_options_are_read_only(name):
    sampler = fl.Langevin(small_net(), n_steps=3, seed=1)
    before = getattr(sampler, name)
    with pytest.raises(AttributeError, match=rf"{name} of a sampler is read-only: use sampler.replace\({name}=…\)"):
        setattr(sampler, name, CHANGES[name])
    assert getattr(sampler, name) == before


def test_every_option_can_be_replaced():
    assert CHANGES.keys() == fl.Langevin._defaults().keys()
    sampler = fl.Langevin(small_net(), n_steps=3, seed=1)
    for name, value in CHANGES.items():
        other = sampler.replace(**{name: value})
        assert getattr(other, name) == value
        for same in CHANGES.keys() - {name}:
            assert getattr(other, same) == getattr(sampler, same)
    assert sampler.n_steps == 3 and sampler.engine == "auto"


def test_a_replaced_engine_and_precision_are_used():
    sampler = fl.Langevin(small_net(), n_steps=3, seed=1)
    x0 = torch.randn(5, 3)
    assert sampler.plan.engine == "mlp" and sampler.replace(engine="autograd").plan.engine == "autograd"
    low = sampler.replace(engine="autograd", precision="bf16")
    assert low.precision == "bf16"
    expected = fl.Langevin(small_net(), n_steps=3, engine="autograd", precision="bf16", seed=1)(x0)
    assert torch.equal(low(x0), expected)


def test_both_use_one_counter():
    sampler = fl.Langevin(quadratic, n_steps=2, step_size=0.0, noise_std=1.0, seed=1)
    other = sampler.replace(n_steps=3)
    x0 = torch.zeros(2, 2)
    sampler(x0)
    assert torch.equal(other(x0), sum(normal((2, 2), k) for k in (2, 3, 4)))  # one rounding a sum
    assert sampler.step == other.step == 5
    other.load_state_dict({**other.state_dict(), "seed": 9, "step": 1})
    assert (sampler.seed, sampler.step) == (9, 1)


def test_another_target_replaces_the_old_one():
    sampler = fl.Langevin(quadratic, n_steps=1, noise_std=0.0, seed=1)
    assert torch.equal(sampler.replace(score=lambda x: 0 * x)(torch.ones(2, 2)), torch.ones(2, 2))
    assert torch.equal(sampler(torch.ones(2, 2)), torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"bounds": (1, -1)}, ValueError, "bounds must have lo < hi"),
        ({"n_step": 3}, TypeError, "an option of Langevin must be one of .*; did you mean 'n_steps'"),
        ({"seed": 3}, ValueError, "seed cannot be replaced, because both samplers share one noise counter"),
        ({"generator": torch.Generator()}, ValueError, "generator cannot be replaced"),
        ({"temperature": 0.5}, ValueError, "temperature must be 1 unless .*got temperature=0.5 and noise_std=0.01"),
        ({"energy": quadratic, "score": quadratic}, ValueError, "exactly one of"),
    ],
)
def test_bad_replacements(options, error, words):
    sampler = fl.Langevin(quadratic, n_steps=3, seed=1)
    with pytest.raises(error, match=words):
        sampler.replace(**options)


@pytest.mark.parametrize(
    ("options", "shared"),
    [
        ({"step_size": 0.5, "noise_std": lambda k: 0.1 * k}, True),
        ({"grad_clip": 0.05}, True),
        ({"bounds": (-0.1, 0.1)}, True),
        ({"noise_first": True}, True),
        ({"engine": "autograd"}, False),
        ({"precision": "bf16"}, False),
    ],
)
def test_captured_graphs_are_shared_where_they_can_be(options, shared):
    """With a fake capture. Shared or not, a replay follows the options of the sampler that is called."""
    FakeCapture.made = []
    net, x0 = small_net(), torch.randn(4, 3)
    sampler = fl.Langevin(net, n_steps=4, seed=3)
    sampler._graphs = GraphCache("auto", None, functools.partial(FakeCapture), "cpu")
    sampler(x0, step=0)
    other = sampler.replace(**options)
    assert (other._graphs is sampler._graphs) is shared
    expected = fl.Langevin(net, n_steps=4, seed=3).replace(**options)(x0, step=0)
    assert torch.equal(other(x0, step=0), expected)


def test_repr_runs_nothing():
    def energy(x):
        raise AssertionError("the energy ran")

    text = repr(fl.Langevin(energy, n_steps=3, bounds=(-1, 1), noise_std=lambda k: 0.1, seed=4))
    assert text == (
        "Langevin(energy=energy, n_steps=3, step_size=1.0, noise_std=…, bounds=(-1.0, 1.0), seed=4, step=0)"
    )
