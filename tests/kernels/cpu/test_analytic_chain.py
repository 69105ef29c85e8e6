"""Whole chains of closed-form energies in one call, against float64 step by step, and bits that do not depend on the
threads, the batch or the rest of a block.
"""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from support.analytic_scores import ENERGIES, bounded, mixture, mixture_score, run, states
from support.chain_reference import OPTIONS, arguments, chain
from support.error_bounds import U, assert_within

import fastlangevin as fl
from fastlangevin.kernels.cpu import analytic_chain


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ENERGIES)
def test_against_float64(capability, name, options):
    """A double well's cubic force takes some chains far out, where roundings are larger, and their sum's bound with
    them.
    """
    energy, x, tail, expected = bounded(name, options, 300)
    assert_within(run(analytic_chain, energy, x, tail), *expected, tight=3e-5)


@pytest.mark.parametrize("name", ENERGIES)
def test_neither_threads_nor_batches_matter(capability, threads, name):
    energy, d = ENERGIES[name]()
    x = states(1001, d)
    whole = run(analytic_chain, energy, x, arguments(offset=0))
    threads(3)
    assert torch.equal(run(analytic_chain, energy, x, arguments(offset=0)), whole)
    threads(1)
    cuts = (0, 1, 3, 300, 701, 1001)
    parts = [run(analytic_chain, energy, x[a:b], arguments(offset=a * d)) for a, b in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(parts), whole)


def test_far_from_every_component(capability):
    """If every component's density underflows, the nearest one still attracts. States that are not finite stay so."""
    energy = fl.energies.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], 0.01)
    x = torch.tensor([[30.0, 0.0], [-30.0, 0.0], [math.nan, 0.0], [math.inf, 0.0], [0.5, 0.0]])
    tail = arguments(step_sizes=[0.005], noise_stds=[0.0], steps=[0])
    got = run(analytic_chain, energy, x, tail)
    finite = torch.tensor([0, 1, 4])
    expected = chain(functools.partial(mixture_score, energy), x[finite], tail)
    assert_within(got[finite], *expected, tight=1e-5)
    moved = torch.tensor([-14.5, 14.5, 0.25], dtype=torch.float64)  # by 1 / 0.01, which is rounded twice
    assert_within(expected[0][:, 0] - x[finite, 0], moved, 2 * U * moved.abs(), tight=1e-6)
    assert not torch.isfinite(got[2:4, 0]).any()


def test_memory_around_the_state_is_unchanged(capability):
    for energy in (mixture(2, 3), fl.energies.DoubleWell(3)):
        whole = torch.full((60, 3), 99.0)
        x = whole[7:50]
        x.fill_(0.1)
        before = x._version
        if isinstance(energy, fl.energies.DoubleWell):
            analytic_chain.double_well_(2.0, 1.0, x, arguments())
        else:
            analytic_chain.mixture_(energy.constants, energy.means, energy.precisions, x, arguments())
        assert (whole[:7] == 99).all() and (whole[50:] == 99).all() and (x != 0.1).all()
        assert x._version > before


def test_mismatched_arguments():
    energy = mixture(2, 3)
    with pytest.raises(RuntimeError, match=r"means and precisions must be \(components, dimension\)"):
        run(analytic_chain, energy, states(4, 2), arguments())
    with pytest.raises(ValueError, match="contiguous and float32"):
        run(analytic_chain, energy, states(4, 3).double(), arguments())


def test_operators_pass_opcheck():
    energy = mixture(2, 3)
    step_sizes, noise_stds, has_noise, seed, steps, offset, *limits = arguments()
    numbers = (step_sizes, noise_stds, has_noise, seed, steps[0], offset, *limits[:-1], 0)
    ops = torch.ops.fastlangevin
    tensors = (energy.constants, energy.means, energy.precisions)
    torch.library.opcheck(ops.mixture_chain_cpu_.default, (states(4, 3), *tensors, *numbers))
    torch.library.opcheck(ops.double_well_chain_cpu_.default, (states(4, 3), 2.0, 1.0, *numbers))
