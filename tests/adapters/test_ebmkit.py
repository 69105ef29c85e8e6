"""`fl.adapters.ebmkit` against the installed ebmkit: its updates with our noise, and its protocol."""

from __future__ import annotations

import copy
import inspect
import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import fastlangevin as fl
from fastlangevin.distributed import shards

ebm = pytest.importorskip("ebm", reason="ebmkit, of the extra ebmkit, is not installed")
ours = fl.adapters.ebmkit

ARGUMENTS = {"PreconditionedLangevin": (torch.ones(2),), "AnnealedLangevinDynamics": (torch.tensor([2.0, 1.0, 0.5]),)}


class Energy(nn.Module):
    """U = k·|x|² / 2 in float64; of a noise level, / σ² more."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        scale = 1.0 if sigma is None else sigma.to(x.dtype).square()
        return 0.5 * self.k * x.square().flatten(1).sum(1) / scale


def start(n: int = 6) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def noise(k: int, x: Tensor) -> Tensor:
    return fl.noise.normal(x.shape, seed=7, step=k).double()


def test_langevin_is_the_update():
    """Float64 states to the rounding of some operations a step."""
    x0, expected = start(), [start()]
    for k in range(5):
        x = expected[-1]
        expected.append((x - 0.2 * (1.5 * x).clamp(-0.8, 0.8) + 0.3 * noise(k, x)).clamp(-1.5, 1.4))
    sampler = ours.LangevinDynamics(0.2, 3, 0.3, 0.8, (-1.5, 1.4), seed=7)
    states = sampler.sample(Energy(), x0, steps=3, return_trajectory=True)
    assert states.shape == (4, 6, 2) and (states - torch.stack(expected[:4])).abs().max() < 1e-13
    x = sampler.sample(Energy(), states[-1], steps=2)  # the noise of a seed goes on, with any energy
    assert (x - expected[5]).abs().max() < 1e-13
    assert torch.equal(x0, start()) and not x.requires_grad

    sampler.step_size, sampler.noise_scale, sampler.grad_clip, sampler.clamp = 0.1, None, None, None
    z = noise(5, x)
    assert (sampler.sample(Energy(), x, steps=1) - (0.85 * x + math.sqrt(0.2) * z)).abs().max() < 1e-13


def test_preconditioned_langevin_is_the_update():
    m, x = torch.tensor([1.0, 4.0]), start()
    found = ours.PreconditionedLangevin(m, 0.1, 3, seed=7).sample(Energy(), x)
    for k in range(3):
        x = x - 0.1 * m.double() * 1.5 * x + (2 * 0.1 * m.double()).sqrt() * noise(k, x)
    assert (found - x).abs().max() < 1e-12


def test_annealed_langevin_is_the_update():
    sigmas, x = torch.tensor([2.0, 1.0, 0.5]), start()
    found = ours.AnnealedLangevinDynamics(sigmas, 0.01, 2, seed=7).sample(Energy(), x, return_trajectory=True)
    assert found.shape == (7, 6, 2)
    for k in range(6):
        sigma = float(sigmas[k // 2])
        alpha = 0.01 * sigma**2 / 0.25
        x = x - alpha / 2 * 1.5 * x / sigma**2 + math.sqrt(alpha) * noise(k, x)
    assert (found[-1] - x).abs().max() < 1e-12


@pytest.mark.parametrize("made", [lambda c: c(0.3, 40), lambda c: c(0.5, 3, 40)], ids=["MALA", "HMC"])
def test_a_metropolis_test_is_exact_and_its_acceptance_that_of_the_last_transition(made, request):
    """Variances at p = 1e-4, of 4,000 independent chains."""
    name = request.node.callspec.id
    sampler, theirs = made(getattr(ours, name)), made(getattr(ebm, name))
    assert sampler.last_accept_rate is None
    torch.manual_seed(0)
    x0 = torch.randn(4000, 2, dtype=torch.float64)
    x = sampler.sample(Energy(), x0)
    assert ((x.var(0) * 1.5 - 1).abs() < 4 * math.sqrt(2 / 4000)).all()
    theirs.sample(Energy(), x0)
    # The acceptance of 4,000 chains has a standard error of less than 0.5 / sqrt(4000) = 0.008.
    assert abs(sampler.last_accept_rate - theirs.last_accept_rate) < 4 * 2**0.5 * 0.008
    states = sampler.sample(Energy(), x, steps=3, return_trajectory=True)
    moved = (states[-1] != states[-2]).any(1).double().mean()
    assert states.shape == (4, 4000, 2) and abs(sampler.last_accept_rate - moved) < 1e-6

    # The same bits for one step after the other, with another step size for some.
    first, second = (made(lambda *a: getattr(ours, name)(*a, seed=7)) for _ in range(2))
    energy, y = Energy(), x0[:50]
    first.step_size = second.step_size = 0.2
    for _ in range(3):
        y = first.sample(energy, y, steps=1)
    assert torch.equal(y, second.sample(energy, x0[:50], steps=3))


@pytest.mark.parametrize("name", ours.__all__)
def test_the_protocol_is_ebmkit_s(name):
    mine, theirs = getattr(ours, name), getattr(ebm, name)
    assert issubclass(mine, theirs) and issubclass(mine, ebm.Sampler)
    given, wanted = (list(inspect.signature(c).parameters.values()) for c in (mine, theirs))
    assert [(p.name, p.default) for p in given[: len(wanted)]] == [(p.name, p.default) for p in wanted]
    assert all(p.kind is p.KEYWORD_ONLY for p in given[len(wanted) :])
    given, wanted = (list(inspect.signature(c.sample).parameters.values()) for c in (mine, theirs))
    assert [(p.name, p.default, p.kind) for p in given] == [(p.name, p.default, p.kind) for p in wanted]

    pair, x0 = [c(*ARGUMENTS.get(name, ())) for c in (mine, theirs)], start()
    for call in (
        {"steps": 2},
        {"steps": 0},
        {"steps": 2, "return_trajectory": True},
        {"steps": 0, "return_trajectory": True},
    ):
        a, b = (sampler.sample(Energy(), x0, **call) for sampler in pair)
        assert (a.shape, a.dtype, a.requires_grad) == (b.shape, b.dtype, b.requires_grad)
        assert a.data_ptr() != x0.data_ptr()
    energy = Energy()
    torch.manual_seed(3)
    a = pair[0].sample(energy, x0, steps=3)
    torch.manual_seed(3)
    b, c = (pair[0].sample(energy, x0, steps=3) for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(a, c) and energy.k.requires_grad
    assert pair[0].step(energy, x0).shape == x0.shape
    copied = copy.deepcopy(pair[0])
    torch.manual_seed(3)
    assert torch.equal(copied.sample(energy, x0, steps=3), a)
    with pytest.raises(ValueError, match="steps must be"):
        pair[0].sample(energy, x0, steps=-1)


def test_it_serves_ebmkit_s_losses_tempering_and_weights():
    torch.manual_seed(0)
    energy = Energy()
    loss = ebm.ContrastiveDivergence(ours.LangevinDynamics(0.1, 5), buffer=ebm.ReplayBuffer(64, (2,)))
    out = loss(energy, torch.randn(16, 2, dtype=torch.float64))
    out.loss.backward()
    assert energy.k.grad.isfinite() and energy.k.grad != 0
    tempered = ebm.ParallelTempering(ours.MALA(0.3), temperatures=(1.0, 2.0), steps=5)
    assert tempered.sample(energy, start()).shape == (6, 2) and tempered.swap_rates()[0] > 0
    hmc = ours.HMC(0.5, 3, 1)
    found = ebm.ais_log_z(Energy().float(), (2,), n_temps=20, n_chains=500, sampler=hmc)
    assert abs(found.log_z - math.log(2 * math.pi / 1.5)) < 4 * found.stderr < 0.1
    assert hmc.step_size == 0.5  # which it changes meanwhile, and restores


def test_an_energy_is_recognised_when_it_comes_again_or_its_chain_is_long():
    sampler, energy = ours.LangevinDynamics(0.1, 5), ebm.nets.MLPEnergy(dim=2, hidden=(8,))
    assert sampler.sampler is None
    engines = []
    for steps in (5, 5):
        sampler.sample(energy, torch.zeros(3, 2), steps=steps)
        engines.append(sampler.sampler.plan.engine)
    long = ours.LangevinDynamics(0.1, 50)
    long.sample(energy, torch.zeros(3, 2))
    assert engines == ["autograd", "mlp"] and long.sampler.plan.engine == "mlp"
    fixed = ours.MALA(0.1, engine="autograd", backend="reference")
    fixed.sample(energy, torch.zeros(3, 2))
    assert (fixed.sampler.plan.engine, fixed.sampler.plan.backend) == ("autograd", "reference")


def test_what_does_not_work_is_an_error_that_names_the_argument():
    with pytest.raises(ValueError, match="step_size must be finite"):
        ours.LangevinDynamics(-1.0).sample(Energy(), start())
    with pytest.raises(ValueError, match="bounds"):
        ours.LangevinDynamics(0.1, clamp=(1.0, -1.0)).sample(Energy(), start())
    with pytest.raises(fl.ChainDiverged):
        ours.LangevinDynamics(1e200).sample(Energy(), start(), steps=5)


def test_ranks_are_warned_of_equal_noise_where_they_share_a_seed(monkeypatch):
    monkeypatch.setattr(shards, "_has_warned", False)
    monkeypatch.setattr(shards, "is_initialized", lambda: True)
    monkeypatch.setattr(shards.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(shards.dist, "get_world_size", lambda: 2)
    sampler = ours.MALA(0.1, seed=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.sample(Energy(), start(), steps=2)
    sampler = ours.MALA(0.1, seed=3)
    with pytest.warns(UserWarning, match="chain_offset was not given on rank 1 of 2"):
        sampler.sample(Energy(), start(), steps=2)
