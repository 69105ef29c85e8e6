"""engine="analytic": whole chains in one call, beside the step-by-step ones in float64, to a bound of roundings."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from support.analytic_scores import double_well_score, mixture_score, triton_mixture_score
from support.fake_capture import FakeCapture
from support.whole_chains import OPTIONS, assert_chains_are, beside_float64, plain, states
from torch import nn

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache
from fastlangevin.kernels import native
from fastlangevin.network.target import make_target
from fastlangevin.score.analytic import AnalyticEngine, NativeAnalyticScore, TritonAnalyticScore


@pytest.fixture(autouse=True)
def native_kernels():
    why = native.load_cpu()
    if why is not None:
        pytest.skip(why)


MIXTURE = fl.energies.GaussianMixture([[0.0, 1.0, 0.5], [1.0, -1.0, 2.0], [-2.0, 0.0, 0.0]], [0.5, 1.0, 2.0], [1, 2, 3])
WELL = fl.energies.DoubleWell(3, barrier=1.5, width=1.2)
SCORES = {fl.energies.GaussianMixture: mixture_score, fl.energies.DoubleWell: double_well_score}


@pytest.mark.parametrize("energy", [MIXTURE, WELL], ids=["mixture", "double well"])
@pytest.mark.parametrize("options", OPTIONS)
def test_analytic_chains(energy, options):
    whole, steps = beside_float64(plain, energy, "energy", **{"step_size": 0.05, "noise_std": 0.01, **OPTIONS[options]})
    assert whole.plan.engine == "analytic"
    x0 = states(inputs=3)
    assert_chains_are(functools.partial(SCORES[type(energy)], energy), whole, steps, x0, 2)
    assert torch.equal(whole.energy(x0), energy(x0))


def test_unsupported_targets():
    class Own(fl.energies.DoubleWell):
        pass

    hooked = fl.energies.DoubleWell(3)
    hooked.register_forward_hook(lambda *_: None)
    replaced = fl.energies.DoubleWell(3)
    replaced.forward = lambda x: x.square().sum(1)
    for options, words in (
        ({"energy": replaced}, "user-defined forward"),
        ({"energy": Own(3)}, "GaussianMixture and DoubleWell"),
        ({"log_density": fl.energies.DoubleWell(3)}, "given as energy"),
        ({"energy": hooked}, "hooks"),
        ({"energy": fl.energies.DoubleWell(3).double()}, "float32"),
    ):
        with pytest.raises(fl.BackendUnavailable, match=f"engine='analytic' cannot be used for this .*{words}"):
            fl.Langevin(**options, engine="analytic", seed=1)(states(inputs=3))
        assert fl.Langevin(**options, seed=1).plan.engine == "autograd"
    with pytest.raises(ValueError, match="x must be"):
        fl.Langevin(WELL, seed=1)(states(inputs=4))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert fl.Langevin(WELL, seed=1).plan.engine == "autograd"
    finally:
        handle.remove()


def test_devices():
    x = torch.empty(0, 3, device="meta")
    elsewhere = AnalyticEngine.choose(make_target(energy=WELL), "fp32", x)
    assert elsewhere == "its kernels need parameters on the states' device, meta"
    neither = AnalyticEngine.choose(make_target(energy=copy.deepcopy(WELL).to("meta")), "fp32", x)
    assert "the native ones run on the CPU, not on meta; those in Triton run on" in neither


# the Triton kernels, in Triton's interpreter


@pytest.fixture
def interpreted(monkeypatch):
    for energy in (MIXTURE, WELL):
        why = TritonAnalyticScore.unsupported(energy, states(inputs=3))
        if why is not None:
            pytest.skip(why)
    monkeypatch.setattr(NativeAnalyticScore, "unsupported", staticmethod(lambda *_: "left out"))


TRITON_SCORES = {**SCORES, fl.energies.GaussianMixture: triton_mixture_score}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("energy", [MIXTURE, WELL], ids=["mixture", "double well"])
@pytest.mark.parametrize("unroll", [None, 7])
def test_triton_chains(energy, unroll):
    """Also captured, with numbers from device memory: replays draw new noise, by current schedules and weights."""
    whole, steps = beside_float64(plain, copy.deepcopy(energy), "energy", step_size=0.05, noise_std=0.01)
    assert whole.plan.engine == "analytic"
    x0, score = states(inputs=3), TRITON_SCORES[type(energy)]
    if unroll is not None:
        whole._graphs = GraphCache("auto", unroll, functools.partial(FakeCapture), "cpu")
    for change in (None, {"step_size": [0.01 * k for k in range(7)]}):
        if change:
            whole, steps = (sampler.replace(**change) for sampler in (whole, steps))
            for sampler in (whole, steps):
                buffer = getattr(sampler.target.function, "means", torch.zeros(()))
                buffer.mul_(0.5)
        current = whole.target.function
        assert_chains_are(functools.partial(score, current), whole, steps, x0, 2)
    assert unroll is None or len(whole._graphs.captured) == 1
