"""Whole chains of MALA, HMC and underdamped dynamics in one call: bit for bit those of the moves in plain torch, and
energies against float64.
"""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from support.activation_bounds import NATIVE_MLP
from support.activations import ACTIVATIONS
from support.analytic_scores import mixture
from support.error_bounds import Roundings, U, assert_within
from support.mlp_nets import SILU, Net, states
from support.moves import MASSES, momentum
from support.network_bounds import Exact, energy, log_sum_exp
from support.transitions import (
    CASES,
    KINDS,
    arguments,
    copy_of,
    double_well,
    fma_of,
    memory_of,
    mlp,
    same,
    step_by_step,
)

import fastlangevin as fl
from fastlangevin.kernels import native
from fastlangevin.kernels.arguments import Momentum, TransitionKind
from fastlangevin.kernels.cpu import analytic_chain, mlp_chain, whole_chain
from fastlangevin.network.layers import Activation, Linear

pytestmark = pytest.mark.skipif(native.load_cpu() is not None, reason="no CPU library")


def run(case, x, args, memory=None):
    """The last states, and the memory after them."""
    x, memory = x.clone(), memory_of(args.kind, x) if memory is None else copy_of(memory)
    case.run(x, memory, args)
    return x, memory


def assert_steps_agree(case, x, args, capability):
    got, after = run(case, x, args)
    expected, memory = x.clone(), memory_of(args.kind, x)
    step_by_step(case, expected, memory, args, fma_of(capability))
    assert torch.equal(got, expected) and (got != x).any()
    if not isinstance(after, torch.Tensor):
        assert torch.equal(after.score, torch.full_like(x, 99.0))  # not written
        after = after._replace(score=memory.score)
    assert same(after, memory)
    return after


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", CASES)
def test_transitions_are_those_of_the_moves(capability, name, kind):
    """In full blocks of chains and beside one, with noise steps up to the last one."""
    for (n, d), masses in zip(((300, 2), (40, 5)), MASSES[1:], strict=True):
        masses = "none" if kind == TransitionKind.mala else masses
        x = states(n, d)
        after = assert_steps_agree(
            CASES[name](d),
            x,
            arguments(kind, momentum(masses, x.shape, x.dtype), offset=3, first_chain=2**33 + 1, stream=4),
            capability,
        )
        if kind != TransitionKind.underdamped and n == 300:
            assert 100 < (after.n_accepted - memory_of(kind, x).n_accepted).sum() < 4 * 300 - 5


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", [(1, 1), (3, 129), (2, 1025)], ids=str)
def test_sums_of_any_size(capability, shape, kind):
    """More features than lanes of a sum, and fewer chains than a vector holds."""
    x, sizes = states(*shape), [0.05, 0.02]
    args = arguments(kind, step_sizes=sizes, steps=range(2**32 - 2, 2**32), seed=-3)
    assert_steps_agree(double_well(shape[1]), x, args, capability)


@pytest.mark.parametrize("kind", [TransitionKind.mala, TransitionKind.hmc], ids=lambda kind: kind.name)
def test_bounds_reject(capability, kind):
    x = states(300, 2).clamp(-1.1, 1.2)
    after = assert_steps_agree(double_well(2), x, arguments(kind, lo=-1.1, hi=1.2), capability)
    assert (after.log_ratio == -math.inf).sum() > 20 and (after.log_ratio > -math.inf).sum() > 20
    got, _ = run(double_well(2), x, arguments(kind, lo=-1.1, hi=1.2))
    assert got.min() >= torch.tensor(-1.1) and got.max() <= torch.tensor(1.2)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_single_leapfrog_or_step(capability, kind):
    args = arguments(kind, n_leapfrog=1, step_sizes=[0.3], steps=[5])
    assert_steps_agree(double_well(3), states(20, 3), args, capability)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", CASES)
def test_neither_threads_nor_batches_nor_calls_matter(capability, threads, monkeypatch, name, kind):
    """An MLP's chains move between wide and narrow blocks."""
    case, x = CASES[name](3), states(601, 3)
    m = Momentum(None, None, None) if kind == TransitionKind.mala else momentum("of a chain", x.shape, x.dtype)
    args, memory = arguments(kind, m), memory_of(kind, x)
    whole, after = run(case, x, args, memory)
    for n in (2, 3):
        threads(n)
        again, memory_again = run(case, x, args, memory)
        assert same(again, whole) and same(memory_again, after)
    threads(1)
    cuts = (0, 1, 8, 300, 601)
    parts, memories = [], []
    for a, b in itertools.pairwise(cuts):
        part = memory[a:b] if isinstance(memory, torch.Tensor) else type(memory)(*(each[a:b] for each in memory))
        got, part = run(case, x[a:b], args._replace(offset=3 * a, first_chain=a), part)
        parts.append(got)
        memories.append((part,) if isinstance(part, torch.Tensor) else tuple(part))
    assert same(torch.cat(parts), whole)
    joined = [torch.cat(each) for each in zip(*memories, strict=True)]
    assert same(joined[0] if len(joined) == 1 else type(after)(*joined), after)
    monkeypatch.setattr(whole_chain, "_MOST_UPDATES", 1)  # a transition a call
    sliced, memory_sliced = run(case, x, args, memory)
    assert same(sliced, whole) and same(memory_sliced, after)


ALL_REJECTED = dict(step_sizes=[0.01], steps=[0], lo=1e30, hi=1e30)


def energies(run_transitions, x):
    """Those that the kernel computes at x, where no proposal is accepted."""
    memory = memory_of(TransitionKind.mala, x)
    got = x.clone()
    run_transitions(got, memory, arguments(TransitionKind.mala, **ALL_REJECTED))
    assert torch.equal(got, x) and (memory.log_ratio == -math.inf).all()
    return memory.energy


def net_energies(net, x):
    return energies(functools.partial(mlp_chain.run_transitions_, net.layers, net.last, net.prior), x)


@functools.cache
def bounded_energy(widths, activation, n_labelled=None, n_classes=0):
    net = Net(widths, activation, gain=1.0, prior=0.5, n_labelled=n_labelled, n_classes=n_classes)
    x, roundings = states(37, widths[0]), Roundings()
    layers = net.layers if n_classes else [*net.layers, Linear(net.last.reshape(-1, widths[-1]), None)]
    factor = float(net.last[0]) if n_classes else 1.0
    wide = x.double().requires_grad_()
    value = energy(roundings, layers, wide, NATIVE_MLP, net.prior, factor)
    return net, x, (value.detach(), roundings.bound(value[:, None])[:, 0], roundings.sure)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_energies_of_mlps(capability, activation):
    for widths in ((3, 64, 65), (256, 8), (2, 17)):
        net, x, expected = bounded_energy(widths, ACTIVATIONS[activation][1])
        assert_within(net_energies(net, x), *expected, tight=5e-5)


@pytest.mark.parametrize(("n_labelled", "n_classes"), [(37, 0), (None, 10)])
def test_energies_with_classes(capability, n_labelled, n_classes):
    net, x, expected = bounded_energy((3, 64, 33), SILU, n_labelled, n_classes)
    assert_within(net_energies(net, x), *expected, tight=5e-5)


@pytest.mark.parametrize("widths", [(5, 200, 3), (2, 512, 1, 3), (1024, 8), (2, 1024, 3)], ids=str)
def test_energies_of_whole_numbers_are_exact(capability, widths):
    net, x = Net(widths, Activation("leaky_relu", (0.25,))), states(131, widths[0]).mul(2).round()
    for layer in net.layers[::2]:
        layer.weight.mul_(0.5 * layer.weight.shape[1] ** 0.5).round_()
        layer.bias.mul_(4).round_()
    net.last.mul_(2 * len(net.last) ** 0.5).round_()
    layers = [*net.layers, Linear(net.last[None], None)]
    expected = energy(Roundings(), layers, x.double(), Exact(), net.prior).detach()
    assert torch.equal(net_energies(net, x), expected) and expected.unique().numel() > 20


@pytest.mark.parametrize(("n_components", "d"), [(1, 1), (4, 2), (7, 3)])
def test_energies_of_mixtures(capability, n_components, d):
    """-log Σ_k e^(l_k), l_k = c_k - ½ Σ_i p_ki (x_i - μ_ki)², with the roundings of csrc/cpu/analytic_chain_impl.h."""
    p, x, r = mixture(n_components, d), states(300, d), Roundings()
    got = energies(functools.partial(analytic_chain.mixture_transitions_, p.constants, p.means, p.precisions), x)
    away = r.relative(x.double()[:, None, :].requires_grad_() - p.means.double())
    squares = r.relative(r.relative(away * p.precisions.double()) * away)
    square = r.rounded(squares.sum(2), U * squares.cumsum(2).abs().sum(2))
    value = -log_sum_exp(r, r.relative(p.constants.double() - 0.5 * square))
    expected = p.double()(x.double())
    torch.testing.assert_close(value.detach(), expected, rtol=1e-12, atol=1e-12)
    assert_within(got, expected, r.bound(value[:, None])[:, 0], tight=2e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", CASES)
def test_a_chain_that_is_not_finite_stays_and_disturbs_no_other(capability, name, kind):
    case, x = CASES[name](2), states(40, 2)
    expected, memory = run(case, x, arguments(kind))
    bad = x.clone()
    bad[5, 0], bad[6], bad[20, 1] = math.nan, math.inf, -math.inf
    got, after = run(case, bad, arguments(kind))
    others = torch.ones(40, dtype=torch.bool)
    others[[5, 6, 20]] = False
    assert torch.equal(got[others], expected[others])
    if kind == TransitionKind.underdamped:
        assert not got[~others].isfinite().all(1).any()
    else:
        assert same(got[~others], bad[~others])
        assert torch.equal(after.n_rejected[~others], memory_of(kind, x).n_rejected[~others] + 4)
        assert torch.equal(after.log_ratio[others], memory.log_ratio[others])


def test_memory_around_the_states_is_unchanged(capability):
    for kind, case in itertools.product(KINDS, (double_well(3), mlp(3))):
        whole = torch.full((60, 3), 99.0)
        x = whole[7:50]
        x.copy_(states(43, 3))
        memory, before = memory_of(kind, whole), x._version
        inner = memory[7:50] if isinstance(memory, torch.Tensor) else type(memory)(*(each[7:50] for each in memory))
        kept = copy_of(memory)
        case.run(x, inner, arguments(kind))
        assert (whole[:7] == 99).all() and (whole[50:] == 99).all() and x._version > before
        for outside in (slice(0, 7), slice(50, 60)):
            pairs = [(memory, kept)] if isinstance(memory, torch.Tensor) else zip(memory, kept, strict=True)
            assert all(same(after[outside], old[outside]) for after, old in pairs)


@pytest.mark.parametrize(
    ("kind", "step_size"), [(TransitionKind.mala, 0.9), (TransitionKind.hmc, 0.8)], ids=["mala", "hmc"]
)
def test_a_mixture_is_left_invariant(kind, step_size):
    """From exact samples of two unequal components: the first two moments of each half stay within 5 standard errors,
    those of 40,000 independent chains, at acceptances far from 1.
    """
    density = fl.energies.GaussianMixture([[-2.0, 0.0], [1.5, 1.0]], [[0.5, 1.0], [1.0, 0.3]], [0.3, 0.7])
    x0 = density.sample(40_000, torch.Generator().manual_seed(1))
    tensors = (density.constants, density.means, density.precisions)
    memory, x, n = memory_of(kind, x0), x0.clone(), 20
    memory.n_accepted.zero_()
    args = arguments(kind, step_sizes=[step_size] * n, steps=range(n), temperature=1.0, n_leapfrog=4)
    analytic_chain.mixture_transitions_(*tensors, x, memory, args)
    assert 0.3 < memory.n_accepted.double().mean() / n < 0.9 and (x != x0).any(1).double().mean() > 0.9
    means, root = density.mean.double(), math.sqrt(len(x))
    for got, exact in (
        (x.double(), means),
        ((x.double() - means).square(), density.covariance.double().diagonal()),
        ((x.double()[:, :1] < -0.5).double(), _mass_below(density, -0.5)),
    ):
        assert ((got.mean(0) - exact).abs() < 5 * got.std(0) / root).all()


def _mass_below(density, at):
    """P(x_1 < at)."""
    z = (at - density.means[:, 0].double()) * density.precisions[:, 0].double().sqrt()
    return (density.weights.double() * torch.special.ndtr(z)).sum()


def test_samplers_run_whole_chains(monkeypatch):
    """One call of an operator a call or a part of a trace, whose parts give the same bits."""
    calls, original = [], torch.ops.fastlangevin.mixture_transitions_cpu_.default
    monkeypatch.setattr(
        torch.ops.fastlangevin.mixture_transitions_cpu_,
        "default",
        lambda *rest: calls.append(rest) or original(*rest),
    )
    density, x0 = mixture(3, 2), states(50, 2)
    for sampler in (
        fl.MALA(density, step_size=0.3, n_steps=6, seed=1),
        fl.HMC(density, step_size=0.3, n_leapfrog=3, n_steps=6, seed=1, mass=torch.tensor([0.5, 2.0])),
        fl.Underdamped(density, step_size=0.3, n_steps=6, seed=1, mass=2.0),
    ):
        whole = sampler(x0, step=0)
        assert len(calls) == 1
        assert torch.equal(sampler.trace(x0, every=2, step=0).x[-1], whole) and len(calls) == 4
        split = [sampler(x0[a:b], step=0, chain_offset=a) for a, b in ((0, 20), (20, 50))]
        assert torch.equal(torch.cat(split), whole)
        calls.clear()


def test_operators_pass_opcheck():
    x, net = states(4, 3), Net((3, 5), SILU)
    p = mixture(2, 3)
    tail = (0, [0.1], [0.2], [], 1, 1.0, None, None, None, -math.inf, math.inf, 1, 2, 0, 0, 3, 0, True, True)
    of_tests = memory_of(TransitionKind.mala, x)
    of_tests = (of_tests.energy.fill_(1.0), of_tests.log_ratio.fill_(1.0), of_tests.n_accepted, of_tests.n_rejected)
    ops, check = torch.ops.fastlangevin, torch.library.opcheck
    check(ops.mixture_transitions_cpu_.default, (x, p.constants, p.means, p.precisions, *of_tests, None, *tail))
    tail = (2, [0.1], [0.2], [0.9], *tail[4:])
    check(ops.double_well_transitions_cpu_.default, (x, 2.0, 1.0, None, None, None, None, torch.zeros_like(x), *tail))
    weights = ([net.layers[0].weight], [net.layers[0].bias], [1], [0.0, 0.0], net.last, 0.0, False)
    check(ops.mlp_transitions_cpu_.default, (x, *weights, None, None, None, None, torch.zeros_like(x), *tail))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory": torch.zeros(4, 3)}, "memory must be given"),
        ({"x": states(4, 3).double()}, "x must be .* contiguous and float32"),
        ({"args": {"steps": [1]}}, "steps, step_sizes and noise_stds must have the same length"),
        ({"args": {"n_leapfrog": 0}}, "n_leapfrog must be positive"),
        ({"args": {"momentum": Momentum(*[torch.ones(5)] * 3)}}, "masses must repeat over the elements"),
        ({"args": {"momentum": Momentum(*[torch.ones(3).double()] * 3)}}, "masses must be contiguous"),
        ({"memory": memory_of(TransitionKind.hmc, states(5, 3))}, "energies must be contiguous.* of 4 elements"),
    ],
)
def test_what_is_refused(change, words):
    args = arguments(TransitionKind.hmc, **change.get("args", {}))
    x = change.get("x", states(4, 3))
    with pytest.raises((RuntimeError, ValueError), match=words):
        double_well(3).run(x, change.get("memory", memory_of(TransitionKind.hmc, x)), args)
