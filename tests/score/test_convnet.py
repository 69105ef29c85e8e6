"""engine="convnet": the closed-form score against autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from support.activations import ACTIVATIONS
from support.chain_reference import arguments, chain
from support.error_bounds import UNIT, Roundings, U, assert_within
from support.network_bounds import Arithmetic, Exact, score
from support.whole_numbers import exact_score, whole_
from torch import nn
from torch.nn.utils import parametrizations

import fastlangevin as fl
from fastlangevin.network.inputs import Inputs
from fastlangevin.network.layers import Linear

MODULES = {
    **{name: module for name, (module, _) in ACTIVATIONS.items()},
    "leaky below zero": lambda: nn.LeakyReLU(-0.3),
    "leaky in place": lambda: nn.LeakyReLU(0.1, inplace=True),
    "elu below zero": lambda: nn.ELU(-0.7),
}


def convolutions(a):
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, 1, 1), a(), nn.Conv2d(5, 6, 4, 2, 1), a(), nn.Conv2d(6, 1, (4, 3)), nn.Flatten(0)
    ), (3, 8, 6)


ARCHITECTURES = {
    "convolutions": convolutions,
    "grouped, dilated": lambda a: (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, dilation=2, groups=2, bias=False), a(), nn.Conv2d(4, 4, (1, 3), (2, 1), (0, 2)), a(),
            nn.Flatten(), nn.Linear(40, 1),
        ),
        (2, 8, 7),
    ),
    "pooled": lambda a: (
        nn.Sequential(
            nn.Conv2d(1, 4, 3), a(), nn.AvgPool2d(2, 1, 1, count_include_pad=False), nn.AvgPool2d(3, ceil_mode=True),
            a(),
            nn.Flatten(), nn.Linear(16, 1),
        ),
        (1, 6, 6),
    ),
    "flattened in the middle": lambda a: (
        nn.Sequential(
            nn.Conv2d(2, 3, 3), a(), nn.Flatten(), nn.Linear(48, 8, bias=False), a(), nn.Unflatten(1, (2, 2, 2)),
            nn.Conv2d(2, 3, 2), a(), nn.Flatten(), nn.Linear(3, 4), nn.Linear(4, 1),
        ),
        (2, 6, 6),
    ),
    "linear": lambda a: (nn.Sequential(nn.Linear(5, 17), a(), nn.Linear(17, 9), a(), nn.Linear(9, 1)), (5,)),
    "sequences": lambda a: (nn.Sequential(nn.Linear(3, 4), a(), nn.Flatten(), nn.Linear(8, 1)), (2, 3)),
    "activation first": lambda a: (
        nn.Sequential(a(), nn.Conv2d(2, 3, 3), a(), a(), nn.Conv2d(3, 1, 2), nn.Flatten(0)),
        (2, 4, 4),
    ),
    "flattened first": lambda a: (
        nn.Sequential(nn.Flatten(), a(), nn.Linear(18, 3), a(), nn.Linear(3, 1)),
        (2, 3, 3),
    ),
    "affine": lambda a: (nn.Sequential(nn.Conv2d(2, 3, 2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3, 1)), (2, 3, 3)),
    "ends in an activation": lambda a: (nn.Sequential(nn.Linear(3, 4), a(), nn.Linear(4, 1), a()), (3,)),
}  # fmt: skip


# Scores around 1, of at most 6 layers forwards and backwards, sums of at most 80 terms: 12 γ_80 = 1e-13 of Σ|terms|.
FLOAT64 = dict(rtol=1e-12, atol=2e-13)


def scores(net, x, kind="log_density"):
    """The scores of both engines, and in float64 their energies, which are compared. The network is copied, because a
    forward of spectral norm changes it.
    """
    samplers = [fl.Langevin(**{kind: copy.deepcopy(net)}, engine=e, seed=1) for e in ("convnet", "autograd")]
    score, expected = (sampler.score(x) for sampler in samplers)
    if x.dtype == torch.float64:
        energy = samplers[1].energy(x)
        torch.testing.assert_close(samplers[0].energy(x), energy, **FLOAT64)
        both = samplers[0]._score.bind(x, Inputs()).energy_and_score(x)
        torch.testing.assert_close(both[0], energy, **FLOAT64)
        assert torch.equal(both[1], score)
    return score, expected


def chains(event, n=3, dtype=torch.float64):
    return torch.randn(n, *event, dtype=dtype, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("activation", MODULES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float64_score_is_that_of_autograd(architecture, activation):
    if activation == "leaky in place" and architecture in ("activation first", "flattened first"):
        pytest.skip("would overwrite the state")
    torch.manual_seed(3)
    net, event = ARCHITECTURES[architecture](MODULES[activation])
    net.double()
    x = chains(event)
    before = x.clone()
    score, expected = scores(net, x)
    torch.testing.assert_close(score, expected, **FLOAT64)
    assert torch.equal(x, before) and score.stride() == x.stride()
    negated, expected = scores(net, x, "energy")
    torch.testing.assert_close(negated, expected, **FLOAT64)


@pytest.mark.parametrize("kind", ["log_density", "energy"])
def test_a_quadratic_term(kind):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 1)).double()
    x = chains((4,))
    score, expected = scores(lambda x: 1.5 * (net(x)[:, 0] - 0.3 * x.square().sum(1)), x, kind)
    torch.testing.assert_close(score, expected, **FLOAT64)


@pytest.mark.parametrize(
    "norm", [parametrizations.spectral_norm, parametrizations.weight_norm, parametrizations.orthogonal]
)
def test_parametrized_layers(norm):
    torch.manual_seed(3)
    net = nn.Sequential(norm(nn.Linear(4, 6)), nn.SiLU(), norm(nn.Linear(6, 5)), nn.SiLU(), nn.Linear(5, 1)).double()
    score, expected = scores(net.eval(), chains((4,)))
    torch.testing.assert_close(score, expected, **FLOAT64)


def test_a_spectral_norm_in_train_mode_is_declined():
    net = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 6)), nn.SiLU(), nn.Linear(6, 1))
    with pytest.raises(fl.BackendUnavailable, match="a spectral norm in train mode iterates at each evaluation"):
        fl.Langevin(net, n_steps=2, engine="convnet", seed=1)(torch.zeros(2, 4))


def layers_of(net):
    """As `network_bounds` takes `convolutions`: the last one covers its input, as a linear layer would."""
    last = Linear(net[4].weight.detach().flatten()[None], None)
    return [*net[:4], nn.Flatten(), last]


def whole_convolutions(activation="leaky", bits=24, n=3):
    """With states, of numbers so short that no sum of the score has an error in a type of so many bits."""
    torch.manual_seed(3)
    net, event = convolutions(MODULES[activation])
    net, x = whole_(net, most=1), chains(event, n).round().clamp(-1, 1)
    score(Roundings(), layers_of(net), x, Exact(bits=bits))
    return net, x


@pytest.mark.parametrize("n_chains", [0, 1, 2])
def test_batches_down_to_none(n_chains):
    net, x = whole_convolutions(n=n_chains)
    x = x.float()
    score = fl.Langevin(log_density=net, engine="convnet", seed=1).score(x)
    assert torch.equal(score.double(), exact_score(net, x)) and score.shape == x.shape


def test_layouts_of_the_state():
    net, event = convolutions(MODULES["silu"])
    net.double()
    x = chains(event)
    expected = scores(net, x)[1]
    for laid_out in (
        x.contiguous(memory_format=torch.channels_last),
        x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        torch.stack((x, x), 1)[:, 0],
        x[:1].expand(3, *event),
    ):
        score = fl.Langevin(log_density=net, engine="convnet", seed=1).score(laid_out)
        torch.testing.assert_close(score, scores(net, laid_out.clone())[1], **FLOAT64)
    torch.testing.assert_close(expected, scores(net, x)[0], **FLOAT64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_state_and_network_of_different_types(dtype):
    """One rounding is left, that to the state's type."""
    net, x = whole_convolutions()
    expected = exact_score(net, x).to(dtype)
    for got in scores(net, x.to(dtype)):
        assert got.dtype == dtype and torch.equal(got, expected)


def test_float64_network_stays_float64():
    net, event = convolutions(MODULES["tanh"])
    net.double()
    x = chains(event)
    exact = scores(net, x)[1]
    for precision in ("fp32", "bf16"):
        score = fl.Langevin(log_density=net, engine="convnet", precision=precision, seed=1).score(x)
        torch.testing.assert_close(score, exact, **FLOAT64)


HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.usefixtures("precision_as_asked")
@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("activation", ["silu", "tanh", "softplus"])
def test_16_bit_precisions(precision, activation):
    """Factors and results of sums are rounded to the type, sums in float32; activations and their derivatives to the
    type too. Smooth ones, so that no sign flips.
    """
    torch.manual_seed(3)
    net, event = convolutions(MODULES[activation])
    x, roundings, half = chains(event, 8, torch.float32), Roundings(), UNIT[HALF[precision]]
    rounded = lambda name, z, value, derivative, *_: (half * value.abs() + 8 * U, half * derivative.abs() + 8 * U)
    expected = score(roundings, layers_of(net), x.double(), Arithmetic(rounded, half=half))
    got = fl.Langevin(log_density=net, engine="convnet", precision=precision, seed=1).score(x)
    assert got.dtype == torch.float32
    assert_within(got, expected.detach(), roundings.bound(expected), roundings.sure, tight=60 * half)
    assert (got - expected).norm() > 100 * U * expected.norm()  # not float32 either


@pytest.mark.parametrize("precision", HALF)
def test_short_numbers_are_exact_in_16_bits(precision):
    net, x = whole_convolutions("relu", bits=8)
    got = fl.Langevin(log_density=net, engine="convnet", precision=precision, seed=1).score(x.float())
    assert torch.equal(got.double(), exact_score(net, x))


@pytest.mark.usefixtures("precision_as_asked")
@pytest.mark.parametrize("scale", [2.0**-30, 1.0, 2.0**13])
def test_fp16_gradients_do_not_underflow(scale):
    """Last weights of 2^-30 are zero in float16 (least positive: 2^-24)."""
    net, x = whole_convolutions("relu", bits=8)
    expected = scale * exact_score(net, x)
    with torch.no_grad():
        net[4].weight *= scale
        log_density = copy.deepcopy(net).double()(x.double())
    sampler = fl.Langevin(log_density=net, engine="convnet", precision="fp16", seed=1)
    assert torch.equal(sampler.score(x.float()).double(), expected)
    assert torch.equal(sampler.energy(x.float()), -log_density.float()) and (log_density - net[4].bias).abs().max() > 0


def test_energies_and_traces():
    net, event = convolutions(MODULES["leaky"])
    net.double()
    x = chains(event)
    ours, plain = (fl.Langevin(log_density=net, n_steps=4, engine=e, seed=1) for e in ("convnet", "autograd"))
    torch.testing.assert_close(ours.energy(x), plain.energy(x), **FLOAT64)
    for a, b in zip(ours.trace(x), plain.trace(x), strict=True):
        torch.testing.assert_close(a, b, **FLOAT64)


def test_a_chain_uses_the_weights_at_its_call():
    """Of numbers that float32 adds and multiplies without an error."""
    net, x = whole_convolutions()
    sampler = fl.Langevin(log_density=net, n_steps=2, step_size=0.25, noise_std=0.0, engine="convnet", seed=1)

    def expected():
        tail = arguments(step_sizes=[0.25] * 2, noise_stds=[0.0] * 2, steps=range(2), has_noise=False)
        return chain(lambda roundings, x: score(roundings, layers_of(net), x, Exact()), x, tail)[0]

    first = sampler(x.float(), step=0)
    assert torch.equal(first.double(), expected())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    second = sampler(x.float(), step=0)
    assert torch.equal(second.double(), expected()) and not torch.equal(first, second)


def test_the_network_is_unchanged():
    net, event = convolutions(MODULES["leaky in place"])
    before = copy.deepcopy(net.state_dict())
    fl.Langevin(log_density=net, n_steps=3, engine="convnet", precision="bf16", seed=1).sample((2, *event))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad and p.is_contiguous() for p in net.parameters())
