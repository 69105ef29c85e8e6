"""The rebuilt energies of public codes, and their chains by the contenders."""

from __future__ import annotations

import dataclasses
import functools

import checks
import comparison
import pytest
import torch
import works
from contenders import BASELINE, CONTENDERS, NETWORK_CONTENDERS, Contender, compiled, eager
from public_networks import PUBLIC_ENERGIES, spectral
from torch import nn

CHECKED = [name for name in NETWORK_CONTENDERS if "compile" not in name and name != BASELINE]


@functools.cache
def small(name):
    """Two steps of four chains."""
    work = works.network(name, "cpu")
    return dataclasses.replace(work, x0=work.x0[:4], args=tuple(a[:4] for a in work.args), n_steps=2)


@pytest.mark.parametrize("name", PUBLIC_ENERGIES)
def test_energies_are_seeded(name):
    first, second = PUBLIC_ENERGIES[name](), PUBLIC_ENERGIES[name]()
    assert first.name == name and first.options == second.options
    tensors = [(e.x0, *e.args, *e.module.state_dict().values()) for e in (first, second)]
    for a, b in zip(*tensors, strict=True):
        assert torch.equal(a, b)
    y = small(name).module(small(name).x0, *small(name).args)
    assert y.shape == small(name).x0.shape if first.kind == "score" else y.numel() == 4


@pytest.mark.parametrize("contender", CHECKED)
@pytest.mark.parametrize("name", PUBLIC_ENERGIES)
def test_contenders_take_the_steps(name, contender):
    """Those of full precision in float64, where no chain is within rounding of a kink: results differ by some 1e-13 of
    the way, a wrong step by much more.
    """
    work, contender = small(name), NETWORK_CONTENDERS[contender]
    if contender.supports(work):
        pytest.skip(contender.supports(work))
    wide, own = work.in_float64(), work.in_float64()  # hooks change their networks
    exact = eager.make(wide)(wide.x0, 2, 0.0)
    if contender.precision == "fp32":
        got = contender.make(own)(own.x0, 2, 0.0)
        assert got.dtype == torch.float64
        assert (got - exact).norm() <= 1e-10 * (exact - wide.x0).norm()
    else:
        got = contender.make(work.with_own_network())(work.x0, 2, 0.0)
        assert checks.without_noise(got, exact, work.x0, contender.precision) is None


@pytest.mark.parametrize("norm", spectral.NORMS)
def test_spectral_norms_divide_by_the_largest_singular_value(norm):
    """Exactly: the singular values 4 and 1 are so far apart that the vectors become those of the axes."""
    layer = nn.Linear(2, 2, bias=False).double()
    layer.weight.data = torch.tensor([[4.0, 0.0], [0.0, 1.0]]).double()
    layer, x = spectral.NORMS[norm](layer), torch.eye(2).double()
    for _ in range(300):
        layer(x)
    assert torch.equal(layer(x), torch.tensor([[1.0, 0.0], [0.0, 0.25]]).double())


@pytest.mark.parametrize("noise_first", [False, True, "clamp"])
def test_the_options_of_the_update(noise_first):
    """The plain loop against its formula, and the contenders against the plain loop."""
    options = {"grad_clip": 1.0, "bounds": (-2.0, 2.0), "noise_first": noise_first}
    x, z = torch.tensor([-2.0, 0.5, 1.9]), torch.manual_seed(4) and torch.randn(3)
    torch.manual_seed(4)
    got = eager.chain(lambda x: -3 * x, x, 1, step_size=0.5, noise_std=2.0, **options)
    at = x + 2 * z if noise_first else x
    at = at.clamp(-2, 2) if noise_first == "clamp" else at
    moved = at + 0.5 * (-3 * at).clamp(-1, 1)
    assert torch.equal(got, (moved if noise_first else moved + 2 * z).clamp(-2, 2))
    work = dataclasses.replace(works.double_well("cpu"), n_steps=20, step_size=0.05, noise_std=0.3, options=options)
    assert checks.disagreement(work, CONTENDERS["fastlangevin"].make(work), checks.Expected.of(work)) is None


@pytest.mark.compiled
def test_compiled_steps_have_the_options_of_the_update():
    options = {"grad_clip": 1.0, "bounds": (-2.0, 2.0), "noise_first": "clamp"}
    work = dataclasses.replace(works.double_well("cpu"), n_steps=20, step_size=0.05, noise_std=0.3, options=options)
    assert checks.disagreement(work, compiled.make(work), checks.Expected.of(work)) is None


def test_what_torch_compile_is_not_asked_to_compile():
    whole, alone = NETWORK_CONTENDERS["torch.compile"], NETWORK_CONTENDERS["torch.compile of the network"]
    for contender in (whole, alone):
        assert "Python counter" in contender.supports(small("formula-1"))
    for name in ("igebm-hook", "igebm-handmade"):
        assert "hooks" in whole.supports(small(name)) and alone.supports(small(name)) is None
    assert whole.supports(small("igebm-parametrization")) is None and "whole step" in alone.supports(small("jem"))


def test_contenders_do_not_share_a_network():
    """A contender that changes its network's state does not change another's."""

    class Breaking:
        MISSING = None
        supports = staticmethod(lambda work: None)

        @staticmethod
        def make(work):
            work.module.evaluations = -1
            return eager.make(work)

    work = small("formula-20")
    before = work.module.evaluations
    calls, rows = comparison.admit(work, {"breaking": Contender(Breaking), BASELINE: CONTENDERS[BASELINE]})
    assert set(calls) == {"breaking", BASELINE} and not rows and work.module.evaluations == before
