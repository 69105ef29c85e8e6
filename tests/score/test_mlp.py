"""engine="mlp": whole chains in one call, compared with the step-by-step chain of the same noise."""

from __future__ import annotations

import functools

import pytest
import torch
from support.activations import ACTIVATIONS
from support.fake_capture import FakeCapture
from support.whole_chains import OPTIONS, pair, states
from torch import nn

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache
from fastlangevin.kernels import native, triton
from fastlangevin.kernels.cpu import whole_chain
from fastlangevin.score import mlp
from fastlangevin.score.mlp import NativeMlpScore, TritonMlpScore


@pytest.fixture(autouse=True)
def native_kernels():
    why = native.load_cpu()
    if why is not None:
        pytest.skip(why)


def network(activation=nn.SiLU, inputs=5):
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(inputs, 17), activation(), nn.Linear(17, 12), activation(), nn.Linear(12, 1))


@pytest.mark.parametrize("kind", ["energy", "log_density"])
@pytest.mark.parametrize("options", OPTIONS)
def test_chain_equals_the_step_by_step_chain(options, kind):
    whole, steps = pair(network(), kind, **OPTIONS[options])
    assert whole.plan.engine == "mlp"
    x0 = states()
    before = x0.clone()
    for offset in (0, 3):
        torch.testing.assert_close(whole(x0, chain_offset=offset), steps(x0, chain_offset=offset), rtol=1e-5, atol=1e-6)
    assert torch.equal(x0, before) and whole.step == steps.step == 14


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(name):
    whole, steps = pair(network(ACTIVATIONS[name][0]), step_size=0.1, noise_std=0.01)
    assert whole.plan.engine == "mlp"
    torch.testing.assert_close(whole(states()), steps(states()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, -2.5])
def test_a_prior_and_a_factor(scale):
    net = network()
    whole, steps = pair(lambda x: scale * (net(x)[:, 0] - 0.4 * x.square().sum(1)), step_size=0.1, noise_std=0.01)
    assert whole.plan.engine == "mlp"
    torch.testing.assert_close(whole(states()), steps(states()), rtol=1e-5, atol=1e-6)


def test_the_library_s_network():
    whole, steps = pair(fl.models.MLP(6, (20, 20), "gelu", prior=1.0), step_size=0.1, noise_std=0.01)
    assert whole.plan.engine == "mlp"
    torch.testing.assert_close(whole.sample((8, 6)), steps.sample((8, 6)), rtol=1e-5, atol=1e-6)


def test_batch_splits_give_the_same_bits():
    whole = pair(network())[0]
    x0 = states(41)
    parts = [whole(x0[i:j], step=9, chain_offset=i) for i, j in ((0, 1), (1, 30), (30, 41))]
    assert torch.equal(whole(x0, step=9), torch.cat(parts))


def test_current_weights_are_used():
    net = network()
    whole, steps = pair(net)
    whole(states(), step=0)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.5)
    torch.testing.assert_close(whole(states(), step=0), steps(states(), step=0), rtol=1e-5, atol=1e-6)


def test_one_call_runs_all_steps(monkeypatch):
    calls = []
    run = NativeMlpScore._run_chain_
    monkeypatch.setattr(NativeMlpScore, "_run_chain_", lambda *a: (calls.append(1), run(*a))[1])
    whole = pair(network())[0]
    whole(states())
    assert len(calls) == 1
    explicit = fl.Langevin(log_density=network(), n_steps=7, seed=5, backend="cpu")
    explicit(states())
    assert len(calls) == 2
    by_reference = fl.Langevin(log_density=network(), n_steps=7, seed=5, backend="reference")
    torch.testing.assert_close(by_reference(states()), pair(network())[1](states()), rtol=1e-5, atol=1e-6)
    assert len(calls) == 2  # an explicit backend does the update


def test_a_plan_names_the_backend_that_runs_single_steps():
    plan = fl.Langevin(log_density=network(), backend="reference", seed=1).plan
    assert "steps are taken one by one: backend='reference' was requested" in plan.reasons
    assert not any("one by one" in reason for reason in fl.Langevin(log_density=network(), seed=1).plan.reasons)


def test_states_that_the_kernels_do_not_support():
    whole, steps = pair(network())
    for x0 in (states().double(), states().bfloat16(), states().t().contiguous().t(), states(0)):
        x = whole(x0, step=0)
        assert x.dtype == x0.dtype and x.stride() == x0.stride()
        torch.testing.assert_close(x, steps(x0, step=0), rtol=1e-2 if x.dtype.itemsize == 2 else 1e-5, atol=1e-5)


def test_traces_are_of_the_same_chain():
    whole, steps = pair(network())
    x0 = states()
    for a, b in zip(whole.trace(x0, every=3), steps.trace(x0, every=3), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.trace(x0, step=0).x[-1], whole(x0, step=0), rtol=1e-5, atol=1e-6)


def test_a_gradient_flows_through_the_chain():
    x0 = states().requires_grad_()
    gradients = []
    for sampler in pair(network(), step_size=0.3, noise_std=0.01):
        (gradient,) = torch.autograd.grad(sampler(x0).square().sum(), x0)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_divergence_names_its_step():
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    nn.init.constant_(net[0].weight, 1e20)
    nn.init.constant_(net[2].weight, 1e20)
    with pytest.raises(fl.ChainDiverged, match="first at step 0"):
        fl.Langevin(log_density=net, n_steps=3, seed=1)(torch.ones(2, 1))


def test_unsupported_networks():
    for net, words in (
        (nn.Sequential(nn.Linear(5, 1)), "alternating linear layers and activations"),
        (nn.Sequential(nn.Linear(5, 4), nn.LeakyReLU(-0.1), nn.Linear(4, 1)), "activation leaky_relu"),
        (nn.Sequential(nn.Linear(5, 513), nn.SiLU(), nn.Linear(513, 1)), "513 wide"),
        (network().double(), "float64"),
    ):
        with pytest.raises(fl.BackendUnavailable, match=f"engine='mlp' cannot be used for this log_density: .*{words}"):
            fl.Langevin(log_density=net, engine="mlp", seed=1)(states())
        assert fl.Langevin(log_density=net, seed=1).plan.engine == "convnet"
    if triton.DEVICE != "cpu":
        half = fl.Langevin(log_density=network(), engine="mlp", precision="bf16", seed=1)
        with pytest.raises(fl.BackendUnavailable, match="they compute in fp32, not in bf16; .* run on cuda tensors"):
            half(states())


# the Triton kernels, in Triton's interpreter


@pytest.fixture
def interpreted(monkeypatch):
    x = states()
    traced = fl.Langevin(log_density=network(), seed=1)._score.bind(x, ()).network
    why = TritonMlpScore.unsupported(traced, "fp32", x)
    if why is not None:
        pytest.skip(why)
    monkeypatch.setattr(mlp.NativeMlpScore, "unsupported", staticmethod(lambda *_: "left out"))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("options", ["schedules", "limits", "noise first, clamped"])
def test_triton_chains(options):
    whole, steps = pair(network(), **OPTIONS[options])
    assert "the mlp engine computes with Triton whole-chain kernels" in whole.plan.reasons
    torch.testing.assert_close(whole(states(), chain_offset=3), steps(states(), chain_offset=3), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("unroll", [1, 7])
def test_captured_triton_chains(unroll):
    """Numbers from device memory, as in a graph: replays draw new noise and use the current weights and schedules."""
    net = network()
    whole, steps = pair(net, noise_std=0.1)
    whole._graphs = GraphCache("auto", unroll, functools.partial(FakeCapture), "cpu")
    for _ in range(2):
        torch.testing.assert_close(whole(states()), steps(states()), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        net[0].weight.mul_(0.5)
    whole, steps = (sampler.replace(step_size=[0.1 * k for k in range(7)]) for sampler in (whole, steps))
    torch.testing.assert_close(whole(states()), steps(states()), rtol=1e-4, atol=1e-5)
    assert len(whole._graphs.captured) == 1


def test_long_calls_are_split(monkeypatch):
    """Signals are handled between the parts; the bits are the same."""
    calls = []
    whole, _ = pair(network(), noise_std=0.1)
    expected = whole(states(), step=0)
    run = torch.ops.fastlangevin.mlp_chain_cpu_.default
    monkeypatch.setattr(whole_chain, "_MOST_UPDATES", 2 * states().numel())
    monkeypatch.setattr(
        torch.ops.fastlangevin.mlp_chain_cpu_, "default", lambda *a: (calls.append(len(a[7])), run(*a))[1]
    )
    assert torch.equal(whole(states(), step=0), expected) and calls == [2, 2, 2, 1]
