"""Bayesian logistic regression by Langevin dynamics: `python examples/bayesian_logistic.py [picture.png]`.

The data are scikit-learn's breast cancer data (extra "eval"): 569 tumours, 30 measurements, standardised, and an
intercept. With t_i = 1 for benign and -1 for malignant and a prior N(0, prior_std²) of every coefficient, the posterior
of β is exp(-U(β)) up to a constant,

    U(β) = Σ_i log(1 + exp(-t_i x_iᵀβ)) + |β|² / (2 prior_std²).

Each sampler runs 64 chains. Its means and standard deviations are compared with those of a long run of NUTS in another
library, stored in bayesian_logistic.json, which `python benchmarks/posterior.py --reference` writes. docs/posterior.md
explains the settings. The picture, which requires matplotlib, has the coefficients of all five.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

import fastlangevin as fl

REFERENCE = Path(__file__).with_suffix(".json")
PRIOR_STD = 1.0
N_CHAINS = 64
N_LEAPFROG = 16


def load() -> tuple[Tensor, Tensor, list[str]]:
    """x (569, 31) with ones for the intercept in column 0, y (569,) of 0 and 1, in float64; and the columns' names."""
    data = load_breast_cancer()
    x = torch.from_numpy(data.data)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    names = ["intercept", *map(str, data.feature_names)]
    return torch.cat([torch.ones(len(x), 1, dtype=x.dtype), x], dim=1), torch.from_numpy(data.target), names


class Posterior(nn.Module):
    """U(β), (B, d) to (B,), in x's dtype: a network whose hidden layer has an output for each item of the data.

    As consecutive layers it is known to the engine "mlp", which runs whole chains in one native call.
    """

    def __init__(self, x: Tensor, y: Tensor, prior_std: float = PRIOR_STD) -> None:
        super().__init__()
        items, d = x.shape
        self.prior_std = prior_std
        self.losses = nn.Sequential(nn.Linear(d, items, bias=False), nn.Softplus(), nn.Linear(items, 1, bias=False))
        signs = 2 * y[:, None] - 1
        self.losses[0].weight = nn.Parameter(-signs * x, requires_grad=False)
        self.losses[2].weight = nn.Parameter(torch.ones(1, items, dtype=x.dtype), requires_grad=False)

    def forward(self, beta: Tensor) -> Tensor:
        return self.losses(beta).squeeze(1) + beta.square().sum(1) / (2 * self.prior_std**2)


@dataclass(frozen=True)
class Reference:
    """The posterior's mode, means and standard deviations, (d,) each in float64, and the errors of the last two."""

    mode: Tensor
    mean: Tensor
    sd: Tensor
    mean_error: Tensor
    sd_error: Tensor

    @classmethod
    def read(cls) -> Reference:
        stored = json.loads(REFERENCE.read_text())
        return cls(*(torch.tensor(stored[name], dtype=torch.float64) for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Run:
    """How a sampler is run: transitions that are dropped at the start, and then records, `every` transitions apart."""

    make: Callable[[nn.Module], Any]
    n_dropped: int
    n_records: int
    every: int

    def draws(self, sampler: Any, x: Tensor) -> Tensor:
        """(n_records, B, d)."""
        found: list[Tensor] = []
        sampler(x, n_steps=self.n_records * self.every, callback=lambda k, x: found.append(x), every=self.every)
        return torch.stack(found)


RUNS = {
    "Langevin": Run(lambda energy: fl.Langevin(energy, step_size=5e-3, noise_std=None, seed=1), 2_000, 500, 25),
    "MALA": Run(lambda energy: fl.MALA(energy, step_size=1e-2, seed=1), 2_000, 500, 25),
    "Underdamped": Run(lambda energy: fl.Underdamped(energy, step_size=0.1, friction=1.0, seed=1), 200, 500, 10),
    "HMC": Run(lambda energy: fl.HMC(energy, step_size=0.1, n_leapfrog=N_LEAPFROG, seed=1), 50, 500, 1),
}


def start(energy: nn.Module, n_chains: int = N_CHAINS) -> Tensor:
    """(B, d): draws of the prior, brought down by Langevin dynamics with a small step.

    A draw of the prior lies so far out that MALA and HMC, with step sizes for the bulk of the posterior, reject almost
    everything there. Langevin dynamics rejects nothing.
    """
    torch.manual_seed(0)
    x0 = PRIOR_STD * torch.randn(n_chains, energy.losses[0].in_features)
    return fl.Langevin(energy, step_size=1e-3, noise_std=None, seed=2)(x0, n_steps=2_000)


def warmed_up(run: Run, energy: nn.Module, x: Tensor) -> tuple[Any, Tensor]:
    """The sampler with the step size of its warm-up, if it has one, and the states after the dropped transitions."""
    sampler = run.make(energy)
    if hasattr(sampler, "warm_up"):
        sampler, x = sampler.warm_up(x, n_steps=300)
    return sampler, sampler(x, n_steps=run.n_dropped)


def compare(draws: Tensor, reference: Reference) -> tuple[float, float, float]:
    """The largest error of a mean, in standard deviations; the least and the largest ratio of standard deviations."""
    flat = draws.double().flatten(0, 1)
    error = (flat.mean(0) - reference.mean).abs() / reference.sd
    ratio = flat.std(0) / reference.sd
    return float(error.max()), float(ratio.min()), float(ratio.max())


def draw(moments: dict[str, tuple[Tensor, Tensor]], names: list[str], path: str) -> None:
    """Means and standard deviations, (d,) each, by name of the sampler, a row for each coefficient."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 8), layout="constrained")
    rows = torch.arange(len(names))
    for i, (name, (mean, sd)) in enumerate(moments.items()):
        places = rows + 0.16 * (i - (len(moments) - 1) / 2)
        axes.errorbar(mean, places, xerr=sd, fmt="o", markersize=3, linewidth=1, label=name)
    axes.axvline(0, color="gray", linewidth=0.8)
    axes.set_yticks(rows, names, fontsize=8)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="coefficient, mean ± one standard deviation")
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=90)
    print(f"picture: {path}")


def main(picture: str | None = None) -> None:
    x, y, names = load()
    energy, reference = Posterior(x.float(), y), Reference.read()
    x0 = start(energy)
    moments = {"NUTS, a long run": (reference.mean, reference.sd)}
    for name, run in RUNS.items():
        sampler, x = warmed_up(run, energy, x0)
        started = time.perf_counter()
        draws = run.draws(sampler, x)
        seconds = time.perf_counter() - started
        error, low, high = compare(draws, reference)
        print(
            f"{name:12} step size {sampler.step_size:.4g}, {run.n_records * run.every:,} transitions of {len(x)} "
            f"chains in {seconds:.1f} s: means within {error:.3f} standard deviations, ratios of standard deviations "
            f"{low:.3f} to {high:.3f}"
        )
        flat = draws.double().flatten(0, 1)
        moments[name] = flat.mean(0), flat.std(0)
    surest = (flat.mean(0).abs() / flat.std(0)).topk(3).indices.tolist()
    print("largest effects in standard deviations of the posterior, on the log-odds of benign:")
    for i in surest:
        print(f"  {names[i]}: {flat[:, i].mean():.2f} ± {flat[:, i].std():.2f}")
    if picture is not None:
        draw(moments, names, picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
