"""Whole chains of MLP energies in one call: the score against float64, the noise and the update bit for bit, results
that do not depend on threads or batches, and the activations in units of the last place.
"""

from __future__ import annotations

import functools
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from support.activation_values import exact
from support.activations import ACTIVATIONS
from support.chain_reference import OPTIONS, arguments
from support.error_bounds import Roundings, U, assert_within
from support.mlp_nets import SILU, Net, states
from support.network_bounds import Exact, score
from torch import nn

import fastlangevin as fl
from fastlangevin.kernels import build, native
from fastlangevin.kernels.arguments import UpdateArgs
from fastlangevin.kernels.cpu import mlp_chain
from fastlangevin.network.layers import Activation, Linear, LogSumExp

ROOT = Path(__file__).parents[3]
NETS = [(1, 1), (2, 3, 17), (3, 64, 65), (5, 200, 3), (2, 512, 1, 3), (128, 65, 33, 17, 9), (256, 8)]
DEEP, WIDE = (4, *[11] * 9), [(1024, 8), (2, 1024, 3), (900, 300, 5)]


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


ONE_STEP = dict(step_sizes=[1.0], noise_stds=[0.0], steps=[0], has_noise=False)


@functools.cache
def bounded(widths, activation):
    """The end of one step of size 1 without noise, with its bound."""
    net, x = Net(widths, activation), states(37, widths[0])
    return net, x, net.chain(x, arguments(**ONE_STEP))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("widths", [*NETS, DEEP], ids=str)
def test_score_against_float64(capability, widths, activation):
    """Sums run in ascending order, so that the running error bound holds for them; those of the activations are tested
    below. What each rounding does to the score is its exact derivative.
    """
    net, x, expected = bounded(widths, ACTIVATIONS[activation][1])
    assert_within(net.run(x, arguments(**ONE_STEP)), *expected, tight=4e-4)


@pytest.mark.parametrize("widths", NETS + WIDE, ids=str)
def test_sums_of_whole_numbers_are_exact(capability, widths):
    """Small whole weights and states, and a slope that is a power of two: whatever the order of a sum, float32 makes no
    error. No product may be missing, or in another's place.
    """
    net, x = Net(widths, Activation("leaky_relu", (0.25,))), states(131, widths[0]).mul(2).round()
    for layer in net.layers[::2]:
        layer.weight.mul_(0.5 * layer.weight.shape[1] ** 0.5).round_()
        layer.bias.mul_(4).round_()
    net.last.mul_(2 * len(net.last) ** 0.5).round_()
    layers = [*net.layers, Linear(net.last[None], None)]
    expected = x.double() + score(Roundings(), layers, x.double(), Exact())
    assert torch.equal(net.run(x, arguments(**ONE_STEP)).double(), expected)
    assert (expected != x).double().mean() > 0.5


@functools.cache
def bounded_with_head(widths, n_classes, n_labelled):
    net = Net(widths, SILU, prior=0.5, gain=1.0, n_classes=n_classes, n_labelled=n_labelled)
    x = states(37, widths[0])
    return net, x, net.chain(x, arguments())


@pytest.mark.parametrize(
    ("widths", "n_classes", "n_labelled"),
    [((3,), 29, None), ((5, 20, 9), 7, None), ((2, 40), 1, None), ((5, 20, 9), 0, 37), ((3, 1), 0, 37)],
    ids=str,
)
def test_heads_against_float64(capability, widths, n_classes, n_labelled):
    net, x, expected = bounded_with_head(widths, n_classes, n_labelled)
    assert_within(net.run(x, arguments()), *expected, tight=1e-5)


def test_logits_far_from_zero(capability):
    """A class that is e^-200 less likely counts nothing, and one beyond e^88 is no infinity."""
    logits = Linear(torch.eye(3), torch.tensor([150.0, -50.0, 150.0]))
    x, got = states(9, 3), states(9, 3)
    mlp_chain.run_([logits, LogSumExp(False)], torch.ones(1), 0.0, got, arguments(**ONE_STEP))
    p = (x.double() + logits.bias.double()).softmax(1)
    bound = 8 * U * (x.double().abs() + p) + (x.double() + logits.bias.double()).abs().amax() * 4 * U
    assert_within(got, x.double() + p, bound, tight=1e-4)


@functools.cache
def bounded_with_options(activation, options):
    net, x, tail = Net((3, 20, 9), activation, prior=0.3, gain=1.0), states(71, 3), arguments(**OPTIONS[options])
    return net, x, tail, net.chain(x, tail)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("activation", [SILU, Activation("leaky_relu", (0.2,))], ids=lambda a: a.name)
def test_options_against_float64(capability, activation, options):
    net, x, tail, expected = bounded_with_options(activation, options)
    assert_within(net.run(x, tail), *expected, tight=1e-5)


def test_layers_without_bias_and_of_different_activations(capability):
    tail = arguments()
    x = states(40, 2)
    for bias in (True, False):
        net = Net(
            (2, 17, 9, 5, 3),
            [SILU, *(ACTIVATIONS[name][1] for name in ("gelu", "gelu tanh", "tanh"))],
            bias=bias,
            gain=1.0,
        )
        assert_within(net.run(x, tail), *net.chain(x, tail), tight=1e-5)


def test_prior(capability):
    """The score s is the same without a prior, and (1 + δ)(s - λx(1 + δ)) with one, where products are rounded; η is
    exact, and each state is rounded in its last step.
    """
    tail = arguments(step_sizes=[0.5], noise_stds=[0.0], steps=[0], has_noise=False)
    x = states(40, 7)
    without, with_prior = (Net((7, 9), SILU, prior=prior).run(x, tail).double() for prior in (0.0, 0.75))
    x = x.double()
    score = 2 * (with_prior - x)
    bound = U * (0.5 * (score.abs() + 0.75 * x.abs()) + with_prior.abs() + without.abs())
    assert_within(with_prior - without, -0.5 * 0.75 * x, 1.01 * bound, tight=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dimension", [1, 2, 3, 7])
def test_noise_and_update_match_the_contract_bit_for_bit(capability, dimension, options):
    """A linear net, whose score is exactly the weights of its only unit."""
    force = states(1, dimension, seed=5)
    layers = [Linear(force, None), Activation("leaky_relu", (1.0,))]
    x = states(101, dimension)
    tail = arguments(**OPTIONS[options])
    got, expected = x.clone(), x.clone()
    mlp_chain.run_(layers, torch.ones(1), 0.0, got, tail)
    step_sizes, noise_stds, has_noise, seed, steps, offset, clip, lo, hi, noise_first = tail
    forces = force.expand_as(x).contiguous()
    for eta, sigma, step in zip(step_sizes, noise_stds, steps, strict=True):
        if noise_first:
            limits = (lo, hi) if noise_first == "clamp" else (None, None)
            args = UpdateArgs(None, sigma, seed, step, 0, offset, None, *limits)
            fl.kernels.reference.update(expected, None, args)
        noise = sigma if has_noise and not noise_first else None
        args = UpdateArgs(eta, noise, seed, step, 0, offset, clip, lo, hi)
        fl.kernels.reference.update(expected, forces, args)
    assert same_bits(got, expected)
    assert not torch.equal(got, x)


@pytest.mark.parametrize("head", [{}, {"n_classes": 5}, {"n_labelled": 131}], ids=str)
@pytest.mark.parametrize("widths", [(2, 64, 64), (3, 17), (128, 33, 40), (400, 5)], ids=str)
def test_neither_threads_nor_batches_matter(capability, threads, widths, head):
    net, d = Net(widths, SILU, **head), widths[0]
    last = net.last
    x = states(131, d)
    whole = net.run(x, arguments(offset=0))
    for n in (2, 5):
        threads(n)
        assert same_bits(net.run(x, arguments(offset=0)), whole)
    threads(1)
    for cuts in ((1, 2, 3, 131), (31, 64, 129, 131), (50, 131)):
        parts, first = [], 0
        for end in cuts:
            net.last = last[first:end] if "n_labelled" in head else last
            parts.append(net.run(x[first:end], arguments(offset=first * d)))
            first = end
        assert same_bits(torch.cat(parts), whole)


def test_steps_in_one_call_equal_single_steps(capability):
    net, x = Net((3, 20, 9), SILU), states(50, 3)
    for noise_first in (False, True, "clamp"):
        options = dict(lo=-1.0, hi=1.0, noise_first=noise_first)
        whole = net.run(
            x, arguments(step_sizes=[0.1, 0.2, 0.3], noise_stds=[0.3, 0.2, 0.1], steps=[4, 5, 6], **options)
        )
        one_by_one = x
        for k in range(3):
            one = arguments(step_sizes=[0.1 * (k + 1)], noise_stds=[0.1 * (3 - k)], steps=[4 + k], **options)
            one_by_one = net.run(one_by_one, one)
        # 0.1 * 3 is not the float64 nearest to 0.3, but the float32 is the same.
        assert same_bits(whole, one_by_one)


def test_avx2_and_avx512_agree_bit_for_bit():
    from conftest import forced

    if native.load_cpu():
        pytest.skip(native.load_cpu())
    for _, activation in ACTIVATIONS.values():
        net, x = Net((3, 20, 9), activation), states(70, 3)
        results = []
        for capability in ("avx2", "avx512"):
            with forced(capability):
                results.append(net.run(x, arguments()))
        assert same_bits(*results)


def test_a_chain_that_is_not_finite_does_not_affect_others(capability):
    x = states(40, 2)
    nets = [Net((2, 9, 5), activation) for _, activation in ACTIVATIONS.values()]
    for net in (*nets, Net((2, 9), SILU, n_classes=4), Net((2, 9), SILU, n_labelled=40)):
        expected = net.run(x, arguments())
        for value in (math.nan, math.inf, -math.inf):
            broken = x.clone()
            broken[17, 1] = value
            got = net.run(broken, arguments())
            assert not torch.isfinite(got[17]).all()
            others = torch.arange(40) != 17
            assert same_bits(got[others], expected[others])


def test_memory_around_the_state_is_unchanged(capability):
    whole = torch.full((60, 3), 99.0)
    x = whole[7:50]
    net = Net((3, 5), SILU)
    mlp_chain.run_(net.layers, net.last, 0.0, x, arguments())
    assert (whole[:7] == 99).all() and (whole[50:] == 99).all() and (x != 99).all()


def test_version_counter_and_weights_that_require_grad():
    net, x = Net((3, 5), SILU), states(4, 3)
    expected = net.run(x, arguments())
    net.layers[0] = Linear(nn.Parameter(net.layers[0].weight.t().contiguous().t()), nn.Parameter(net.layers[0].bias))
    assert same_bits(net.run(x, arguments()), expected)
    before = x._version
    mlp_chain.run_(net.layers, nn.Parameter(net.last), 0.0, x, arguments())
    assert x._version > before and not x.requires_grad


def test_nothing_to_do():
    net = Net((3, 5), SILU)
    net.run(torch.empty(0, 3), arguments())
    x = states(4, 3)
    assert torch.equal(net.run(x, arguments(step_sizes=[], noise_stds=[], steps=[])), x)


def test_operator_passes_opcheck():
    net = Net((3, 5), SILU)
    step_sizes, noise_stds, has_noise, seed, steps, offset, *limits = arguments()
    hidden = ([net.layers[0].weight], [None], [1], [0.0, 0.0])
    classes = ([net.layers[0].weight], [None], [], [], torch.ones(1), 0.0)
    numbers = (step_sizes, noise_stds, has_noise, seed, steps[0], offset, *limits[:-1], 0)
    for energy in ((*hidden, net.last, 0.5), (*hidden, torch.ones(4, 5), 0.5), classes):
        torch.library.opcheck(torch.ops.fastlangevin.mlp_chain_cpu_.default, (states(4, 3), *energy, False, *numbers))


@pytest.mark.parametrize(
    ("layers", "n_inputs", "words"),
    [
        ([], 3, "0 linear layers"),
        (Net((3, 4), SILU).layers[:1], 3, "1 linear layers and 0 activations"),
        (Net((3, 4), SILU).layers[::-1], 3, "not alternating linear layers and activations"),
        ([LogSumExp(False)], 3, "1 linear layers and 0 activations"),
        ([LogSumExp(False), *Net((3, 4), SILU).layers, SILU], 3, "not alternating linear layers and activations"),
        (Net((1025, 4), SILU).layers, 1025, "1025 inputs"),
        (Net((3, 1025), SILU).layers, 3, "1025 wide"),
        (Net((3, 4), SILU, n_classes=1025).layers, 3, "1025 wide"),
        ([Linear(torch.zeros(4, 3, dtype=torch.float64), None), SILU], 3, "float64"),
        (Net((3, 4), Activation("leaky_relu", (-0.1,))).layers, 3, "leaky_relu"),
        (Net((3, 4), Activation("elu", (-1.0,))).layers, 3, "elu"),
        (Net((3, 4), Activation("softplus", (-1.0, 20.0))).layers, 3, "softplus"),
        (Net((3, 4), Activation("unknown")).layers, 3, "unknown"),
    ],
)
def test_unsupported(layers, n_inputs, words):
    assert words in (mlp_chain.unsupported(layers, n_inputs) or "")


def test_mismatched_arguments():
    net, x = Net((3, 5), SILU), states(4, 3)
    with pytest.raises(ValueError, match="contiguous and float32"):
        mlp_chain.run_(net.layers, net.last, 0.0, x.double(), arguments())
    with pytest.raises(ValueError, match="must have the same length"):
        mlp_chain.run_(net.layers, net.last, 0.0, x, arguments(step_sizes=[0.1]))
    with pytest.raises(RuntimeError, match="do not follow each other"):
        mlp_chain.run_(net.layers, net.last, 0.0, states(4, 2), arguments())
    with pytest.raises(RuntimeError, match="last is not of the last layer's width"):
        mlp_chain.run_(net.layers, net.last[:4].contiguous(), 0.0, x, arguments())
    with pytest.raises(RuntimeError, match="or not of as many chains as x"):
        mlp_chain.run_(net.layers, net.last.expand(3, 5).contiguous(), 0.0, x, arguments())


FLAGS = {"portable": (), "neon": ("-DFL_NEON",), "avx2": build._AVX2, "avx512": build._AVX512}


def test_activations_in_units_of_the_last_place(capability, tmp_path):
    """Values to 7 units in the last place of what is 0.1 or more, of 0.1 below; derivatives to 2.5 of 1, or of what
    is more. Near 0, where an activation is linear, the relative error is as small.
    """
    program = tmp_path / "activations"
    command = [*build.compiler().split(), "-O1", "-std=c++17", "-ffp-contract=off", "-w", *FLAGS[capability]]
    subprocess.run([*command, Path(__file__).with_name("activations.cpp"), "-o", program], check=True)
    tiny = np.logspace(-20, -1, 8000)
    z = np.concatenate([np.linspace(-80, 80, 80_000), np.linspace(-8, 8, 160_000), tiny, -tiny]).astype(np.float32)
    for _, activation in ACTIVATIONS.values():
        kind, parameters = mlp_chain.activation_args(activation)
        arguments = [str(number) for number in (int(kind), *parameters)]
        done = subprocess.run([program, *arguments], input=z.tobytes(), capture_output=True, check=True)
        h, d = np.frombuffer(done.stdout, np.float32).reshape(2, len(z)).astype(np.float64)
        value, derivative = (v.numpy() for v in exact(activation, torch.from_numpy(z)))
        error = np.abs(h - value)
        assert (error / np.spacing(np.maximum(np.abs(value), 0.1).astype(np.float32))).max() < 7, activation
        scale = np.spacing(np.maximum(np.abs(derivative), 1).astype(np.float32))
        assert (np.abs(d - derivative) / scale).max() < 2.5, activation
        small = (np.abs(z) < 0.05) & (np.abs(value) < 0.1)
        assert (error[small] <= 7 * np.spacing(np.abs(value[small]).astype(np.float32))).all(), activation
