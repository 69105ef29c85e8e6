"""`fl.adapters.torchebm` against the installed torchebm: its updates with our noise, its results, its schedulers."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn

import fastlangevin as fl
from fastlangevin.distributed import shards

core = pytest.importorskip("torchebm.core", reason="torchebm, of the extra torchebm, is not installed")
from torchebm import integrators, samplers  # noqa: E402
from torchebm.models.wrappers import InteractionModel  # noqa: E402

LangevinDynamics, HamiltonianMonteCarlo = (
    fl.adapters.torchebm.LangevinDynamics,
    fl.adapters.torchebm.HamiltonianMonteCarlo,
)


class Quadratic(core.BaseModel):
    """U = k·|x - shift|² / 2 with a shift of the class, in float64."""

    def __init__(self, **options) -> None:
        super().__init__(dtype=torch.float64, **options)
        self.k = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        shift = 0.0 if y is None else y[:, None].to(x.dtype)
        return 0.5 * self.k * (x - shift).square().flatten(1).sum(1)


class OwnGradient(Quadratic):
    """A gradient that is not that of the energy, and a count of its calls."""

    n_calls = 0

    def gradient(self, x: Tensor, model_kwargs: dict | None = None) -> Tensor:
        self.n_calls += 1
        return 0.5 * x


def start(n: int = 6, *event: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, *(event or (3,)), generator=generator, dtype=torch.float64)


def langevin(gradient, x: Tensor, sizes: list[float], scales: list[float], seed: int = 7, clamp=None, step: int = 0):
    """torchebm's loop with our noise: the states after each step, (B, T, *event)."""
    states = []
    for k, (size, scale) in enumerate(zip(sizes, scales, strict=True)):
        z = fl.noise.normal(x.shape, seed=seed, step=step + k).double()
        x = x - size * gradient(x) + scale * math.sqrt(2 * size) * z
        x = x if clamp is None else x.clamp(*clamp)
        states.append(x)
    return torch.stack(states, 1)


def test_langevin_is_the_update_with_schedules_clamp_and_labels():
    """Float64 states to the rounding of some operations a step."""
    model, n = Quadratic(), 9
    sizes = core.LinearScheduler(start_value=0.2, end_value=0.05, n_steps=6)
    scales = core.ExponentialDecayScheduler(start_value=1.0, decay_rate=0.8)
    sampler = LangevinDynamics(model, sizes, scales, clamp=(-1.0, 1.2), seed=7)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    expected_sizes = [0.2 - 0.15 * min(k, 6) / 6 for k in range(n)]
    expected_scales = [0.8**k for k in range(n)]
    expected = langevin(lambda x: 1.5 * (x - y[:, None]), start(), expected_sizes, expected_scales, clamp=(-1.0, 1.2))
    x0 = start()
    x, found = sampler.sample(x0, n_steps=n, thin=2, return_trajectory=True, return_diagnostics=True, y=y)
    assert torch.equal(x0, start()) and not x.requires_grad
    assert x.shape == (6, 4, 3) and (x - expected[:, 1::2]).abs().max() < 1e-13
    assert (found["mean"] - expected[:, 1::2].mean(0)).abs().max() < 1e-13
    assert (found["var"] - expected[:, 1::2].var(0, unbiased=False)).abs().max() < 1e-13
    energies = torch.stack([model(state, y).mean() for state in expected[:, 1::2].unbind(1)])
    assert (found["energy"] - energies).abs().max() < 1e-12
    assert sizes.step_count == scales.step_count == n

    # The noise of a seed goes on, and schedules too where they are not reset.
    expected = langevin(lambda x: 1.5 * x, start(), [0.05] * 2, [0.8**k for k in (9, 10)], clamp=(-1.0, 1.2), step=n)
    x = sampler.sample(start(), n_steps=2, reset_schedulers=False)
    assert (x - expected[:, -1]).abs().max() < 1e-13 and sizes.step_count == n + 2
    sampler.sample(start(), n_steps=3)
    assert sizes.step_count == 3


def test_results_are_of_the_form_of_torchebm_s():
    for ours, theirs in (
        (LangevinDynamics, samplers.LangevinDynamics),
        (HamiltonianMonteCarlo, samplers.HamiltonianMonteCarlo),
    ):
        assert issubclass(ours, theirs) and issubclass(ours, core.BaseSampler)
        given, wanted = (list(inspect.signature(c.sample).parameters.values()) for c in (ours, theirs))
        assert [(p.name, p.default, p.kind) for p in given] == [(p.name, p.default, p.kind) for p in wanted]
        given, wanted = (list(inspect.signature(c).parameters.values()) for c in (ours, theirs))
        assert [(p.name, p.default, p.kind) for p in given[: len(wanted)]] == [
            (p.name, p.default, p.kind) for p in wanted
        ]
        assert all(p.kind is p.KEYWORD_ONLY for p in given[len(wanted) :])
        model = core.GaussianModel(torch.zeros(2), torch.eye(2))
        pair = [c(model, step_size=0.1) for c in (ours, theirs)]
        assert repr(pair[0]) == repr(pair[1])
        for call in (
            {"dim": 2, "n_samples": 5, "n_steps": 7},
            {"dim": 2, "n_steps": 7, "thin": 3, "return_trajectory": True, "return_diagnostics": True},
            {"x": torch.ones(4, 2, dtype=torch.float64), "n_steps": 0, "return_trajectory": True},
            {"x": torch.ones(4, 2), "n_steps": 2, "thin": 3, "return_diagnostics": True},
        ):
            found, wanted = (sampler.sample(**call) for sampler in pair)
            for a, b in zip(*(r if isinstance(r, tuple) else (r, {}) for r in (found, wanted)), strict=True):
                if isinstance(a, dict):
                    assert [(k, v.shape, v.dtype) for k, v in a.items()] == [
                        (k, v.shape, v.dtype) for k, v in b.items()
                    ]
                else:
                    assert (a.shape, a.dtype, a.requires_grad) == (b.shape, b.dtype, b.requires_grad)
        torch.manual_seed(3)
        a = pair[0].sample(dim=2, n_samples=5, n_steps=4)
        torch.manual_seed(3)
        b, c = (pair[0].sample(dim=2, n_samples=5, n_steps=4) for _ in range(2))
        generator = torch.Generator().manual_seed(3)
        state = torch.get_rng_state()
        d = pair[0].sample(dim=2, n_samples=5, n_steps=4, generator=generator)
        assert torch.equal(a, b) and torch.equal(a, d) and not torch.equal(a, c)
        assert torch.equal(state, torch.get_rng_state())


def test_a_gradient_of_the_model_s_own_is_called():
    model = OwnGradient()
    sampler = LangevinDynamics(model, 0.1, seed=7)
    x = sampler.sample(start(), n_steps=3)
    expected = langevin(lambda x: 0.5 * x, start(), [0.1] * 3, [1.0] * 3)
    assert (x - expected[:, -1]).abs().max() < 1e-13 and model.n_calls == 3
    assert isinstance(sampler.sampler, fl.Langevin) and sampler.sampler.target.kind == "score"
    m = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    hmc = HamiltonianMonteCarlo(model, 0.3, n_leapfrog_steps=4, mass=m, seed=7)
    x = hmc.sample(start(), n_steps=1, return_diagnostics=True)[1]
    # By hand: leapfrog along 0.5·x, and the test by U = 0.75·|x|².
    p = m.sqrt() * fl.noise.normal((6, 3), seed=7, step=0).double()
    y, kinetic = start(), 0.5 * (p.square() / m).sum(1)
    for _ in range(4):
        p = p - 0.15 * 0.5 * y
        y = y + 0.3 * p / m
        p = p - 0.15 * 0.5 * y
    difference = model(y) + 0.5 * (p.square() / m).sum(1) - model(start()) - kinetic
    u = fl.noise.uniform((6,), seed=7, step=0, stream=fl.noise.Stream.ACCEPT_REJECT).double()
    accepted = u < (-difference).exp()
    assert 0 < accepted.sum() < 6
    assert (x["mean"][0] - torch.where(accepted[:, None], y, start()).mean(0)).abs().max() < 1e-12
    assert abs(x["acceptance_rate"][0] - accepted.double().mean()) < 1e-6  # a share in float32


def test_a_model_with_schedules_changes_between_steps():
    strength = core.TemperatureScheduler(epsilon_max=0.4, tau_star=0.2, n_steps=5, sqrt=False)
    model = InteractionModel(Quadratic(), sigma_w=2.0, strength=strength)
    found = LangevinDynamics(model, 0.1, seed=7).sample(start(), n_steps=6, thin=2, return_trajectory=True)
    strength.reset()
    x, states = start(), []
    for k in range(6):
        z = fl.noise.normal(x.shape, seed=7, step=k).double()
        x = x - 0.1 * model.gradient(x) + math.sqrt(0.2) * z
        strength.step()
        states.append(x)
    assert strength.step_count == 6 and (found - torch.stack(states, 1)[:, 1::2]).abs().max() < 1e-12


def test_hmc_samples_with_masses_and_a_schedule():
    """Moments of a Gaussian by the test that is exact, at p = 1e-4 for 4,000 independent chains."""
    mean, variance = torch.tensor([1.0, -2.0]), torch.tensor([0.25, 4.0])
    model = core.GaussianModel(mean, variance.diag())
    sizes = core.LinearScheduler(start_value=0.4, end_value=0.6, n_steps=40)
    sampler = HamiltonianMonteCarlo(model, sizes, n_leapfrog_steps=3, mass=1 / variance, seed=1)
    x, found = sampler.sample(n_samples=4000, n_steps=40, thin=20, return_diagnostics=True)
    assert isinstance(sampler.sampler, fl.HMC) and sizes.step_count == 40
    assert ((x.mean(0) - mean).abs() < 4 * (variance / 4000).sqrt()).all()
    assert ((x.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / 4000)).all()
    assert ((found["acceptance_rate"] > 0.8) & (found["acceptance_rate"] < 1)).all()
    one_by_one = HamiltonianMonteCarlo(model, sizes, n_leapfrog_steps=3, mass=1 / variance, seed=1)
    assert torch.equal(one_by_one.sample(n_samples=4000, n_steps=40), x)  # diagnostics change no state


def test_it_trains_in_torchebm_s_loss():
    from torchebm.losses import ContrastiveDivergence

    torch.manual_seed(0)
    model = Quadratic()
    sampler = LangevinDynamics(model, step_size=0.05)
    loss = ContrastiveDivergence(model, sampler, k_steps=5, energy_reg_weight=0.0, dtype=torch.float64)
    value, x = loss(start())
    value.backward()
    assert (model.k.grad - 0.5 * (start().square().sum(1).mean() - x.square().sum(1).mean())).abs() < 1e-12
    assert model.k.requires_grad


def test_copies_and_replaced_models():
    sampler = LangevinDynamics(Quadratic(), 0.1, seed=7)
    for other in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        assert other.model is not sampler.model
        with torch.no_grad():
            other.model.k.fill_(0.0)
        assert (other.sample(start(), n_steps=2) - _at(0.0)).abs().max() < 1e-13
    sampler.model = OwnGradient()
    assert (sampler.sample(start(), n_steps=2) - _at(0.5)).abs().max() < 1e-13


def _at(k: float) -> Tensor:
    return langevin(lambda x: k * x, start(), [0.1] * 2, [1.0] * 2)[:, -1]


def test_what_does_not_work_is_an_error_that_names_the_argument():
    model = Quadratic()
    with pytest.raises(TypeError, match=r"model must be a torchebm.core.BaseModel, .* got Linear"):
        LangevinDynamics(nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"integrator must be .*EulerMaruyamaIntegrator .* got HeunIntegrator"):
        LangevinDynamics(model, integrator="heun")
    with pytest.raises(TypeError, match="BaseSDERungeKuttaIntegrator"):
        LangevinDynamics(model, integrator=integrators.LeapfrogIntegrator(dtype=torch.float64))
    with pytest.raises(ValueError, match="step_size must be positive"):
        LangevinDynamics(model, step_size=-1.0)
    sampler = LangevinDynamics(model, core.LinearScheduler(start_value=0.1, end_value=-0.1, n_steps=2), seed=1)
    with pytest.raises(ValueError, match="step_size at step 2 must be finite and not negative"):
        sampler.sample(start(), n_steps=3)
    with pytest.raises(ValueError, match="generator must be None for a sampler with a seed"):
        sampler.sample(start(), generator=torch.Generator())
    for thin in (0, 1.5):
        with pytest.raises(ValueError, match="thin must be >= 1"):
            sampler.sample(start(), thin=thin)
    with pytest.raises(ValueError, match="n_steps must be"):
        sampler.sample(start(), n_steps=-1)
    with pytest.raises(ValueError, match="dim must be provided"):
        sampler.sample()
    with pytest.raises(fl.ChainDiverged):
        LangevinDynamics(model, 1e200).sample(start(), n_steps=5)
    with pytest.raises(ValueError, match="mass must"):
        HamiltonianMonteCarlo(model, 0.1, mass=torch.ones(2)).sample(start(), n_steps=1)


def test_engines_see_the_energy():
    class Net(core.BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).squeeze(-1)

    sampler = LangevinDynamics(Net(), 0.1)
    sampler.sample(dim=2, n_samples=3, n_steps=2)
    assert sampler.sampler.plan.engine == "mlp"
    sampler = LangevinDynamics(Net(), 0.1, engine="autograd", backend="reference")
    sampler.sample(dim=2, n_samples=3, n_steps=2)
    assert (sampler.sampler.plan.engine, sampler.sampler.plan.backend) == ("autograd", "reference")
    sampler.use_mixed_precision = sampler.autocast_available = True
    sampler._amp_dtype = torch.bfloat16
    assert sampler._with().precision == "bf16"
    net = Net()
    first, second = (LangevinDynamics(net, 0.1, seed=5).sample(dim=2, n_samples=4, n_steps=1) for _ in range(2))
    assert torch.equal(first, second)


def test_ranks_are_warned_of_equal_noise_where_they_share_a_seed(monkeypatch):
    monkeypatch.setattr(shards, "_has_warned", False)
    monkeypatch.setattr(shards, "is_initialized", lambda: True)
    monkeypatch.setattr(shards.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(shards.dist, "get_world_size", lambda: 2)
    sampler = LangevinDynamics(Quadratic(), 0.1, seed=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.sample(start(), n_steps=1)
    sampler = LangevinDynamics(Quadratic(), 0.1, seed=3)
    with pytest.warns(UserWarning, match="chain_offset was not given on rank 1 of 2"):
        sampler.sample(start(), n_steps=1)
