"""Densities with known moments, and checks of samples of them."""

from __future__ import annotations

import torch
from torch import Tensor

from fastlangevin import energies

DENSITIES = {
    "gaussian": lambda: energies.Gaussian([1.0, -2.0, 0.5], [[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]]),
    "mixture": lambda: energies.GaussianMixture([[2.0, 0.0], [-1.0, 1.0], [0.0, -2.0]], [0.2, 0.5, 1.0], [1, 2, 3]),
    "double well": lambda: energies.DoubleWell(3, 1.5, 0.8),
    "rosenbrock": lambda: energies.Rosenbrock(0.5, 10.0, 4.0),
    "funnel": lambda: energies.Funnel(4, 1.2),
    "rings": lambda: energies.Rings((1.0, 2.5), 0.2),
}


def exact_samples(name: str, n: int, seed: int = 0) -> Tensor:
    """n exact samples of a density, (n, d) float32."""
    density, generator = DENSITIES[name](), torch.Generator().manual_seed(seed)
    if name == "double well":  # its elements are independent
        return _inverted(lambda x: -density(x[:, None].expand(-1, 3)) / 3, -4.0, 4.0, (n, 3), generator)
    if name == "rings":  # its angle is uniform, and its radius has density ∝ radius·exp(-U)
        radius = _inverted(
            lambda r: r.log() - density(r[:, None] * r.new_tensor([1.0, 0.0])), 1e-6, 5.0, (n,), generator
        )
        angle = 2 * torch.pi * torch.rand(n, generator=generator)
        return radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return density.sample(n, generator)


def _inverted(log_density, lo: float, hi: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Samples of a one-dimensional density, by inverting its distribution on a grid."""
    grid = torch.linspace(lo, hi, 80_001, dtype=torch.float64)
    cumulative = log_density(grid).exp().cumsum(0)
    u = torch.rand(shape, dtype=torch.float64, generator=generator)
    return grid[torch.searchsorted(cumulative / cumulative[-1], u).clamp(max=len(grid) - 1)].float()


def assert_moments(x: Tensor, name: str, sigmas: float = 5.0) -> None:
    """Mean and second moments of independent samples x (n, d) are those of the density, within standard errors that are
    those of the samples themselves.
    """
    density, x = DENSITIES[name](), x.double()
    mean, covariance = density.mean.double(), density.covariance.double()
    away = x - mean
    first, second = away, away[:, :, None] * away[:, None] - covariance
    for observed in (first, second.flatten(1)):
        error = observed.mean(dim=0).abs()
        assert (error <= sigmas * observed.std(dim=0) / len(x) ** 0.5).all(), (name, error)
