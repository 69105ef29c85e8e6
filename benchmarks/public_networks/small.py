"""Energies so small that the fixed cost of a call counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .public_energy import PublicEnergy, he_

OPTIONS = {"n_steps": 100, "step_size": 0.01, "noise_std": math.sqrt(2 * 0.01)}


class Classifier(nn.Module):
    """f(x) = logsumexp of eight logits, (B, 2) to (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Linear(128, 8)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).logsumexp(1)


class CountedRing(nn.Module):
    """U(x) = (‖x‖ - 2)² / 0.32 - log-weights of two modes on the ring, (B, 2) to (B,).

    It counts its evaluations, so that nothing may stand for running it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.evaluations = 0

    def forward(self, x: Tensor) -> Tensor:
        self.evaluations += 1
        left, right = (x[:, 0] - 2) ** 2, (x[:, 0] + 2) ** 2
        modes = torch.logaddexp(-left / 0.72, -right / 0.72)
        return (x.norm(dim=1) - 2) ** 2 / 0.32 - modes


def classifier(device: str = "cpu") -> PublicEnergy:
    torch.manual_seed(0)
    module, x0 = he_(Classifier()).to(device), torch.randn(1000, 2).to(device)
    return PublicEnergy("mlp-classifier", "MLP 2→128→128→8, logsumexp", module, "log_density", x0, (), OPTIONS)


def counted_ring(n_steps: int = 100, device: str = "cpu") -> PublicEnergy:
    torch.manual_seed(0)
    module, x0 = CountedRing().to(device), torch.randn(16, 2).to(device)
    title = "formula in two dimensions that counts its evaluations"
    return PublicEnergy(f"formula-{n_steps}", title, module, "energy", x0, (), {**OPTIONS, "n_steps": n_steps})
