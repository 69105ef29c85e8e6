"""Which kernels compute the score of a convnet, and chains that use them."""

from __future__ import annotations

import copy

import pytest
import torch
from support import whole_chains
from support.whole_numbers import exact_score, whole_
from torch import nn

import fastlangevin as fl
from fastlangevin.kernels import native
from fastlangevin.kernels.cpu import convnet as convnet_cpu
from fastlangevin.kernels.cpu import whole_chain
from fastlangevin.kernels.native import BFloat16Rate
from fastlangevin.kernels.triton import convnet as convnet_triton
from fastlangevin.network.inputs import Inputs
from fastlangevin.network.layers import Conv
from fastlangevin.network.target import Target
from fastlangevin.network.tracing import trace
from fastlangevin.score.convnet import ConvNetEngine, NativeConvNetScore, TritonConvNetScore, as_tower
from fastlangevin.score.sequential import choose
from fastlangevin.score.torch_ops import TorchOpsScore


def read(net, shape):
    return trace(Target("log_density", net), shape, torch.float32, torch.device("cpu"), Inputs())


def small(features=32, channels=1, slope=0.2):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(channels, features, 3, 1, 1),
        nn.LeakyReLU(slope),
        nn.Conv2d(features, 2 * features, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(2 * features, 1, 2),
        nn.Flatten(0),
    )


def states(n=3, channels=1):
    return torch.randn(n, channels, 4, 4, generator=torch.Generator().manual_seed(1))


def whole(channels=1):
    """A network of whole weights up to 2, and states up to 4. The largest sums, those of the first layer's input
    gradient, are below 32·9·2 · (64·16·2 · 2) < 2^24 quarters. What float16 keeps between layers is short too.
    """
    return whole_(small(channels=channels)), states(channels=channels).mul(2).round().clamp(-4, 4)


@pytest.fixture
def native_kernels():
    why = native.load_cpu()
    if why is not None:
        pytest.skip(why)


def test_networks_that_are_towers():
    network = read(small(), (2, 1, 4, 4))
    assert [slope for _, slope in as_tower(network)] == [0.2, 0.0]
    assert [conv.weight.shape[0] for conv, _ in as_tower(network)] == [32, 64]
    for layers in (
        [nn.Conv2d(1, 1, 4), nn.Flatten(0)],  # affine
        [nn.Conv2d(1, 2, 3), nn.SiLU(), nn.Conv2d(2, 1, 2), nn.Flatten(0)],
        [nn.ReLU(), nn.Conv2d(1, 1, 4), nn.Flatten(0)],
        [nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 2), nn.Flatten(0)],
        [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1)],
    ):
        assert as_tower(read(nn.Sequential(*layers), (2, 1, 4, 4))) is None
    net = small()
    assert as_tower(read(lambda x: net(x) - x.square().flatten(1).sum(1), (2, 1, 4, 4))) is None


@pytest.mark.usefixtures("native_kernels")
def test_the_fastest_supported_implementation_is_selected():
    network, x = read(small(), (2, 1, 4, 4)), states()
    assert choose(network, "fp32", x, ConvNetEngine.implementations).implementation is NativeConvNetScore
    smooth = read(nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU(), nn.Conv2d(2, 1, 2), nn.Flatten(0)), (2, 1, 4, 4))
    kind, precision, reasons = choose(smooth, "fp32", x, ConvNetEngine.implementations, only_if_fast=False)
    assert kind is TorchOpsScore and precision == "fp32"
    why = "not used: they support only consecutive convolutions with (leaky) ReLU"
    assert {f"fused Triton kernels {why}", f"native kernels {why}"} <= set(reasons)
    assert fl.Langevin(log_density=small(), seed=1).plan.engine == "convnet"


@pytest.mark.usefixtures("native_kernels")
def test_convolutions_with_other_activations_are_left_to_native_programs():
    """In float32 on a CPU. What the caller names is used all the same."""
    net, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU(), nn.Conv2d(2, 1, 2), nn.Flatten(0)), states()
    options = {"log_density": net, "n_steps": 2, "step_size": 0.1, "noise_std": 0.1, "seed": 1}
    auto, named = fl.Langevin(**options), fl.Langevin(engine="convnet", **options)
    assert torch.allclose(auto(x), named(x), rtol=0, atol=1e-5)
    assert auto.plan.engine == "graph" and named.plan.engine == "convnet"
    assert any("the graph engine computes with a native program" in reason for reason in auto.plan.reasons)
    wide = fl.Langevin(log_density=net.double(), n_steps=2, seed=1)
    assert wide.plan_for("cpu", x.shape).engine == "convnet"
    linear = nn.Sequential(nn.Linear(8, 1024), nn.SiLU(), nn.Linear(1024, 1), nn.Flatten(0))
    few = fl.Langevin(log_density=linear, n_steps=2, seed=1)
    assert few.plan_for("cpu", (2, 8)).engine != "graph"


@pytest.mark.usefixtures("native_kernels")
def test_a_plan_names_the_kernels():
    plan = fl.Langevin(log_density=fl.models.ConvNet(8, 1, 4), seed=1).plan
    assert "the convnet engine computes with native kernels" in plan.reasons
    doubled = fl.Langevin(log_density=fl.models.ConvNet(8, 1, 4).double(), seed=1).plan
    assert "the convnet engine computes with torch operators" in doubled.reasons
    assert any("native kernels not used: weights must be float32" in reason for reason in doubled.reasons)


@pytest.mark.usefixtures("native_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_states_of_any_dtype_and_layout(dtype):
    """Of sums that float32 makes without an error, so that one rounding to the state's type is left."""
    net, x = whole(channels=3)
    expected, x = exact_score(net, x).to(dtype), x.to(dtype)
    network = read(net, x.shape)
    native_score = NativeConvNetScore(network, "fp32", x)
    assert torch.equal(TorchOpsScore(network, "fp32", x)(x), expected)
    for laid_out in (
        x,
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        score = native_score(laid_out)
        assert score.dtype == dtype and torch.equal(score, expected)


def assert_energies_after_an_affine_tail(kind, precision, channels, dtype):
    """Two linear layers with biases, and a factor: sums of whole numbers and quarters, as in `whole`, below 2^24."""
    torch.manual_seed(3)
    tail = [nn.Conv2d(channels, 3, 2), nn.Flatten(), nn.Linear(3, 2), nn.Linear(2, 1), nn.Flatten(0)]
    tower = [nn.Conv2d(2, channels, 3, 1, 1), nn.LeakyReLU(), nn.Conv2d(channels, channels, 4, 2, 1), nn.LeakyReLU()]
    net = whole_(nn.Sequential(*tower, *tail))
    x = states(5, 2).mul(2).round().clamp(-4, 4).to(dtype)
    network = trace(Target("energy", lambda x: 0.5 * net(x)), x.shape, torch.float32, x.device, Inputs())
    score = kind(network, precision, x)
    expected = 0.5 * copy.deepcopy(net).double()(x.double())
    energy, found = score.energy_and_score(x)
    assert energy.dtype == torch.float32 and torch.equal(energy.double(), expected)
    assert torch.equal(score.energy(x), energy) and torch.equal(score(x), found) and found.dtype == dtype
    net[-2].bias.data += 2
    assert torch.equal(kind(network, precision, x).energy(x), energy + 1)


@pytest.mark.usefixtures("native_kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", [NativeConvNetScore, TorchOpsScore])
def test_energies_after_an_affine_tail(kind, dtype):
    assert_energies_after_an_affine_tail(kind, "fp32", 8, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energies_by_triton_after_an_affine_tail(dtype):
    """In TF32, whose ten bits hold these numbers."""
    layers = [(Conv(torch.zeros(32, 2, 3, 3), None, (1, 1), (1, 1), (1, 1), 1), 0.0)]
    if why := convnet_triton.unsupported(layers, (2, 4, 4), "tf32", torch.device("cpu")):
        pytest.skip(why)
    assert_energies_after_an_affine_tail(TritonConvNetScore, "tf32", 32, dtype)


@pytest.mark.usefixtures("native_kernels")
def test_chains_are_the_same_however_the_batch_is_split():
    """The native kernels compute each chain separately, so that whole chains are equal bit for bit."""
    sampler = fl.Langevin(log_density=small(), n_steps=6, noise_std=0.1, seed=1)
    x0 = states(7)
    whole = sampler(x0, step=0)
    parts = [sampler(x0[i:j], step=0, chain_offset=i) for i, j in ((0, 1), (1, 5), (5, 7))]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("options", whole_chains.OPTIONS.values(), ids=list(whole_chains.OPTIONS))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_whole_chains_have_the_bits_of_single_steps(
    capability, monkeypatch, threads, precision_as_asked, precision, options
):
    """In one call, in several, and step by step with the backend's update; on any number of threads and for any split
    of the batch. In bfloat16 where the kernels have it.
    """
    monkeypatch.setattr(native, "cpu_bfloat16_rate", lambda: BFloat16Rate.DOUBLE)
    options = {"n_steps": 7, "step_size": 0.1, "noise_std": 0.05, "seed": 3, "precision": precision, **options}
    x = torch.linspace(-0.8, 0.9, 37 * 3 * 16).reshape(37, 3, 4, 4)
    make = lambda: fl.Langevin(log_density=small(features=20, channels=3), engine="convnet", **options)
    whole = make()(x, step=5)
    assert whole.isfinite().all() and not torch.equal(whole, x)
    assert torch.equal(make().trace(x, every=2, step=5).x[-1], whole)
    parts = [make()(x[a:b], step=5, chain_offset=a) for a, b in ((0, 1), (1, 20), (20, 37))]
    assert torch.equal(torch.cat(parts), whole)
    monkeypatch.setattr(whole_chain, "_MOST_MULTIPLY_ADDS", 1)
    threads(3)
    assert torch.equal(make()(x, step=5), whole)
    monkeypatch.setattr(NativeConvNetScore, "run_chain_", lambda self, x, args: False)
    assert torch.equal(make()(x, step=5), whole)


@pytest.mark.usefixtures("native_kernels")
def test_whole_chains_run_in_one_call(monkeypatch):
    calls = []
    run = convnet_cpu.run_
    monkeypatch.setattr(
        convnet_cpu, "run_", lambda packed, x, args: (calls.append(len(args.steps)), run(packed, x, args))
    )
    x = states(3)
    memory = torch.full((9, *x.shape[1:]), 99.0)
    memory[3:6] = x
    expected = fl.Langevin(log_density=small(), n_steps=4, seed=1)(x)
    assert torch.equal(fl.Langevin(log_density=small(), n_steps=4, seed=1)(memory[3:6]), expected)
    assert calls == [4, 4] and (memory[:3] == 99).all() and (memory[6:] == 99).all() and torch.equal(memory[3:6], x)
    fl.Langevin(log_density=small(), n_steps=4, seed=1, backend="reference")(x)
    turned = fl.Langevin(log_density=small(), n_steps=4, seed=1)(x.transpose(2, 3))
    assert len(calls) == 2 and turned.stride() == x.transpose(2, 3).stride()


@pytest.fixture
def interpreted():
    """The Triton kernels on CPU tensors, in Triton's interpreter."""
    why = TritonConvNetScore.unsupported(read(small(), (2, 1, 4, 4)), "fp16", states())
    if why is not None:
        pytest.skip(why)


@pytest.mark.usefixtures("interpreted", "precision_as_asked")
@pytest.mark.parametrize("options", [{}, {"grad_clip": 0.05, "bounds": (-0.9, 0.9)}, {"noise_first": True}])
def test_fused_steps_equal_separate_steps(options):
    """The update in the last kernel gives the bits of the score followed by a backend's update; and one step from whole
    numbers is float64's.
    """
    options = {"log_density": small(), "noise_std": 0.1, "precision": "fp16", "seed": 1, **options}
    fused, apart = (fl.Langevin(n_steps=3, backend=backend, **options) for backend in ("auto", "reference"))
    assert "the convnet engine computes with fused Triton kernels" in fused.plan.reasons
    x0 = states(2)
    assert torch.equal(fused(x0, chain_offset=5), apart(x0, chain_offset=5))
    net, x0 = whole()
    step = fl.Langevin(n_steps=1, **{**options, "log_density": net, "noise_std": 0.0})
    clip, (lo, hi) = options.get("grad_clip"), options.get("bounds", (None, None))
    score = exact_score(net, x0)
    expected = x0 + (score if clip is None else score.clamp(-clip, clip).float())
    assert torch.equal(step(x0), (expected if lo is None else expected.clamp(lo, hi)).float())
    assert (score.abs() > 1).any()


@pytest.mark.usefixtures("interpreted", "precision_as_asked")
def test_an_explicit_backend_does_the_update(monkeypatch):
    """Only backend="auto" and "triton" let the kernels of the score do the update."""
    steps = []
    monkeypatch.setattr(TritonConvNetScore, "fused_step_", lambda self, x, args: steps.append(1) is None and False)
    for backend, expected in (("auto", 2), ("triton", 2), ("reference", 0)):
        steps.clear()
        fl.Langevin(log_density=small(), n_steps=2, precision="fp16", backend=backend, seed=1)(states(1))
        assert len(steps) == expected


@pytest.mark.usefixtures("interpreted", "precision_as_asked")
def test_states_that_the_fused_step_does_not_support():
    net, x0 = small(channels=3), states(1, 3)
    sampler = fl.Langevin(log_density=net, n_steps=2, precision="fp16", seed=1)
    expected = sampler(x0, step=0)
    channels_last = sampler(x0.contiguous(memory_format=torch.channels_last), step=0)
    assert torch.equal(channels_last, expected) and channels_last.is_contiguous(memory_format=torch.channels_last)
    assert sampler(x0.double(), step=0).dtype == torch.float64
