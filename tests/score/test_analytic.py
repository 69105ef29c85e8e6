"""engine="analytic": whole chains in one call, beside the step-by-step ones in float64, to a bound of roundings."""

from __future__ import annotations

import functools

import pytest
import torch
from support.analytic_scores import double_well_score, mixture_score
from support.whole_chains import OPTIONS, assert_chains_are, beside_float64, plain, states
from torch import nn

import fastlangevin as fl
from fastlangevin.kernels import native


@pytest.fixture(autouse=True)
def native_kernels():
    why = native.load_cpu()
    if why is not None:
        pytest.skip(why)


MIXTURE = fl.energies.GaussianMixture([[0.0, 1.0, 0.5], [1.0, -1.0, 2.0], [-2.0, 0.0, 0.0]], [0.5, 1.0, 2.0], [1, 2, 3])
WELL = fl.energies.DoubleWell(3, barrier=1.5, width=1.2)
SCORES = {fl.energies.GaussianMixture: mixture_score, fl.energies.DoubleWell: double_well_score}


@pytest.mark.parametrize("energy", [MIXTURE, WELL], ids=["mixture", "double well"])
@pytest.mark.parametrize("options", OPTIONS)
def test_analytic_chains(energy, options):
    whole, steps = beside_float64(plain, energy, "energy", **{"step_size": 0.05, "noise_std": 0.01, **OPTIONS[options]})
    assert whole.plan.engine == "analytic"
    x0 = states(inputs=3)
    assert_chains_are(functools.partial(SCORES[type(energy)], energy), whole, steps, x0, 2)
    assert torch.equal(whole.energy(x0), energy(x0))


def test_unsupported_targets():
    class Own(fl.energies.DoubleWell):
        pass

    hooked = fl.energies.DoubleWell(3)
    hooked.register_forward_hook(lambda *_: None)
    replaced = fl.energies.DoubleWell(3)
    replaced.forward = lambda x: x.square().sum(1)
    for options, words in (
        ({"energy": replaced}, "user-defined forward"),
        ({"energy": Own(3)}, "GaussianMixture and DoubleWell"),
        ({"log_density": fl.energies.DoubleWell(3)}, "given as energy"),
        ({"energy": hooked}, "hooks"),
        ({"energy": fl.energies.DoubleWell(3), "precision": "bf16"}, "fp32 on the CPU"),
        ({"energy": fl.energies.DoubleWell(3).double()}, "float32"),
    ):
        with pytest.raises(fl.BackendUnavailable, match=f"engine='analytic' cannot be used for this .*{words}"):
            fl.Langevin(**options, engine="analytic", seed=1)(states(inputs=3))
        assert fl.Langevin(**options, seed=1).plan.engine == "autograd"
    with pytest.raises(ValueError, match="x must be"):
        fl.Langevin(WELL, seed=1)(states(inputs=4))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert fl.Langevin(WELL, seed=1).plan.engine == "autograd"
    finally:
        handle.remove()
