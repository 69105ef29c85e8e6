"""engine="convnet": the closed-form score against autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from support.activations import ACTIVATIONS
from torch import nn
from torch.nn.utils import parametrizations

import fastlangevin as fl

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


def scores(net, x, kind="log_density"):
    """The scores of both engines. The network is copied, because a forward of spectral norm changes it."""
    return [
        fl.Langevin(**{kind: copy.deepcopy(net)}, engine=engine, seed=1).score(x) for engine in ("convnet", "autograd")
    ]


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
    torch.testing.assert_close(score, expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(x, before) and score.stride() == x.stride()
    negated, expected = scores(net, x, "energy")
    torch.testing.assert_close(negated, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["log_density", "energy"])
def test_a_quadratic_term(kind):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 1)).double()
    x = chains((4,))
    score, expected = scores(lambda x: 1.5 * (net(x)[:, 0] - 0.3 * x.square().sum(1)), x, kind)
    torch.testing.assert_close(score, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "norm", [parametrizations.spectral_norm, parametrizations.weight_norm, parametrizations.orthogonal]
)
def test_parametrized_layers(norm):
    torch.manual_seed(3)
    net = nn.Sequential(norm(nn.Linear(4, 6)), nn.SiLU(), norm(nn.Linear(6, 5)), nn.SiLU(), nn.Linear(5, 1)).double()
    score, expected = scores(net.eval(), chains((4,)))
    torch.testing.assert_close(score, expected, rtol=1e-12, atol=1e-14)


def test_spectral_norm_iterates_once_per_call():
    net = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 6)), nn.SiLU(), nn.Linear(6, 1))
    once = copy.deepcopy(net)
    fl.Langevin(net, n_steps=7, engine="convnet", seed=1)(torch.zeros(2, 4))
    once(torch.zeros(1, 4))
    assert torch.equal(net[0].parametrizations.weight[0]._u, once[0].parametrizations.weight[0]._u)
    before = net[0].parametrizations.weight[0]._u.clone()
    repr(fl.Langevin(net, seed=1)), fl.Langevin(net, seed=1).plan
    assert torch.equal(net[0].parametrizations.weight[0]._u, before)


@pytest.mark.parametrize("n_chains", [0, 1, 2])
def test_batch_sizes_down_to_zero(n_chains):
    net, event = convolutions(MODULES["leaky"])
    x = chains(event, n_chains, torch.float32)
    score, expected = scores(net, x) if n_chains else (fl.Langevin(net, engine="convnet", seed=1).score(x), x)
    torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-7)


def test_layouts_of_the_state():
    net, event = convolutions(MODULES["silu"])
    x = chains(event, dtype=torch.float32)
    expected = scores(net, x)[1]
    for laid_out in (
        x.contiguous(memory_format=torch.channels_last),
        x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        torch.stack((x, x), 1)[:, 0],
        x[:1].expand(3, *event),
    ):
        score = fl.Langevin(log_density=net, engine="convnet", seed=1).score(laid_out)
        torch.testing.assert_close(score, scores(net, laid_out.clone())[1], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(expected, scores(net, x)[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_state_and_network_of_different_dtypes(dtype):
    net, event = convolutions(MODULES["leaky"])
    x = chains(event, dtype=dtype)
    score, expected = scores(net, x)
    assert score.dtype == dtype
    torch.testing.assert_close(score, expected, rtol=1e-2 if dtype.itemsize == 2 else 1e-6, atol=1e-6)


def test_float64_network_stays_float64():
    net, event = convolutions(MODULES["tanh"])
    net.double()
    x = chains(event)
    exact = scores(net, x)[1]
    for precision in ("fp32", "bf16"):
        score = fl.Langevin(log_density=net, engine="convnet", precision=precision, seed=1).score(x)
        torch.testing.assert_close(score, exact, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("precision", "error"), [("bf16", 2e-2), ("fp16", 3e-3)])
@pytest.mark.parametrize("activation", ["silu", "tanh", "softplus"])
def test_16_bit_precisions(precision, error, activation):
    """The activations are smooth, so that no sign flips: the relative error is that of the dtype."""
    torch.manual_seed(3)
    net, event = convolutions(MODULES[activation])
    x = chains(event, 8, torch.float32)
    exact = scores(net, x)[1]
    score = fl.Langevin(log_density=net, engine="convnet", precision=precision, seed=1).score(x)
    assert score.dtype == torch.float32
    distance = (score - exact).norm() / exact.norm()
    assert 1e-5 < distance < error  # not float32 either


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e4])
def test_fp16_gradients_do_not_underflow(scale):
    """Last weights of 1e-9 are zero in float16 (smallest positive number: 6e-8)."""
    torch.manual_seed(3)
    net, event = convolutions(MODULES["tanh"])
    with torch.no_grad():
        net[4].weight *= scale
    x = chains(event, 8, torch.float32)
    exact = scores(net, x)[1]
    score = fl.Langevin(log_density=net, engine="convnet", precision="fp16", seed=1).score(x)
    assert (score - exact).norm() < 3e-3 * exact.norm()


def test_energies_and_traces():
    net, event = convolutions(MODULES["leaky"])
    x = chains(event, dtype=torch.float32)
    ours, plain = (fl.Langevin(log_density=net, n_steps=4, engine=e, seed=1) for e in ("convnet", "autograd"))
    torch.testing.assert_close(ours.energy(x), plain.energy(x))
    for a, b in zip(ours.trace(x), plain.trace(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_chain_uses_the_weights_at_its_call():
    net, event = convolutions(MODULES["leaky"])
    x = chains(event, dtype=torch.float32)
    sampler = fl.Langevin(log_density=net, n_steps=3, engine="convnet", seed=1)
    first = sampler(x, step=0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    second = sampler(x, step=0)
    fresh = fl.Langevin(log_density=copy.deepcopy(net), n_steps=3, engine="autograd", seed=1)(x)
    torch.testing.assert_close(second, fresh, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_network_is_unchanged():
    net, event = convolutions(MODULES["leaky in place"])
    before = copy.deepcopy(net.state_dict())
    fl.Langevin(log_density=net, n_steps=3, engine="convnet", precision="bf16", seed=1).sample((2, *event))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad and p.is_contiguous() for p in net.parameters())
