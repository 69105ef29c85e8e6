"""Residual networks with the parts of those of public codes: IGEBM's, JEM's, and one with SiLU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_CLASSES = 3


class LabelledBlock(nn.Module):
    """IGEBM's: two convolutions with a gain and a bias for each label, a shortcut, a mean over 2×2 pixels."""

    def __init__(self, planes: int, channels: int, down: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(planes, channels, 1, bias=False) if planes != channels else None
        self.embedding = nn.Embedding(N_CLASSES, 4 * channels)
        self.down = down

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        gain1, gain2, bias1, bias2 = self.embedding(label).view(len(x), -1, 1, 1).chunk(4, 1)
        out = F.leaky_relu(gain1 * self.conv1(x) + bias1, 0.2)
        out = gain2 * self.conv2(out) + bias2
        out = out + (x if self.shortcut is None else self.shortcut(x))
        return F.leaky_relu(F.avg_pool2d(out, 2) if self.down else out, 0.2)


class Labelled(nn.Module):
    """(B, 3, h, w) and labels to (B, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        blocks = [(width, width, True), (width, width, False), (width, 2 * width, True)]
        self.blocks = nn.ModuleList([LabelledBlock(*block) for block in blocks])
        self.linear = nn.Linear(2 * width, 1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        out = F.leaky_relu(self.conv(x), 0.2)
        for block in self.blocks:
            out = block(out, label)
        return self.linear(F.relu(out).view(len(x), out.shape[1], -1).sum(2))


class WideBlock(nn.Module):
    """JEM's: pre-activation, a stride, an addition in place."""

    def __init__(self, planes: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.shortcut = nn.Conv2d(planes, channels, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2))
        out += self.shortcut(x)
        return out


class Wide(nn.Module):
    """(B, 3, h, w) to the logsumexp of its logits, (B,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(WideBlock(width, 2 * width, 1), WideBlock(2 * width, 2 * width, 2))
        self.linear = nn.Linear(2 * width, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.blocks(self.conv(x)), 0.2)
        return self.linear(F.avg_pool2d(out, tuple(out.shape[2:])).view(len(x), -1)).logsumexp(1)


class Swish(nn.Module):
    """x·sigmoid(x) and a residual connection, strided 4×4 convolutions, a division, (B, 3, h, w) to (B,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 4, 2, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1)
        self.third = nn.Conv2d(width, 2 * width, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.first(x)
        out = out * torch.sigmoid(out)
        out = out + self.second(out)
        out = self.third(out * torch.sigmoid(out) / 1.1)
        return (out * torch.sigmoid(out)).sum((1, 2, 3))


def seeded(name: str, width: int, size: tuple[int, int], batch: int, dtype: torch.dtype = torch.float64):
    """A network that is `name`, states of that size, and its other arguments."""
    torch.manual_seed(3)
    module = {"labelled": Labelled, "wide": Wide, "swish": Swish}[name](width).to(dtype).requires_grad_(False)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=0.2)
    args = (torch.randint(N_CLASSES, (batch,)),) if name == "labelled" else ()
    return module, torch.randn(batch, 3, *size, dtype=dtype), args


NAMES = ("labelled", "wide", "swish")
