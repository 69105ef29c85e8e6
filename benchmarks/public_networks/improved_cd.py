"""The multi-scale network of improved contrastive divergence (yilundu/improved_contrastive_divergence, models.py).

The same kinds of layers at a quarter of its width: residual blocks with group and instance norm, Swish, and softmax
attention; a tower for each of three scales.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .public_energy import PublicEnergy


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class SelfAttention(nn.Module):
    """Attention over pixels, as in SAGAN."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.full((1,), 0.5))
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        query = self.query_conv(x).view(batch, -1, width * height).permute(0, 2, 1)
        key = self.key_conv(x).view(batch, -1, width * height)
        attention = self.softmax(torch.bmm(query, key))
        value = self.value_conv(x).view(batch, -1, width * height)
        out = torch.bmm(value, attention.permute(0, 2, 1)).view(batch, channels, height, width)
        return self.gamma * out + x


class ResBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, down: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm1 = nn.InstanceNorm2d(channels, affine=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.skip = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else nn.Identity()
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if down else None

    def forward(self, x: Tensor) -> Tensor:
        out = swish(self.norm1(self.conv1(x)))
        out = swish(self.norm2(self.conv2(out)) + self.skip(x))
        return out if self.pool is None else self.pool(out)


class Tower(nn.Module):
    """(B, 3, H, W) to (B, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.block1 = ResBlock(width, width, down=True)
        self.attention = SelfAttention(width)
        self.block2 = ResBlock(width, 2 * width, down=True)
        self.block3 = ResBlock(2 * width, 2 * width, down=False)
        self.energy_map = nn.Linear(2 * width, 1)
        nn.init.normal_(self.energy_map.weight, std=2e-4)  # step size 100 times the score is about the noise

    def forward(self, x: Tensor) -> Tensor:
        out = swish(self.conv1(x))
        out = self.attention(self.block1(out))
        out = self.block3(self.block2(out))
        return self.energy_map(out.mean(dim=2).mean(dim=2))


class Pyramid(nn.Module):
    """(B, 3, 32, 32) to (B,): the sum of the energies at 32×32, 16×16 and 8×8."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.towers = nn.ModuleList([Tower(width) for _ in range(3)])
        self.downsample = nn.AvgPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        energies = []
        for i, tower in enumerate(self.towers):
            x = self.downsample(x) if i else x
            energies.append(tower(x))
        return torch.cat(energies, dim=1).sum(1)


def seeded(device: str = "cpu") -> PublicEnergy:
    torch.manual_seed(0)
    module, x0 = Pyramid().to(device), torch.rand(32, 3, 32, 32).to(device)
    options = {"n_steps": 40, "step_size": 100.0, "noise_std": 0.001, "bounds": (0.0, 1.0), "noise_first": True}
    title = "improved CD: norms, Swish, attention, three scales, 3×32×32"
    return PublicEnergy("improved-cd", title, module, "energy", x0, (), options)
