"""Prior and posterior of a latent-space EBM (Pang et al., NeurIPS 2020; bpucla/latent-space-EBM-prior, train_svhn.py).

The generator has half the width of the code's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .public_energy import PublicEnergy

N_LATENT, BATCH = 100, 100


class Prior(nn.Module):
    """log p(z) + const = f(z) - ½‖z‖², (B, 100, 1, 1) to (B,)."""

    def __init__(self, hidden: int = 200) -> None:
        super().__init__()
        self.ebm = nn.Sequential(
            nn.Linear(N_LATENT, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1)
        )

    def forward(self, z: Tensor) -> Tensor:
        f = self.ebm(z.squeeze()).squeeze(1)
        return f - 0.5 * (z.flatten(1) ** 2).sum(1)


class Generator(nn.Module):
    """(B, 100, 1, 1) to (B, 3, 32, 32)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.gen = nn.Sequential(
            nn.ConvTranspose2d(N_LATENT, 8 * width, 4, 1, 0),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(8 * width, 4 * width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(2 * width, 3, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.gen(z)


class Posterior(nn.Module):
    """log p(z | x) + const = -‖x - g(z)‖² / 2s² - ½‖z‖², (B, 100, 1, 1) and x (B, 3, 32, 32) to (B,)."""

    def __init__(self, sigma: float = 0.3) -> None:
        super().__init__()
        self.generator, self.sigma = Generator(), sigma

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        error = (x - self.generator(z)).flatten(1)
        return -(error**2).sum(1) / (2.0 * self.sigma**2) - 0.5 * (z.flatten(1) ** 2).sum(1)


def prior(device: str = "cpu") -> PublicEnergy:
    torch.manual_seed(0)
    module, z0 = Prior().to(device), torch.randn(BATCH, N_LATENT, 1, 1).to(device)
    options = {"n_steps": 60, "step_size": 0.08, "noise_std": 0.4}
    return PublicEnergy("latent-prior", "latent EBM: prior, 100×1×1", module, "log_density", z0, (), options)


def posterior(device: str = "cpu") -> PublicEnergy:
    torch.manual_seed(0)
    module = Posterior().to(device)
    with torch.no_grad():
        x = module.generator(torch.randn(BATCH, N_LATENT, 1, 1).to(device))
    z0 = torch.randn(BATCH, N_LATENT, 1, 1).to(device)
    options = {"n_steps": 20, "step_size": 0.005, "noise_std": 0.1}
    title = "latent EBM: posterior, four transposed convolutions, 100×1×1"
    return PublicEnergy("latent-posterior", title, module, "log_density", z0, (x,), options)
