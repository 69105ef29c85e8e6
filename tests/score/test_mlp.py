"""engine="mlp": whole chains in one call, compared with the step-by-step chain of the same noise."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from support.activation_bounds import TRITON_MLP
from support.activations import ACTIVATIONS
from support.error_bounds import gamma
from support.fake_capture import FakeCapture
from support.whole_chains import OPTIONS, assert_chains_are, beside_float64, pair, plain, score_of, states
from support.whole_numbers import exact_score, whole_
from torch import nn

import fastlangevin as fl
from fastlangevin.chains.cuda_graph import GraphCache
from fastlangevin.kernels import native, triton
from fastlangevin.kernels.cpu import whole_chain
from fastlangevin.network.inputs import Inputs
from fastlangevin.network.layers import Linear, LogSumExp
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
    net = network()
    whole, steps = beside_float64(plain, net, kind, **OPTIONS[options])
    assert whole.plan.engine == "mlp"
    x0 = states()
    before = x0.clone()
    for offset in (0, 3):
        assert_chains_are(score_of(net, factor=-1 if kind == "energy" else 1), whole, steps, x0, offset)
    assert torch.equal(x0, before)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(name):
    net = network(ACTIVATIONS[name][0])
    whole, steps = beside_float64(plain, net, step_size=0.1, noise_std=0.01)
    assert whole.plan.engine == "mlp"
    assert_chains_are(score_of(net), whole, steps, states())


@pytest.mark.parametrize("scale", [1.0, -2.5])
def test_a_prior_and_a_factor(scale):
    net = network()
    energy = lambda net: lambda x: scale * (net(x)[:, 0] - 0.4 * x.square().sum(1))
    whole, steps = beside_float64(energy, net, step_size=0.1, noise_std=0.01)
    assert whole.plan.engine == "mlp"
    assert_chains_are(score_of(net, prior=0.8 * scale, factor=scale), whole, steps, states())


def test_the_library_s_network():
    model = fl.models.MLP(6, (20, 20), "gelu", prior=1.0)
    whole, steps = beside_float64(plain, model, step_size=0.1, noise_std=0.01)
    assert whole.plan.engine == "mlp"
    assert_chains_are(score_of(model.net[:-1], prior=1.0), whole, steps, whole.initial((8, 6)))
    assert torch.equal(whole.sample((8, 6), step=9), whole(whole.initial((8, 6), step=9), step=9))


def test_more_hidden_layers_than_four():
    torch.manual_seed(2)
    layers = [layer for i in range(7) for layer in (nn.Linear(11 if i else 5, 11), nn.SiLU())]
    net = nn.Sequential(*layers, nn.Linear(11, 1))
    whole, steps = beside_float64(plain, net, step_size=0.3, noise_std=0.01)
    assert whole.plan.engine == "mlp"
    assert_chains_are(score_of(net), whole, steps, states())


@pytest.mark.parametrize("flat", [lambda x: x.squeeze(), lambda x: x.view(len(x), -1), nn.Flatten()])
def test_states_that_are_flattened(flat):
    net = network()
    shaped = lambda net: lambda x: net(flat(x)).squeeze(1) - 0.5 * (x.flatten(1) ** 2).sum(1)
    vectors = lambda net: lambda x: net(x).squeeze(1) - 0.5 * (x**2).sum(1)
    whole, flattened = (pair(energy(net), engines=("auto",), noise_std=0.1)[0] for energy in (shaped, vectors))
    assert whole.plan_for("cpu", (11, 5, 1, 1)).engine == "mlp"
    x0 = states()
    got = whole(x0.view(11, 5, 1, 1), step=2)
    assert whole.plan.engine == "mlp" and torch.equal(got.view(11, 5), flattened(x0, step=2))


CLASSES, LABELS = 6, torch.tensor([3, 0, 5, 5, 1, 2, 4, 0, 0, 3, 1])


def classifier(activation=nn.SiLU):
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 17), activation(), nn.Linear(17, 12), activation(), nn.Linear(12, CLASSES))


HEADS = {
    "classes": (lambda net: lambda x: 2.0 * net(x).logsumexp(1), ()),
    "label": (lambda net: lambda x, y: 2.0 * net(x).gather(1, y[:, None]), (LABELS,)),
    "label by index": (lambda net: lambda x, y: 2.0 * net(x)[torch.arange(len(x)), y], (LABELS - CLASSES,)),
}


def score_with_head(net, head):
    if head == "classes":
        return score_of([*net, LogSumExp(keepdim=False)], factor=2.0)
    return score_of([*net[:-1], Linear(net[-1].weight[LABELS], None)], factor=2.0)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("head", HEADS)
def test_heads_over_classes(head, options):
    energy, args = HEADS[head]
    net = classifier()
    whole, steps = beside_float64(energy, net, **OPTIONS[options])
    with_args = lambda sampler: WithArguments(sampler, args)
    assert_chains_are(score_with_head(net, head), with_args(whole), with_args(steps), states())
    assert whole.plan.engine == "mlp"
    trace = whole.trace(states(), *args, step=9)
    assert torch.equal(trace.x[-1], whole(states(), *args, step=9))
    assert torch.equal(trace.energy[-1], whole.energy(trace.x[-1], *args))


class WithArguments:
    """A sampler that is called with extra arguments."""

    def __init__(self, sampler, args):
        self._sampler, self._args = sampler, args

    def __getattr__(self, name):
        return getattr(self._sampler, name)

    def __call__(self, x0, **options):
        return self._sampler(x0, *self._args, **options)


class Bound(nn.Module):
    """An energy of a network with its extra arguments."""

    def __init__(self, net, energy, args):
        super().__init__()
        self.net, self.energy, self.args = net, energy, args

    def forward(self, x):
        return self.energy(self.net)(x, *self.args)


@pytest.mark.parametrize("head", HEADS)
def test_single_scores_and_gradients_with_a_head(head):
    """Of one step from x0, whose Jacobian is at x0 itself: torch's operators on both sides, in the same order."""
    energy, args = HEADS[head]
    samplers = pair(energy(classifier()), engines=("mlp", "autograd"), n_steps=1, step_size=0.3, noise_std=0.01)
    x0, v = states().requires_grad_(), states().flip(0)
    gradients = [torch.autograd.grad(sampler(x0, *args), x0, v)[0] for sampler in samplers]
    torch.testing.assert_close(*gradients, rtol=0, atol=gamma(17 * 12 * 4) * 4)
    assert (gradients[0] - v).abs().max() > 0.003
    net = whole_(classifier(nn.LeakyReLU))
    if head != "classes":
        x, wide = states().mul(2).round(), Bound(net, energy, args)
        assert torch.equal(pair(energy(net), engines=("mlp",))[0].score(x, *args).double(), exact_score(wide, x))


def test_a_label_that_is_no_class():
    energy, _ = HEADS["label"]
    for label in (-1, CLASSES):
        with pytest.raises(RuntimeError, match="out of bounds"):
            pair(energy(classifier()))[0](states(), torch.full((11,), label))


def test_few_chains_of_wide_layers():
    """The choice depends on nothing that may change from call to call with the same result: not on the threads."""
    net = nn.Sequential(nn.Linear(3, 1024), nn.SiLU(), nn.Linear(1024, 1024), nn.SiLU(), nn.Linear(1024, 1))
    auto, explicit = pair(net, engines=("auto", "mlp"), n_steps=1)
    assert auto.plan.engine == "mlp"
    auto(states(7, 3))
    assert auto.plan.engine == "convnet" and auto.plan_for("cpu", (8, 3)).engine == "mlp"
    assert auto._score.bind(states(7, 3), Inputs()).name == "convnet"
    assert auto._score.bind(states(8, 3), Inputs()).name == explicit._score.bind(states(1, 3), Inputs()).name == "mlp"
    assert auto._score.bind(torch.ones(1, 3), Inputs()).name == "convnet"
    narrow, _ = pair(network())
    assert narrow._score.bind(states(1), Inputs()).name == "mlp"


def test_batch_splits_give_the_same_bits():
    whole = pair(network())[0]
    x0 = states(41)
    parts = [whole(x0[i:j], step=9, chain_offset=i) for i, j in ((0, 1), (1, 30), (30, 41))]
    assert torch.equal(whole(x0, step=9), torch.cat(parts))


def test_current_weights_are_used():
    net = network()
    whole, steps = beside_float64(plain, net)
    whole(states())
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.5)
    steps.target.function.load_state_dict(net.state_dict())
    assert_chains_are(score_of(net), whole, steps, states())


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
    fl.Langevin(log_density=network(), n_steps=7, seed=5, backend="reference")(states())
    assert len(calls) == 2  # an explicit backend does the update


def test_a_plan_names_the_backend_that_runs_single_steps():
    plan = fl.Langevin(log_density=network(), backend="reference", seed=1).plan
    assert "steps are taken one by one: backend='reference' was requested" in plan.reasons
    assert not any("one by one" in reason for reason in fl.Langevin(log_density=network(), seed=1).plan.reasons)


def test_states_that_the_kernels_do_not_support():
    """Of numbers whose sums float32 makes without an error: scores and states are rounded to the state's type alone."""
    net = whole_(network(nn.LeakyReLU))
    whole, _ = pair(net, n_steps=2, step_size=0.25, noise_std=0.0)
    x = states().mul(2).round().clamp(-4, 4)
    for x0 in (x.double(), x.bfloat16(), x.t().contiguous().t(), x[:0]):
        got, expected = whole(x0, step=0), x0
        for _ in range(2):
            expected = (expected.double() + 0.25 * exact_score(net, expected).to(x0.dtype)).to(x0.dtype)
        assert got.dtype == x0.dtype and got.stride() == x0.stride() and torch.equal(got, expected)


def test_traces_are_of_the_same_chain():
    """The kernels' bits; energies and scores are those of its states."""
    whole, _ = pair(network())
    x0 = states()
    trace = whole.trace(x0, every=3)
    for x, energy, norm, k in zip(*trace[:3], trace.steps.tolist(), strict=True):
        assert torch.equal(x, whole(x0, step=0, n_steps=k) if k else x0)
        assert torch.equal(energy, whole.energy(x)) and torch.equal(norm, whole.score(x).norm(dim=1))
    net = whole_(network(nn.LeakyReLU))
    x = states().mul(2).round()
    assert torch.equal(pair(net)[0].energy(x).double(), -copy.deepcopy(net).double()(x.double())[:, 0])


def test_a_gradient_flows_through_the_chain():
    """Backwards it computes each state again, by torch's operators and so with the bits of the convnet engine, whose
    gradients chains/test_vjp.py checks.
    """
    x0, v = states().requires_grad_(), states(inputs=5).flip(0)
    samplers = pair(network(), engines=("mlp", "convnet"), step_size=0.3, noise_std=0.01)
    gradients = [torch.autograd.grad(sampler(x0), x0, v)[0] for sampler in samplers]
    assert torch.equal(*gradients) and (gradients[0] - v).abs().max() > 0.01


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
        (nn.Sequential(nn.Linear(5, 1025), nn.SiLU(), nn.Linear(1025, 1)), "1025 wide"),
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
    traced = fl.Langevin(log_density=network(), seed=1)._score.bind(x, Inputs()).network
    why = TritonMlpScore.unsupported(traced, "fp32", x)
    if why is not None:
        pytest.skip(why)
    monkeypatch.setattr(mlp.NativeMlpScore, "unsupported", staticmethod(lambda *_: "left out"))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("options", ["schedules", "limits", "noise first, clamped"])
def test_triton_chains(options):
    net = network()
    whole, steps = beside_float64(plain, net, **OPTIONS[options])
    assert "the mlp engine computes with Triton whole-chain kernels" in whole.plan.reasons
    assert_chains_are(score_of(net, TRITON_MLP), whole, steps, states(), 3)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("unroll", [1, 7])
def test_captured_triton_chains(unroll):
    """Numbers from device memory, as in a graph: replays draw new noise and use the current weights and schedules."""
    net = network()
    whole, steps = beside_float64(plain, net, noise_std=0.1)
    whole._graphs = GraphCache("auto", unroll, functools.partial(FakeCapture), "cpu")
    for _ in range(2):
        assert_chains_are(score_of(net, TRITON_MLP), whole, steps, states())
    with torch.no_grad():
        net[0].weight.mul_(0.5)
        steps.target.function[0].weight.mul_(0.5)
    whole, steps = (sampler.replace(step_size=[0.1 * k for k in range(7)]) for sampler in (whole, steps))
    assert_chains_are(score_of(net, TRITON_MLP), whole, steps, states())
    assert len(whole._graphs.captured) == 1


def test_long_calls_are_split(monkeypatch):
    """Signals are handled between the parts; the bits are the same."""
    calls = []
    whole, _ = pair(network(), noise_std=0.1)
    expected = whole(states(), step=0)
    run = torch.ops.fastlangevin.mlp_chain_cpu_.default
    monkeypatch.setattr(whole_chain, "_MOST_UPDATES", 2 * states().numel())
    monkeypatch.setattr(
        torch.ops.fastlangevin.mlp_chain_cpu_, "default", lambda *a: (calls.append(len(a[8])), run(*a))[1]
    )
    assert torch.equal(whole(states(), step=0), expected) and calls == [2, 2, 2, 1]
    calls.clear()
    of_a_step = len(states()) * 2 * sum(layer.weight.numel() for layer in network()[:-1:2])
    monkeypatch.setattr(whole_chain, "_MOST_MULTIPLY_ADDS", 2 * of_a_step - 1)
    assert torch.equal(whole(states(), step=0), expected) and calls == [1] * 7
