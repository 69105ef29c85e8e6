"""The network of the UvA tutorial on energy-based models (phlippe/uvadlc_notebooks, Deep_Energy_Models.ipynb).

At its own size, for 28×28 digits, with a Swish written by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .public_energy import PublicEnergy


class Swish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class SwishCNN(nn.Module):
    """(B, 1, 28, 28) to (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn_layers = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=5, stride=2, padding=4),  # 16×16
            Swish(),
            nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),  # 8×8
            Swish(),
            nn.Conv2d(32, 64, kernel_size=3, stride=2, padding=1),  # 4×4
            Swish(),
            nn.Conv2d(64, 64, kernel_size=3, stride=2, padding=1),  # 2×2
            Swish(),
            nn.Flatten(),
            nn.Linear(256, 64),
            Swish(),
            nn.Linear(64, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.cnn_layers(x).squeeze(dim=-1)


def seeded(device: str = "cpu") -> PublicEnergy:
    torch.manual_seed(0)
    module = SwishCNN().requires_grad_(False).to(device)
    x0 = (torch.rand(64, 1, 28, 28) * 2 - 1).to(device)
    options = {"n_steps": 60, "step_size": 10.0, "noise_std": 0.005, "grad_clip": 0.03, "bounds": (-1.0, 1.0)}
    options["noise_first"] = "clamp"
    return PublicEnergy("swish-cnn", "UvA tutorial: Swish CNN, 1×28×28", module, "log_density", x0, (), options)
