"""Whole chains of MALA, HMC and underdamped dynamics by native convnets and programs: the bits of single moves."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

import fastlangevin as fl
from fastlangevin.kernels import native
from fastlangevin.kernels.cpu import program, whole_chain
from fastlangevin.kernels.native import BFloat16Rate
from fastlangevin.network.inputs import Inputs
from fastlangevin.score.convnet import NativeConvNetScore
from fastlangevin.score.graph import NativeGraphScore

pytestmark = pytest.mark.skipif(native.load_cpu() is not None, reason="no cpu kernels here")

EVENT, N_STEPS = (3, 4, 4), 5
MASS = torch.linspace(0.5, 2.0, 48).reshape(EVENT)
KINDS = {
    "mala": functools.partial(fl.MALA, step_size=0.3, temperature=0.8),
    "mala, schedule": functools.partial(fl.MALA, step_size=[0.1, 0.3, 0.25, 0.2, 0.15], bounds=(-3.0, 3.1)),
    "hmc": functools.partial(fl.HMC, step_size=0.9, n_leapfrog=3, mass=MASS, temperature=1.3),
    "hmc, one leapfrog step": functools.partial(fl.HMC, step_size=0.3, n_leapfrog=1, bounds=(-2.0, 2.1)),
    "underdamped": functools.partial(fl.Underdamped, step_size=0.3, friction=0.7, mass=MASS, temperature=1.5),
    "underdamped, schedule": functools.partial(fl.Underdamped, step_size=[0.1, 0.3, 0.3, 0.4, 0.5], mass=2.0),
}


def convnet(activation) -> nn.Sequential:
    torch.manual_seed(3)
    tower = [nn.Conv2d(3, 20, 3, 1, 1), activation(), nn.Conv2d(20, 33, 4, 2, 1), activation(), nn.Flatten()]
    net = nn.Sequential(*tower, nn.Linear(132, 1), nn.Flatten(0)).requires_grad_(False)
    net[-2].weight.mul_(10)
    return net


def small() -> nn.Sequential:
    """Computed with chains side by side."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 19), nn.SiLU(), nn.Linear(19, 1), nn.Flatten(0))
    net.requires_grad_(False)[-2].weight.mul_(10)
    return net


# By the name of the case: the engine, its network and its score.
ENGINES = {
    "convnet": ("convnet", functools.partial(convnet, nn.LeakyReLU), NativeConvNetScore),
    "graph": ("graph", functools.partial(convnet, nn.SiLU), NativeGraphScore),
    "graph, side by side": ("graph", small, NativeGraphScore),
}


def states(n=37) -> Tensor:
    return torch.randn(n, *EVENT, generator=torch.Generator().manual_seed(1)).clamp(-1.4, 1.4)


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


def sampler(case, name, **options):
    engine, make, _ = ENGINES[case]
    return KINDS[name](log_density=make(), engine=engine, n_steps=N_STEPS, seed=3, **options)


def outcome(made, x, step=5):
    """The states, and of underdamped dynamics the velocities, else the statistics of each step."""
    if isinstance(made, fl.Underdamped):
        return made.with_velocity(x, step=step)
    trace = made.trace(x, every=1, step=step)
    assert torch.equal(trace.x[-1], made(x, step=step))
    return trace.x[-1], *(recorded[1:] for recorded in trace.statistics.values())


def assert_equal(got, expected):
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("name", KINDS)
def test_whole_chains_have_the_bits_of_single_moves(capability, monkeypatch, threads, engine, name):
    """In one call, in several, step by step; on any number of threads and for any split of the batch."""
    x, calls, score = states(), [], ENGINES[engine][2]
    run = score.run_transitions_
    monkeypatch.setattr(score, "run_transitions_", lambda self, x, *args: (calls.append(len(x)), run(self, x, *args)))
    whole = outcome(sampler(engine, name), x)
    assert calls and whole[0].isfinite().all() and not torch.equal(whole[0], x)
    if "underdamped" not in name:
        assert 0 < whole[1].mean() < 1
    n_calls = len(calls)
    monkeypatch.setattr(score, "runs_transitions", lambda self, x, kind: False)
    assert_equal(outcome(sampler(engine, name), x), whole)
    assert len(calls) == n_calls
    monkeypatch.undo()
    monkeypatch.setattr(whole_chain, "_MOST_MULTIPLY_ADDS", 1)
    threads(3)
    assert torch.equal(sampler(engine, name)(x, step=5), whole[0])
    parts = [sampler(engine, name)(x[a:b], step=5, chain_offset=a) for a, b in ((0, 1), (1, 20), (20, 37))]
    assert torch.equal(torch.cat(parts), whole[0])


@pytest.mark.parametrize("name", ["mala", "underdamped"])
def test_in_bfloat16(monkeypatch, name):
    if not native.cpu_has_bfloat16():
        pytest.skip("no bfloat16 arithmetic here")
    monkeypatch.setattr(native, "cpu_bfloat16_rate", lambda: BFloat16Rate.DOUBLE)
    x, make = states(), lambda: sampler("convnet", name, precision="bf16")
    whole = outcome(make(), x)
    assert not torch.equal(whole[0], sampler("convnet", name)(x, step=5))
    monkeypatch.setattr(NativeConvNetScore, "runs_transitions", lambda self, x, kind: False)
    assert_equal(outcome(make(), x), whole)


@pytest.mark.parametrize("name", ["mala", "hmc", "underdamped"])
def test_no_chains_and_memory_around_the_state(engine, name):
    memory = torch.full((9, *EVENT), 99.0)
    x = memory[3:6].copy_(states(3))
    chain = sampler(engine, name)(x)
    assert torch.equal(x, states(3)) and not torch.equal(chain, x)
    assert (memory[:3] == 99).all() and (memory[6:] == 99).all()
    assert KINDS[name](log_density=ENGINES[engine][1](), seed=3)(x[:0]).shape == (0, *EVENT)


def test_what_the_operators_refuse():
    x, bound = states(3), sampler("graph", "mala")._score.bind(states(3), Inputs())
    chain = sampler("graph", "mala")._start(x, Inputs(), None, None, 0)
    memory, args = chain.new_memory(x), chain._transition_args(slice(0, N_STEPS))
    with pytest.raises(RuntimeError, match="the code computes no energies"):
        program.run_transitions_(bound._program, x, memory, args)
    with pytest.raises(RuntimeError, match="x is not of the states that the code is for"):
        program.run_transitions_(bound._program_with_energies, x[:, :1].contiguous(), memory, args)
    convnet = sampler("convnet", "mala")._score.bind(x, Inputs())
    with pytest.raises(RuntimeError, match="x must be contiguous float32 of the geometry's shape"):
        convnet.run_transitions_(x[:, :1].contiguous(), memory, args)
