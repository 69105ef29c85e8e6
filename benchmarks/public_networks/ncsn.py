"""A score network in the manner of NCSNv2 (ermongroup/ncsnv2, models/ncsnv2.py): residual blocks, InstanceNorm++, ELU.

One level of its annealed Langevin dynamics, with four residual blocks of 32 channels instead of its RefineNet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .public_energy import PublicEnergy


class InstanceNormPlus(nn.Module):
    """Instance norm, plus α times the channels' means normalised over channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.instance_norm = nn.InstanceNorm2d(channels, affine=False, track_running_stats=False)
        self.alpha = nn.Parameter(1 + 0.02 * torch.randn(channels))
        self.gamma = nn.Parameter(1 + 0.02 * torch.randn(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        means = torch.mean(x, dim=(2, 3))
        m = torch.mean(means, dim=-1, keepdim=True)
        v = torch.var(means, dim=-1, keepdim=True)
        means = (means - m) / (torch.sqrt(v + 1e-5))
        h = self.instance_norm(x)
        h = h + means[..., None, None] * self.alpha[..., None, None]
        return self.gamma.view(-1, self.channels, 1, 1) * h + self.beta.view(-1, self.channels, 1, 1)


class DilatedBlock(nn.Module):
    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.act = nn.ELU()
        self.norm1, self.norm2 = InstanceNormPlus(channels), InstanceNormPlus(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.act(self.norm1(x)))
        out = self.conv2(self.act(self.norm2(out)))
        return x + out


class ScoreNetwork(nn.Module):
    """∇ log p(x) at noise level y: (B, 3, 32, 32) in [0, 1] and levels (B,) to (B, 3, 32, 32)."""

    def __init__(self, width: int = 32, n_levels: int = 10) -> None:
        super().__init__()
        self.register_buffer("sigmas", torch.logspace(0, -2, n_levels))
        self.begin_conv = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(DilatedBlock(width, dilation) for dilation in (1, 1, 2, 4)))
        self.normalizer = InstanceNormPlus(width)
        self.act = nn.ELU()
        self.end_conv = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = 2 * x - 1.0
        out = self.blocks(self.begin_conv(h))
        out = self.end_conv(self.act(self.normalizer(out)))
        used_sigmas = self.sigmas[y].view(x.shape[0], *([1] * len(x.shape[1:])))
        return out / used_sigmas


def seeded(device: str = "cpu") -> PublicEnergy:
    torch.manual_seed(0)
    module, x0 = ScoreNetwork().eval().to(device), torch.rand(32, 3, 32, 32).to(device)
    level = 5
    step_size = 2e-5 * float(module.sigmas[level] / module.sigmas[-1]) ** 2
    options = {"n_steps": 100, "step_size": step_size, "noise_std": math.sqrt(2 * step_size)}
    labels = torch.full((32,), level).to(device)
    return PublicEnergy(
        "ncsn", "NCSN: score network, InstanceNorm++, dilation, 3×32×32", module, "score", x0, (labels,), options
    )
