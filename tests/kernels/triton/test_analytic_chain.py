"""Whole chains of closed-form energies in Triton: in its interpreter against the CPU's kernels and float64, and
compiled ahead of time for several GPUs.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math

import pytest
import torch
from support.analytic_scores import ENERGIES, bounded, mixture, run, states, triton_mixture_score
from support.chain_reference import OPTIONS, arguments, chain
from support.error_bounds import assert_within
from support.instructions import count

import fastlangevin as fl
from fastlangevin.kernels import native
from fastlangevin.kernels import triton as backend
from fastlangevin.kernels.cpu import analytic_chain as cpu

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

N = 33  # chains: two programs of a double well in 5-d, and of a mixture in 3-d


@pytest.fixture
def kernels():
    if backend.unsupported() or backend.DEVICE != "cpu":
        pytest.skip("needs the interpreter")
    from fastlangevin.kernels.triton import analytic_chain

    return analytic_chain


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_double_wells_have_the_bits_of_the_cpu_s(kernels, options):
    why = native.load_cpu()
    if why:
        pytest.skip(why)
    energy, x = fl.energies.DoubleWell(5, 0.3, 1.3), states(N, 5)
    args = arguments(**{"step_sizes": [0.05] * 4, **OPTIONS[options]})
    assert torch.equal(run(kernels, energy, x, args), run(cpu, energy, x, args))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixture of 1 in 1-d", "plain"),
        *(("mixture of 4 in 2-d", options) for options in ("clip and bounds", "offset")),
        *(("mixture of 7 in 3-d", options) for options in OPTIONS),
    ],
)
def test_mixtures_against_float64(kernels, name, options):
    energy, x, tail, expected = bounded(name, options, N, in_triton=True)
    assert_within(run(kernels, energy, x, tail), *expected, tight=3e-5)


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 9, 127])
def test_without_a_force_the_noise_has_the_contract_s_bits(kernels, dimension):
    """Of every element, wherever a group of four begins; what surrounds the states stays as it was."""
    n = kernels.mixture_constants(dimension, 0)["BLOCK"] + 1
    for offset in (0, 2**34 - 5):
        whole = torch.full((n + 5, dimension), 99.0)
        x = whole[3:-2]
        x.copy_(states(n, dimension))
        expected = x.clone()
        for step in (7, 8):
            numbers = {"seed": -3, "step": step, "offset": offset}
            fl.langevin_update_(expected, torch.zeros_like(x), 0.0, 0.3, **numbers, backend="reference")
        numbers = {"seed": -3, "steps": (7, 8), "offset": offset}
        args = arguments(step_sizes=[0.0] * 2, noise_stds=[0.3] * 2, **numbers)
        version = x._version
        energy = mixture(3, dimension)
        kernels.mixture_(energy.constants, energy.means, energy.precisions, x, args)
        assert torch.equal(x, expected) and x._version > version
        assert (whole[:3] == 99).all() and (whole[-2:] == 99).all()


@pytest.mark.parametrize("name", ["mixture of 7 in 3-d", "double well in 5-d"])
def test_batches_do_not_matter(kernels, name):
    energy, d = ENERGIES[name]()
    x = states(N, d)
    parts = [
        run(kernels, energy, x[a:b], arguments(step_sizes=[0.05] * 4, offset=a * d))
        for a, b in itertools.pairwise((0, 3, 30, N))
    ]
    assert torch.equal(torch.cat(parts), run(kernels, energy, x, arguments(step_sizes=[0.05] * 4, offset=0)))


def test_numbers_on_the_device_equal_python_numbers(kernels):
    args = arguments(step_sizes=[0.05, 0.01, 0.02, 0.03], seed=-3)
    on_device = args._replace(
        step_sizes=torch.tensor(args.step_sizes, dtype=torch.float64).unbind(),
        noise_stds=torch.tensor(args.noise_stds, dtype=torch.float64).unbind(),
        seed=torch.tensor(args.seed),
        steps=torch.tensor(args.steps).unbind(),
    )
    for name in ("mixture of 4 in 2-d", "double well in 2-d"):
        energy, d = ENERGIES[name]()
        assert torch.equal(run(kernels, energy, states(9, d), on_device), run(kernels, energy, states(9, d), args))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_far_from_every_component(kernels):
    """If every component's density underflows, the nearest one still attracts. States that are not finite stay so."""
    energy = fl.energies.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], 0.01)
    x = torch.tensor([[30.0, 0.0], [-30.0, 0.0], [math.nan, 0.0], [math.inf, 0.0], [0.5, 0.0]])
    tail = arguments(step_sizes=[0.005], noise_stds=[0.0], steps=[0])
    got, finite = run(kernels, energy, x, tail), torch.tensor([0, 1, 4])
    expected = chain(functools.partial(triton_mixture_score, energy), x[finite], tail)
    assert_within(got[finite], *expected, tight=1e-5)
    assert not torch.isfinite(got[2:4, 0]).any()


def test_unsupported(kernels):
    assert kernels.unsupported(kernels.MOST_DIMENSIONS) is None
    assert kernels.unsupported(129) == "the mixture has 129 dimensions, more than 128"


@pytest.mark.any_processor
@pytest.mark.ahead_of_time
def test_compiled(compiled):
    """Nothing is spilled, and of few dimensions all that a chain needs is in one thread."""
    chains = {key: record for key, record in compiled.items() if key[0].startswith("analytic")}
    names = {"analytic-double-well", "analytic-mixture-2", "analytic-mixture-128"}
    assert names <= {kernel for kernel, _ in chains}
    for (kernel, architecture), record in chains.items():
        assert record["local"] == 0, (kernel, architecture)
        assert record["shared"] <= 1024, (kernel, architecture)
        if kernel in ("analytic-double-well", "analytic-mixture-2", "analytic-mixture-4"):
            assert record["registers"] <= 128, (kernel, architecture)
            assert count(record, "BAR") + count(record, "LDS") == 0, (kernel, architecture)
