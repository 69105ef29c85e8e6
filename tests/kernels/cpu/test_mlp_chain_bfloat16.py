"""Whole chains of MLP energies in bfloat16 by AMX: what is rounded; results do not depend on threads or batches."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from conftest import forced
from support.activation_bounds import native as native_activation
from support.activations import ACTIVATIONS
from support.chain_reference import arguments
from support.error_bounds import UNIT, Roundings, assert_within
from support.mlp_nets import SILU, Net, states
from support.network_bounds import Arithmetic, Exact, score
from support.transitions import arguments as transition_arguments
from support.transitions import memory_of

from fastlangevin.kernels import native
from fastlangevin.kernels.arguments import TransitionKind
from fastlangevin.kernels.cpu import mlp_chain
from fastlangevin.network.layers import Activation, Linear

NETS = [(1, 1), (2, 3, 17), (3, 64, 65), (33, 200, 3), (2, 512, 1, 3), (128, 65, 33, 9), (1024, 15), (31, 16, 32)]
ONE_STEP = dict(step_sizes=[1.0], noise_stds=[0.0], steps=[0], has_noise=False)
SMOOTH = ("silu", "gelu", "tanh", "softplus")
BFLOAT16 = Arithmetic(native_activation, half=UNIT[torch.bfloat16])


@pytest.fixture
def amx():
    if native.load_cpu():
        pytest.skip(native.load_cpu())
    with forced("amx"):
        yield


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("widths", NETS, ids=str)
def test_what_is_multiplied_is_rounded_and_nothing_else(amx, widths):
    """Whole numbers of up to 11 bits, whose products after rounding to nearest, halves to even, and whose sums are
    exact. Biases, activations' derivatives, the last weights and the update are not rounded.
    """
    net, x = Net(widths, Activation("leaky_relu", (0.25,))), states(131, widths[0]).mul(300).round()
    for layer in net.layers[::2]:
        layer.weight.mul_(0.5 * layer.weight.shape[1] ** 0.5).round_()
        layer.bias.mul_(600).round_()
    net.last.mul_(300 * len(net.last) ** 0.5).round_()
    layers = [*net.layers, Linear(net.last[None], None)]
    expected = score(Roundings(), layers, x.double(), Exact(dtype=torch.bfloat16))
    got = net.run(torch.zeros_like(x), arguments(**ONE_STEP), "bf16")  # of states at 0, which need no rounding
    at_zero = score(Roundings(), layers, torch.zeros_like(x).double(), Exact(dtype=torch.bfloat16))
    assert torch.equal(got.double(), at_zero)
    moved = net.run(x, arguments(**ONE_STEP), "bf16").double()
    assert torch.equal(moved, (x.double() + expected).float().double())
    if max(widths) > 1:
        assert (expected != score(Roundings(), layers, x.double(), Exact(bits=60))).double().mean() > 0.01


@functools.cache
def bounded(widths, activation):
    net, x = Net(widths, activation, gain=1.0), states(37, widths[0])
    return net, x, net.chain(x, arguments(**ONE_STEP), BFLOAT16)


@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("widths", [(2, 3, 17), (3, 64, 65), (128, 33)], ids=str)
def test_score_against_float64(amx, widths, activation):
    net, x, expected = bounded(widths, ACTIVATIONS[activation][1])
    assert_within(net.run(x, arguments(**ONE_STEP), "bf16"), *expected, tight=0.3)


@pytest.mark.parametrize("head", [{}, {"n_classes": 5}, {"n_labelled": 131}], ids=str)
@pytest.mark.parametrize("widths", [(2, 64, 64), (3, 17), (128, 33, 40)], ids=str)
def test_neither_threads_nor_batches_matter(amx, threads, widths, head):
    net, d = Net(widths, SILU, **head), widths[0]
    last = net.last
    x = states(131, d)
    whole = net.run(x, arguments(offset=0), "bf16")
    assert not same_bits(whole, net.run(x, arguments(offset=0)))
    for n in (2, 5):
        threads(n)
        assert same_bits(net.run(x, arguments(offset=0), "bf16"), whole)
    threads(1)
    for cuts in ((1, 2, 3, 131), (31, 64, 129, 131), (50, 131)):
        parts, first = [], 0
        for end in cuts:
            net.last = last[first:end] if "n_labelled" in head else last
            parts.append(net.run(x[first:end], arguments(offset=first * d), "bf16"))
            first = end
        assert same_bits(torch.cat(parts), whole)


def test_a_chain_that_is_not_finite_does_not_affect_others(amx):
    x = states(40, 2)
    for net in (Net((2, 9, 5), SILU), Net((2, 9), SILU, n_classes=4), Net((2, 9), SILU, n_labelled=40)):
        expected = net.run(x, arguments(), "bf16")
        for value in (math.nan, math.inf, -math.inf):
            broken = x.clone()
            broken[17, 1] = value
            got = net.run(broken, arguments(), "bf16")
            assert not torch.isfinite(got[17]).all()
            others = torch.arange(40) != 17
            assert same_bits(got[others], expected[others])


@pytest.mark.parametrize("kind", [TransitionKind.mala, TransitionKind.underdamped], ids=lambda kind: kind.name)
def test_other_transitions(amx, kind):
    """They move by the score of `run_`. Two products forwards and two backwards, of factors that are rounded by 2^-9,
    make it 2^-6 off at most to first order, and states move by it and by noise: half of them by less than 5 % of a
    chain's way.
    """
    net, x = Net((2, 40, 33), SILU, prior=1.0, gain=1.0), states(50, 2)
    ends = {}
    for precision in mlp_chain.PRECISIONS:
        got, memory = x.clone(), memory_of(kind, x)
        mlp_chain.run_transitions_(net.layers, net.last, 1.0, got, memory, transition_arguments(kind), precision)
        ends[precision] = got
    assert not same_bits(ends["fp32"], ends["bf16"])
    assert (ends["fp32"] - ends["bf16"]).abs().median() < 0.05 * (ends["fp32"] - x).abs().median()


def test_only_with_amx(capability):
    net = Net((3, 4), SILU)
    assert mlp_chain.unsupported(net.layers, 3, "fp16") == "precision must be fp32 or bf16, got fp16"
    why = mlp_chain.unsupported(net.layers, 3, "bf16")
    assert why == f"bfloat16 needs AMX, and the instruction set in use is {capability}"
    with pytest.raises(RuntimeError, match="bfloat16 needs the amx kernels"):
        net.run(states(4, 3), arguments(), "bf16")
