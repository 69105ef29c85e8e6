"""The wide residual network of JEM (wgrathwohl/JEM, networks/wideresnet.py, train_wrn_ebm.py), without norm.

Depth 10 and width 2, where JEM has 28 and 10: one block for each of three stages.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .public_energy import PublicEnergy, he_


class WideBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.lrelu = nn.LeakyReLU(0.2)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.dropout = nn.Dropout(0.0)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        out = self.dropout(self.conv1(self.lrelu(x)))
        out = self.conv2(self.lrelu(out))
        out += self.shortcut(x)
        return out


class WideResNet(nn.Module):
    """(B, 3, 32, 32) to logits (B, 10)."""

    def __init__(self, depth: int = 10, widen: int = 2, n_classes: int = 10) -> None:
        super().__init__()
        blocks, widths = (depth - 4) // 6, [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1)
        self.layer1 = self._stage(widths[0], widths[1], blocks, stride=1)
        self.layer2 = self._stage(widths[1], widths[2], blocks, stride=2)
        self.layer3 = self._stage(widths[2], widths[3], blocks, stride=2)
        self.lrelu = nn.LeakyReLU(0.2)
        self.class_output = nn.Linear(widths[3], n_classes)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = WideBlock(in_channels, channels, stride)
        return nn.Sequential(first, *(WideBlock(channels, channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        out = self.layer1(out)
        out = self.layer2(out)
        out = self.layer3(out)
        out = self.lrelu(out)
        out = F.avg_pool2d(out, 8)
        out = out.view(out.size(0), -1)
        return self.class_output(out)


class JEM(nn.Module):
    """f(x) = logsumexp of the logits, f(x, y) = the logit of class y."""

    def __init__(self, depth: int = 10, widen: int = 2) -> None:
        super().__init__()
        self.f = WideResNet(depth, widen)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        logits = self.f(x)
        if y is None:
            return logits.logsumexp(1)
        return torch.gather(logits, 1, y[:, None])


def seeded(by_label: bool = False, device: str = "cpu") -> PublicEnergy:
    torch.manual_seed(0)
    module = he_(JEM()).eval().to(device)
    x0 = (torch.rand(64, 3, 32, 32) * 2 - 1).to(device)
    args = (torch.randint(10, (64,)).to(device),) if by_label else ()
    options = {"n_steps": 20, "step_size": 1.0, "noise_std": 0.01}
    name, what = ("jem-label", "f(x, y)") if by_label else ("jem", "f(x)")
    return PublicEnergy(name, f"JEM: WRN-10-2 without norm, {what}, 3×32×32", module, "log_density", x0, args, options)
