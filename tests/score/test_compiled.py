"""engine="compiled": the autograd score, traced and compiled."""

from __future__ import annotations

import pytest
import torch
from support.langevin_reference import FLOAT64

import fastlangevin as fl

pytestmark = pytest.mark.compiled


def test_compiled_score_is_the_autograd_score():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    for kind, n_args in (("energy", 0), ("log_density", 1)):
        function = net if not n_args else lambda x, shift: net(x - shift)
        args = (torch.arange(3.0),)[:n_args]
        plain, compiled = (fl.Langevin(**{kind: function}, n_steps=4, seed=1, engine=e) for e in ("auto", "compiled"))
        assert compiled.plan.engine == "compiled"
        for _ in range(2):
            torch.testing.assert_close(compiled(x, *args), plain(x, *args), **FLOAT64)
            with torch.no_grad():
                net[0].weight.mul_(1.1)  # weights are read at each call
        for a, b in zip(compiled.trace(x, *args), plain.trace(x, *args), strict=True):
            torch.testing.assert_close(a, b, **FLOAT64)
        leaf = x.clone().requires_grad_()
        a, b = (torch.autograd.grad(s(leaf, *args, step=0).sum(), leaf)[0] for s in (compiled, plain))
        torch.testing.assert_close(a, b, **FLOAT64)
        assert not torch.allclose(a, torch.ones_like(a), atol=0.01)


def test_compiled_engine_needs_an_energy_that_can_be_traced():
    with pytest.raises(ValueError, match="engine='compiled' differentiates an energy or log_density"):
        fl.Langevin(score=lambda x: -x, engine="compiled", seed=1)

    def energy(x):
        print("not traceable")
        torch._dynamo.graph_break()
        return x.sum(1)

    with pytest.raises(ValueError, match="engine='compiled' cannot compile this energy: "):
        fl.Langevin(energy, n_steps=1, engine="compiled", seed=1)(torch.zeros(2, 3))
