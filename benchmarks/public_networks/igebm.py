"""The residual network of IGEBM for labelled images (openai/ebm_code_release, models.py), under spectral norm.

A quarter of IGEBM's width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .public_energy import PublicEnergy
from .spectral import NORMS

N_CLASSES = 10


class ResBlock(nn.Module):
    """Two convolutions, each followed by a gain and a bias of the label."""

    def __init__(self, in_channels: int, channels: int, down: bool, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.conv1 = norm(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))
        self.conv2 = norm(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        self.class_embed = nn.Embedding(N_CLASSES, 4 * channels)
        self.class_embed.weight.data[:, : 2 * channels] = 1
        self.class_embed.weight.data[:, 2 * channels :] = 0
        self.skip = norm(nn.Conv2d(in_channels, channels, 1, bias=False)) if in_channels != channels else None
        self.down = down

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        embedded = self.class_embed(label).view(x.shape[0], -1, 1, 1)
        gain1, gain2, bias1, bias2 = embedded.chunk(4, 1)
        out = F.leaky_relu(gain1 * self.conv1(x) + bias1, negative_slope=0.2)
        out = gain2 * self.conv2(out) + bias2
        skip = x if self.skip is None else self.skip(x)
        out = out + skip
        if self.down:
            out = F.avg_pool2d(out, 2)
        return F.leaky_relu(out, negative_slope=0.2)


class IGEBM(nn.Module):
    """(B, 3, 32, 32) and labels (B,) to (B, 1)."""

    def __init__(self, norm: Callable[[nn.Module], nn.Module], width: int = 32) -> None:
        super().__init__()
        self.conv1 = norm(nn.Conv2d(3, width, 3, padding=1))
        self.blocks = nn.ModuleList(
            [
                ResBlock(width, width, True, norm),
                ResBlock(width, width, False, norm),
                ResBlock(width, 2 * width, True, norm),
                ResBlock(2 * width, 2 * width, False, norm),
                ResBlock(2 * width, 2 * width, True, norm),
                ResBlock(2 * width, 2 * width, False, norm),
            ]
        )
        self.linear = nn.Linear(2 * width, 1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        out = F.leaky_relu(self.conv1(x), negative_slope=0.2)
        for block in self.blocks:
            out = block(out, label)
        out = F.relu(out)
        out = out.view(out.shape[0], out.shape[1], -1).sum(2)
        return self.linear(out)


def seeded(norm: str = "parametrization", device: str = "cpu") -> PublicEnergy:
    """`norm`: a key of `spectral.NORMS`."""
    torch.manual_seed(0)
    module = IGEBM(NORMS[norm]).requires_grad_(False)
    x0, labels = torch.rand(64, 3, 32, 32), torch.randint(N_CLASSES, (64,))
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            for _ in range(300):  # in train mode: the power iterations converge, as during a training
                layer(torch.zeros(1, layer.in_channels, 1, 1))
    module, x0, labels = module.eval().to(device), x0.to(device), labels.to(device)
    options = {"n_steps": 60, "step_size": 10.0, "noise_std": 0.005, "grad_clip": 0.01, "bounds": (0.0, 1.0)}
    options["noise_first"] = True
    title = f"IGEBM: residual blocks, spectral norm ({norm}), labels, 3×32×32"
    return PublicEnergy(f"igebm-{norm}", title, module, "energy", x0, (labels,), options)
