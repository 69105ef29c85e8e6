"""Extra arguments that change from step to step."""

from __future__ import annotations

import copy

import pytest
import torch
from support.fake_capture import FakeCapture
from support.langevin_reference import FLOAT64, normal

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache

K = 6
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SIGMAS = torch.linspace(2.0, 0.5, K, dtype=torch.float64)
SHIFTS = torch.randn(K, 4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
OPTIONS = dict(n_steps=K, step_size=0.02, noise_std=0.1, seed=1)


def energy(x, sigma, *, shift):
    return ((x - shift) / sigma).pow(4).sum(1)


def score(x, sigma, shift, k):
    return -4 * (x - shift[k]).pow(3) / sigma[k] ** 4


def loop(x, sigma=SIGMAS, shift=SHIFTS):
    for k in range(len(sigma)):
        x = x + 0.02 * score(x, sigma, shift, k) + 0.1 * normal(x.shape, k).double()
    return x


FORMS = {
    "tensors": (fl.PerStep(SIGMAS), fl.PerStep(SHIFTS)),
    "sequences": (fl.PerStep(SIGMAS.tolist()), fl.PerStep(list(SHIFTS))),
    "callables": (fl.PerStep(lambda k: SIGMAS[k]), fl.PerStep(lambda k: SHIFTS[k])),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_step_has_its_own(form):
    sigma, shift = FORMS[form]
    sampler = fl.Langevin(energy, **OPTIONS)
    given = dict(kwargs={"shift": shift}, step=0)
    torch.testing.assert_close(sampler(X, sigma, **given), loop(X), **FLOAT64)
    torch.testing.assert_close(sampler.with_last_step(X, sigma, **given), loop(X), **FLOAT64)
    trace = sampler.trace(X, sigma, every=4, **given)
    torch.testing.assert_close(trace.x[-1], loop(X), **FLOAT64)
    for t, k in enumerate((0, 4, K - 1)):
        torch.testing.assert_close(trace.energy[t], energy(trace.x[t], SIGMAS[k], shift=SHIFTS[k]), **FLOAT64)


def test_one_of_several_may_change():
    sampler = fl.Langevin(energy, **OPTIONS)
    got = sampler(X, fl.PerStep(SIGMAS), kwargs={"shift": SHIFTS[0]})
    torch.testing.assert_close(got, loop(X, shift=SHIFTS[:1].expand_as(SHIFTS)), **FLOAT64)


def test_the_gradient_through_the_chain():
    x0 = X.clone().requires_grad_()
    expected = torch.autograd.grad(loop(x0).square().sum(), x0)[0]
    x = fl.Langevin(energy, **OPTIONS)(x0, fl.PerStep(SIGMAS), kwargs={"shift": fl.PerStep(SHIFTS)})
    torch.testing.assert_close(torch.autograd.grad(x.square().sum(), x0)[0], expected, rtol=1e-10, atol=1e-12)


def test_a_score_with_the_step_index():
    sampler = fl.Langevin(score=lambda x, k: score(x, SIGMAS, SHIFTS, k), **OPTIONS)
    torch.testing.assert_close(sampler(X, fl.PerStep(range(K))), loop(X), **FLOAT64)
    assert sampler.sample((4, 3), fl.PerStep(lambda k: k), dtype=torch.float64).isfinite().all()


@pytest.mark.parametrize("unroll", [1, 3, 6])
def test_captured_chains_read_them_from_memory(unroll):
    FakeCapture.made = []
    eager, replayed = (fl.Langevin(energy, **OPTIONS) for _ in range(2))
    replayed._graphs = GraphCache(True, unroll, FakeCapture, "cpu")
    for factor in (1.0, 2.0):
        sigma, kwargs = fl.PerStep(factor * SIGMAS), {"shift": fl.PerStep(factor * SHIFTS)}
        assert torch.equal(replayed(X, sigma, kwargs=kwargs), eager(X, sigma, kwargs=kwargs))
    assert len(FakeCapture.made) == 1
    with pytest.raises(fl.BackendUnavailable, match="extra argument 0 changes from step to step, and is not a tensor"):
        replayed(X, fl.PerStep(SIGMAS.tolist()), kwargs=kwargs)
    with pytest.raises(
        fl.BackendUnavailable, match="extra argument 'shift' changes from step to step, and is not a tens"
    ):
        replayed(X, 1.0, kwargs={"shift": fl.PerStep([*SHIFTS[:-1], SHIFTS[0, :1]])})


def test_networks_are_not_recognised_for_them():
    net = fl.models.MLP(3).double()
    sampler = fl.Langevin(log_density=lambda x, s: net(x) * s, **OPTIONS)
    sampler(X, fl.PerStep(SIGMAS.tolist()))
    assert sampler.plan.engine == "autograd"
    assert any("extra argument 0 changes from step to step" in reason for reason in sampler.plan.reasons)
    with pytest.raises(fl.BackendUnavailable, match="extra argument 0 changes from step to step"):
        sampler.replace(engine="convnet")(X, fl.PerStep(SIGMAS))


def test_bad_arguments():
    sampler = fl.Langevin(energy, **OPTIONS)
    with pytest.raises(ValueError, match="extra argument 'shift' must have n_steps = 6 values, got 5"):
        sampler(X, 1.0, kwargs={"shift": fl.PerStep(SHIFTS[:5])})
    assert sampler.step == 0
    for call in (sampler.energy, sampler.score):
        with pytest.raises(TypeError, match="extra argument 0 is a PerStep, but there are no steps here"):
            call(X, fl.PerStep(SIGMAS), kwargs={"shift": 0.0})
    with pytest.raises(TypeError, match="values must be a sequence, a tensor or a callable of the step, got 1.0"):
        fl.PerStep(1.0)
    assert repr(copy.deepcopy(fl.PerStep([1, 2]))) == "PerStep([1, 2])"
