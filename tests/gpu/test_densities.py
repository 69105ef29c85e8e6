"""On a GPU: whole chains of closed-form energies in one launch, against float64 and the CPU's bits."""

from __future__ import annotations

import pytest
import torch
from support.analytic_scores import ENERGIES, bounded, states
from support.chain_reference import OPTIONS
from support.error_bounds import assert_within

import fastlangevin as fl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

MIXTURES = [name for name in ENERGIES if "mixture" in name]


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("options", ["plain", "clip and bounds", "noise first, clamped", "seed and step", "offset"])
def test_mixtures_against_float64(name, options):
    from fastlangevin.kernels.triton import analytic_chain

    assert options in OPTIONS
    energy, x, tail, expected = bounded(name, options, 300, in_triton=True)
    got = x.cuda()
    tensors = (energy.constants, energy.means, energy.precisions)
    analytic_chain.mixture_(*(t.cuda() for t in tensors), got, tail)
    assert_within(got.cpu(), *expected, tight=3e-5)


@pytest.mark.parametrize("graph", [False, "auto"])
@pytest.mark.parametrize("options", [{}, {"bounds": (-0.9, 1.1), "grad_clip": 0.5}, {"noise_first": True}], ids=str)
def test_double_wells_have_the_bits_of_the_cpu_s(graph, options):
    """Of calls as a user makes them, one after another."""
    given = {"n_steps": 20, "step_size": 0.01, "noise_std": 0.1, "seed": 3, **options}
    on_cpu = fl.Langevin(fl.energies.DoubleWell(3), **given)
    on_gpu = fl.Langevin(fl.energies.DoubleWell(3).cuda(), graph=graph, **given)
    assert on_cpu.plan.engine == on_gpu.plan.engine == "analytic"
    for _ in range(2):
        x0 = states(1001, 3)
        assert torch.equal(on_gpu(x0.cuda(), chain_offset=1).cpu(), on_cpu(x0, chain_offset=1))
    on_gpu.check()


@pytest.mark.parametrize("name", MIXTURES)
def test_batches_do_not_matter(name):
    energy, d = ENERGIES[name]()
    sampler = fl.Langevin(energy.cuda(), step_size=0.01, noise_std=0.1, seed=3)
    x0 = states(1001, d).cuda()
    parts = [sampler(x0[a:b], step=0, chain_offset=a) for a, b in ((0, 1), (1, 300), (300, 1001))]
    assert torch.equal(torch.cat(parts), sampler(x0, step=0))
