"""The works of `bench_family.py`: a sampler of the family on a density, from exact draws of it.

From exact draws a sampler that leaves the density invariant keeps its moments from the first transition on, so that
`family_checks.py` needs no burn-in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from works import N_CHAINS, Work, double_well, mixture

import fastlangevin as fl

TITLES = {
    "mala": "MALA",
    "hmc": "HMC",
    "underdamped": "underdamped",
    "tempering": "parallel tempering",
    "annealed": "annealed",
}


@dataclass(frozen=True)
class FamilyWork:
    """n_steps transitions of a sampler for every chain of x0.

    Attributes:
        kind: a key of TITLES.
        module: U(x); of the kind "annealed" the score s(x, σ), both with x (B, d) and σ (B,).
        options: of the sampler, by the names that `fl` has for them.
        log_density: of x0, up to a constant; None: not known.
        bias: how far the mean of a statistic may be from the eager loop's, in standard deviations over the chains,
            beyond chance: what the step size does to samplers without a Metropolis test that discretise otherwise.
    """

    kind: str
    density: str
    module: nn.Module
    x0: Tensor
    n_steps: int
    options: Mapping[str, Any] = field(default_factory=dict)
    log_density: Callable[[Tensor], Tensor] | None = None
    bias: float = 0.0

    @property
    def title(self) -> str:
        return f"{TITLES[self.kind]}, {self.density}, {len(self.x0):,} chains, {self.n_steps} steps"

    @property
    def has_one_dynamics(self) -> bool:
        """Whether its options determine the transition in every library, not only what it leaves invariant."""
        return self.kind not in ("underdamped", "tempering")


@dataclass(frozen=True)
class Density:
    title: str
    module: nn.Module  # U(x)
    x0: Tensor


def densities(n_chains: int = N_CHAINS) -> dict[str, Density]:
    torch.manual_seed(0)
    of_mixture, of_well = (_with_title(make("cpu")) for make in (mixture, double_well))
    tilt = fl.models.MLP(2, (64, 64), "silu", prior=1.0)
    tilt.net[-2].weight.data.mul_(5)
    return {
        "mixture": Density(*of_mixture, of_mixture[1].sample(n_chains)),
        "double-well": Density(*of_well, double_well_draws(of_well[1], n_chains)),
        "mlp": Density("MLP 2→64→64→1, SiLU, and a normal", Negative(tilt), tilted_draws(tilt, n_chains)),
    }


class Negative(nn.Module):
    """The energy of a log-density."""

    def __init__(self, log_density: nn.Module) -> None:
        super().__init__()
        self.log_density = log_density

    def forward(self, x: Tensor) -> Tensor:
        return -self.log_density(x)


def _with_title(work: Work) -> tuple[str, nn.Module]:
    return work.title, work.module


def double_well_draws(energy: fl.energies.DoubleWell, n: int) -> Tensor:
    """By the inverse of the cumulative sum of the density of one coordinate, on a fine grid."""
    grid = torch.linspace(-3 * energy.width, 3 * energy.width, 100_001, dtype=torch.float64)
    p = torch.exp(-energy.barrier * ((grid / energy.width).square() - 1).square())
    cumulative = (p / p.sum()).cumsum(0)
    places = torch.searchsorted(cumulative, torch.rand(n, len(energy.mean), dtype=torch.float64))
    return grid[places.clamp(max=len(grid) - 1)].float()


@torch.no_grad()
def tilted_draws(tilt: fl.models.MLP, n: int) -> Tensor:
    """Of exp(net(x)) N(x; 0, I), by rejection of normal draws; the largest of the net's values bounds the others."""
    x = torch.randn(20 * n, tilt.in_features)
    f = tilt.net(x)
    kept = x[torch.rand(len(x)) < torch.exp(f - f.max())]
    assert len(kept) >= n
    return kept[:n].contiguous()


class SmoothedMixtureScore(nn.Module):
    """∇ log of equal components N(μ_k, v) convolved with N(0, σ²): Σ_k r_k (μ_k - x) / (v + σ²), r the softmax of
    -½ |x - μ_k|² / (v + σ²).
    """

    def __init__(self, means: Tensor, variance: float) -> None:
        super().__init__()
        self.variance = variance
        self.register_buffer("means", means)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        away = self.means - x[:, None]
        v = self.variance + sigma.square()[:, None]
        shares = torch.softmax(-0.5 * away.square().sum(2) / v, dim=1)
        return (shares[:, :, None] * away).sum(1) / v


class ScoreMLP(nn.Module):
    """net(x) / σ, as NCSN's output is divided."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.net(x) / sigma[:, None]


# Of each kind: the step size of each density, the number of transitions, the options.
_KINDS: dict[str, tuple[dict[str, float], int, dict[str, Any]]] = {
    "mala": ({"mixture": 0.15, "double-well": 0.04, "mlp": 0.6}, 50, {}),
    "hmc": ({"mixture": 0.2, "double-well": 0.12, "mlp": 0.3}, 10, {"n_leapfrog": 10}),
    "underdamped": ({"mixture": 0.1, "double-well": 0.05, "mlp": 0.15}, 50, {"friction": 1.0}),
    "tempering": (
        {"mixture": 0.15, "double-well": 0.04, "mlp": 0.6},
        15,
        {"temperatures": (1.0, 2.0, 4.0, 8.0), "swap_every": 5},
    ),
}
_SIGMAS = tuple(torch.logspace(1, -1, 5).tolist())


def works(n_chains: int = N_CHAINS) -> dict[str, FamilyWork]:
    found: dict[str, FamilyWork] = {}
    for kind, (step_sizes, n_steps, options) in _KINDS.items():
        for name, density in densities(n_chains).items():
            found[f"{kind}-{name}"] = FamilyWork(
                kind,
                density.title,
                density.module,
                density.x0,
                n_steps,
                {"step_size": step_sizes[name], **options},
                lambda x, energy=density.module: -energy(x),
                0.1 if kind == "underdamped" else 0.0,
            )
    options = {"sigmas": _SIGMAS, "step_size": 0.2 * _SIGMAS[-1] ** 2}
    of_mixture = densities(n_chains)["mixture"]
    smoothed = SmoothedMixtureScore(of_mixture.module.means, 0.25)
    torch.manual_seed(1)
    scores = {"mixture": (of_mixture.title, smoothed), "mlp": ("MLP 2→64→64→2, SiLU", ScoreMLP())}
    for name, (title, score) in scores.items():
        x0 = _SIGMAS[0] * torch.randn(n_chains, 2)
        found[f"annealed-{name}"] = FamilyWork("annealed", title, score, x0, 50, options)
    return found
