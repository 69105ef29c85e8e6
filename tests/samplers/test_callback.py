"""The callback every so many steps."""

from __future__ import annotations

import pytest
import torch
from support.fake_capture import FakeCapture
from support.langevin_reference import small_net

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))


class Seen:
    def __init__(self) -> None:
        self.steps, self.states = [], []

    def __call__(self, k: int, x: torch.Tensor) -> None:
        self.steps.append(k)
        self.states.append(x)


@pytest.mark.parametrize("engine", ["auto", "autograd"])
@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7]), (7, [7]), (9, [7])])
def test_it_sees_the_states_of_the_chain(every, steps, engine):
    sampler = fl.Langevin(small_net(), n_steps=7, step_size=lambda k: 0.1 * k, noise_std=0.1, engine=engine, seed=1)
    seen = Seen()
    x = sampler(X, callback=seen, every=every)
    assert seen.steps == steps and sampler.step == 7
    trace = sampler.trace(X, every=every, step=0)
    assert torch.equal(torch.stack(seen.states), trace.x[1:])
    assert torch.equal(x, sampler(X, step=0)) and torch.equal(x, seen.states[-1])
    seen = Seen()
    sampler.sample((4, 3), step=0, callback=seen, every=every)
    assert seen.steps == steps


@pytest.mark.usefixtures("precision_as_asked")
def test_it_runs_outside_the_sampler_s_contexts():
    modes = []
    sampler = fl.Langevin(small_net(), n_steps=2, precision="bf16", seed=1)
    sampler(X, callback=lambda k, x: modes.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))))
    assert modes == [(True, False)] * 2


def test_captured_chains():
    FakeCapture.made = []
    eager, replayed = (fl.Langevin(small_net(), n_steps=8, seed=1) for _ in range(2))
    replayed._graphs = GraphCache("auto", None, FakeCapture, "cpu")
    for _ in range(2):
        a, b = Seen(), Seen()
        assert torch.equal(eager(X, callback=a, every=3), replayed(X, callback=b, every=3))
        assert a.steps == b.steps == [3, 6, 8]
        assert all(torch.equal(x, y) for x, y in zip(a.states, b.states, strict=True))
    assert len(FakeCapture.made) == 2  # of three and of two steps


def test_the_gradient_through_an_observed_chain():
    net, seen = small_net().double(), Seen()
    gradients = []
    for given in ({}, {"callback": seen, "every": 2}):
        x0 = X.double().requires_grad_()
        x = fl.Langevin(net, n_steps=4, seed=1)(x0, **given)
        gradients.append(torch.autograd.grad(x.square().sum(), x0)[0])
    assert torch.equal(*gradients) and seen.steps == [2, 4]


def test_errors():
    sampler = fl.Langevin(small_net(), n_steps=4, seed=1)

    def stop(k, x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler(X, callback=stop)
    with pytest.raises(TypeError, match="callback must be callable, got int"):
        sampler(X, callback=3)
    with pytest.raises(ValueError, match="every must be an int of at least 1, got 0"):
        sampler(X, callback=Seen(), every=0)
