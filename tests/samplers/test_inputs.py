"""Extra arguments of an energy, positional and by keyword, through everything that calls it."""

from __future__ import annotations

import pytest
import torch
from support.fake_capture import FakeCapture
from torch import nn

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache
from fastlangevin.network.inputs import make_inputs
from fastlangevin.network.target import make_target

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
SCALE = torch.tensor([0.5, 1.0, 2.0, 3.0])
OPTIONS = dict(n_steps=4, step_size=0.01, noise_std=0.1, seed=1)


def energy(x, power, *, scale, shift=0.0):
    return scale * (x + shift).pow(power).sum(1) + x.pow(4).sum(1)


def bound(x):
    return energy(x, 2, scale=SCALE, shift=0.25)


def gradient(sampler, *args, **kwargs):
    x0 = X.clone().requires_grad_()
    return torch.autograd.grad(sampler(x0, *args, **kwargs).sum(), x0)[0]


def records(sampler, *args, **kwargs):
    return torch.cat([each.flatten() for each in sampler.trace(X, *args, **kwargs)[:4]])


CALLS = {
    "call": lambda s, *a, **k: s(X, *a, **k),
    "gradient": gradient,
    "sample": lambda s, *a, **k: s.sample((4, 3), *a, **k),
    "trace": records,
    "energy": lambda s, *a, **k: s.energy(X, *a, **k),
    "score": lambda s, *a, **k: s.score(X, *a, **k),
    "with_last_step": lambda s, *a, **k: s.with_last_step(X, *a, **k),
    "reconstruct": lambda s, *a, **k: fl.reconstruct(s, X, *a, n_iterations=2, **k).z,
    "interpolate": lambda s, *a, **k: fl.interpolate(s, X, X.flip(0), *a, n=3, **k),
}


@pytest.mark.parametrize("call", CALLS)
def test_keywords_reach_the_energy(call):
    given = CALLS[call](fl.Langevin(energy, **OPTIONS), 2, kwargs={"scale": SCALE, "shift": 0.25})
    assert torch.equal(given, CALLS[call](fl.Langevin(bound, **OPTIONS)))


@pytest.mark.compiled
def test_keywords_reach_a_compiled_energy():
    torch.compiler.reset()  # after other shapes of an energy it makes them symbols, which fails in torch 2.13
    given = fl.Langevin(energy, engine="compiled", **OPTIONS).score(X.double(), 2, kwargs={"scale": SCALE.double()})
    expected = -2 * SCALE.double()[:, None] * X.double() - 4 * X.double() ** 3
    torch.testing.assert_close(given, expected, rtol=1e-14, atol=0.0)


def test_a_recognised_network_takes_keywords():
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def scaled(x, factor):
        return factor * net(x)

    sampler = fl.Langevin(scaled, **OPTIONS)
    x = sampler(X, kwargs={"factor": 2.0})
    assert sampler._score._last.explanation.engine == "mlp"
    assert torch.equal(x, fl.Langevin(lambda x: 2.0 * net(x), **OPTIONS)(X))


def test_inference_tensors_are_differentiated():
    with torch.inference_mode():
        scale = SCALE.clone()
    given = fl.Langevin(energy, **OPTIONS)(X, kwargs={"power": 2, "scale": scale})
    assert torch.equal(given, fl.Langevin(energy, **OPTIONS)(X, 2, kwargs={"scale": SCALE}))


def test_the_device_of_samples_is_that_of_a_tensor_among_the_keywords():
    inputs = make_inputs(make_target(energy=torch.sum), (1.0,), {"y": torch.empty(2, device="meta")})
    assert fl.Langevin(energy, **OPTIONS)._device(inputs) == torch.device("meta")


def test_captured_chains_read_the_keywords_of_each_call():
    FakeCapture.made = []
    sampler = fl.Langevin(energy, **OPTIONS)
    sampler._graphs = GraphCache("auto", 2, FakeCapture, "cpu")
    eager = fl.Langevin(energy, **OPTIONS)
    for scale in (SCALE, SCALE + 1):
        given = dict(kwargs={"scale": scale, "shift": 0.5})
        assert torch.equal(sampler(X, 2, **given), eager(X, 2, **given))
    assert len(FakeCapture.made) == 1
    for kwargs in (
        {"scale": SCALE, "shift": 0.75},
        {"scale": SCALE[:1], "shift": 0.75},
        {"shift": SCALE[:1], "scale": 1},
    ):
        assert torch.equal(sampler(X, 2, kwargs=kwargs), eager(X, 2, kwargs=kwargs))
    assert len(FakeCapture.made) == 4


def test_messages_name_the_keyword():
    sampler = fl.Langevin(energy, **OPTIONS)
    sampler._graphs = GraphCache(True, None, FakeCapture, "cpu")
    with pytest.raises(fl.BackendUnavailable, match="extra argument 'scale' is neither a tensor nor a plain"):
        sampler(X, 2, kwargs={"scale": [1.0]})
    convnet = fl.Langevin(energy, engine="convnet", **OPTIONS)
    with pytest.raises(fl.BackendUnavailable, match="extra argument 'scale' is a list"):
        convnet(X, 2, kwargs={"scale": [1.0]})
    for bad in ([1], {1: 2}, "scale"):
        with pytest.raises(TypeError, match="kwargs must be a dict of the energy's keyword arguments, or None, got"):
            sampler(X, 2, kwargs=bad)
    with pytest.raises(TypeError, match="unexpected keyword argument 'scael'"):
        fl.Langevin(energy, **OPTIONS)(X, 2, kwargs={"scael": 1.0})


def test_an_energy_in_closed_form_does_not_ignore_extra_arguments():
    sampler = fl.Langevin(fl.energies.DoubleWell(3), **OPTIONS)
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        sampler(X, 1.0)
