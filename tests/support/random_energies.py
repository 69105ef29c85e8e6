"""Energies that are random graphs of the operations of people's networks."""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

EVENTS = ((5,), (3, 7), (2, 6, 6), (3, 5, 8), (1, 4, 4))


class RandomEnergy(nn.Module):
    """U(x) or U(x, label): a random walk over operations, whose values may be used again, down to (B,) numbers.

    Each value is divided by its magnitude at some states if that exceeds 1, so that none grows.

    Args:
        seed: of the graph and of its weights.
        n_operations: before the head.
    """

    def __init__(self, seed: int, n_operations: int):
        super().__init__()
        self.choices = random.Random(seed)
        torch.manual_seed(seed)
        self.event = self.choices.choice(EVENTS)
        self.layers = nn.ModuleList()
        self.steps, self.names = [], []
        with torch.no_grad():
            values = [torch.randn(4, *self.event)]
            for _ in range(n_operations):
                values.append(self.grow(values))
            self.head(values[-1])
        self.choices = None

    def forward(self, x, label=None):
        values = [x]
        for function, places, scale in self.steps:
            values.append(function(*(values[i] for i in places)) / scale)
        f = self.last(values[-1])
        return f if label is None else f.reshape(len(x)) * (1 + label)

    def grow(self, values):
        """Appends an operation that fits, and returns its value."""
        place = len(values) - 1 if self.choices.random() < 0.7 else self.choices.randrange(len(values))
        h = values[place]
        binary = [i for i, other in enumerate(values) if other.shape == h.shape]
        kinds = [ANY, {2: FLAT, 3: ROWS, 4: IMAGES}[h.dim()], {2: FLAT, 3: ROWS, 4: IMAGES}[h.dim()], BINARY]
        table = self.choices.choice(kinds)
        name = self.choices.choice(list(table))
        places = (place, self.choices.choice(binary)) if table is BINARY else (place,)
        function = table[name](self, h)
        if isinstance(function, nn.Module):
            self.layers.append(function)
        result = function(*(values[i] for i in places))
        if not 0 < result[0].numel() <= 400:
            return self.grow(values)
        scale = max(result.abs().max().item(), 1.0)
        self.steps.append((function, places, scale))
        self.names.append(name)
        return result / scale

    def head(self, h):
        name = self.choices.choice(list(HEADS))
        self.last = HEADS[name](self, h)
        self.names.append(name)
        if isinstance(self.last, nn.Module):
            self.layers.append(self.last)


def _odd(c, most):
    return c.choices.choice([k for k in (1, 3, 5) if k <= most])


def _conv(c, h, transposed=False, norm=None):
    nd = h.dim() - 2
    size = min(h.shape[2:])
    out = c.choices.choice((1, 2, 4, 6))
    groups = math.gcd(out, h.shape[1]) if c.choices.random() < 0.3 else 1
    k = _odd(c, size)
    stride = c.choices.choice((1, 1, 2))
    if transposed:
        layer = [nn.ConvTranspose1d, nn.ConvTranspose2d][nd - 1](h.shape[1], out, k, stride, k // 2, groups=groups)
    else:
        mode = c.choices.choice(("zeros", "zeros", "circular", "reflect", "replicate"))
        padding = min(k // 2, size - 1)
        dilation = c.choices.choice((1, 1, 2)) if 2 * (k - 1) < size else 1
        kind, bias = [nn.Conv1d, nn.Conv2d][nd - 1], c.choices.random() < 0.7
        layer = kind(h.shape[1], out, k, stride, padding, dilation, groups, bias, padding_mode=mode)
    return layer if norm is None else norm(layer)


def _group_norm(c, h):
    """torch refuses groups of one value of one chain."""
    groups = math.gcd(2, h.shape[1])
    n_values = h[0].numel()
    return nn.Identity() if n_values == 1 else nn.GroupNorm(groups if n_values > groups else 1, h.shape[1])


def _in_place(h):
    out = h.clone()
    out += 0.5 * h
    out.mul_(1.5)
    return F.leaky_relu(out, 0.2, inplace=True)


def _no_grad_gate(h):
    with torch.no_grad():
        gate = torch.sigmoid(h)
    return h * gate


def _attention(h):
    q = h.transpose(1, 2)
    return (torch.bmm(q, q.transpose(1, 2)) / math.sqrt(h.shape[1])).softmax(-1).bmm(q)


def _written_part(h):
    out = torch.zeros_like(h)
    out[:, : 1 + h.shape[1] // 2] = h[:, : 1 + h.shape[1] // 2]
    return out + 0.1 * h


def _constant(function):
    return lambda c, h: function


ANY = {
    "tanh": _constant(torch.tanh),
    "sigmoid": _constant(torch.sigmoid),
    "swish": _constant(lambda h: h * torch.sigmoid(h)),
    "swish/1.1": _constant(lambda h: h * h.sigmoid() / 1.1),
    "beta swish": _constant(lambda h: h * torch.sigmoid(1.5 * h)),
    "silu": _constant(F.silu),
    "mish": _constant(F.mish),
    "selu": _constant(F.selu),
    "gelu": _constant(F.gelu),
    "gelu tanh": _constant(lambda h: F.gelu(h, approximate="tanh")),
    "elu": _constant(lambda h: F.elu(h, 0.7)),
    "softplus": _constant(lambda h: F.softplus(h, 1.3)),
    "hardtanh": _constant(lambda h: F.hardtanh(h, -0.3, 0.4)),
    "relu": _constant(F.relu),
    "leaky": _constant(lambda h: F.leaky_relu(h, 0.2)),
    "in place": _constant(_in_place),
    "no_grad": _constant(_no_grad_gate),
    "detached": _constant(lambda h: h * h.detach().square()),
    "abs": _constant(torch.abs),
    "square": _constant(torch.square),
    "power": _constant(lambda h: h**3),
    "root": _constant(lambda h: (h * h + 0.1) ** 0.5),
    "exp": _constant(lambda h: torch.exp(-h.square())),
    "log": _constant(lambda h: torch.log1p(h.square())),
    "affine": _constant(lambda h: 2 * h - 1),
    "standardized": _constant(lambda h: (h - 0.3) / 0.7),
    "clamped": _constant(lambda h: h.clamp(-0.5, 0.6)),
    "where": _constant(lambda h: torch.where(h > 0.1, h, 0.3 * h)),
    "written part": _constant(_written_part),
    "centred": _constant(lambda h: h - h.flatten(1).mean(1).reshape(-1, *[1] * (h.dim() - 1))),
    "flattened": _constant(lambda h: h.flatten(1)),
    "half": _constant(lambda h: h[:, : max(1, h.shape[1] // 2)]),
    "flipped": _constant(lambda h: h.flip(-1)),
    "rolled": _constant(lambda h: h.roll(1, -1)),
    "reversed list": _constant(lambda h: torch.cat(list(h.split(1, dim=1))[::-1], 1)),
}
BINARY = {
    "add": _constant(torch.add),
    "add alpha": _constant(lambda a, b: torch.add(a, b, alpha=-0.7)),
    "subtract": _constant(torch.sub),
    "multiply": _constant(torch.mul),
    "divide": _constant(lambda a, b: a / (1 + b.square())),
    "maximum": _constant(torch.maximum),
    "concatenate": _constant(lambda a, b: torch.cat((a, b), 1)),
    "stack": _constant(lambda a, b: torch.stack((a, b), 1).mean(1)),
    "residual": _constant(lambda a, b: torch.sub(a, 0.3).add_(b)),
}
FLAT = {
    "linear": lambda c, h: nn.Linear(h.shape[1], c.choices.choice((1, 3, 8)), bias=c.choices.random() < 0.7),
    "spectral linear": lambda c, h: parametrizations.spectral_norm(nn.Linear(h.shape[1], 4)),
    "weight-normed linear": lambda c, h: nn.utils.parametrizations.weight_norm(nn.Linear(h.shape[1], 4)),
    "layer norm": lambda c, h: nn.LayerNorm(h.shape[1]),
    "batch norm": lambda c, h: nn.BatchNorm1d(h.shape[1]),
    "softmax": _constant(lambda h: h.softmax(1)),
    "log_softmax": _constant(lambda h: h.log_softmax(1)),
    # not of zeros, where torch's second derivative of a norm is NaN
    "normalized": _constant(lambda h: F.normalize(h + 0.37, eps=0.1)),
    "logsumexp": _constant(lambda h: h.logsumexp(1, keepdim=True)),
    "outer": _constant(lambda h: torch.einsum("bi,bj->bij", h, h.tanh())),
    "rows": _constant(lambda h: h.unsqueeze(1)),
}
ROWS = {
    "conv": _conv,
    "transposed conv": lambda c, h: _conv(c, h, transposed=True),
    "attention": _constant(_attention),
    "sdpa": _constant(lambda h: F.scaled_dot_product_attention(h, h.tanh(), h)),
    "layer norm": lambda c, h: nn.LayerNorm(h.shape[2]),
    "max pool": _constant(lambda h: F.max_pool1d(h, 2, ceil_mode=True)),
    "average pool": _constant(lambda h: F.avg_pool1d(h, 2, ceil_mode=True)),
    "transposed": _constant(lambda h: h.transpose(1, 2)),
    "mean": _constant(lambda h: h.mean(2)),
    "matmul": _constant(lambda h: h @ h.transpose(1, 2)),
    "recurrent": _constant(lambda h: torch.stack([h[..., : i + 1].sum(-1) for i in range(h.shape[2])], -1)),
}
IMAGES = {
    "conv": _conv,
    "conv again": _conv,
    "spectral conv": lambda c, h: _conv(c, h, norm=parametrizations.spectral_norm),
    "old spectral conv": lambda c, h: _conv(c, h, norm=torch.nn.utils.spectral_norm),
    "transposed conv": lambda c, h: _conv(c, h, transposed=True),
    "group norm": _group_norm,
    "instance norm": lambda c, h: (
        nn.InstanceNorm2d(h.shape[1], affine=True) if math.prod(h.shape[2:]) > 1 else nn.Identity()
    ),
    "batch norm": lambda c, h: nn.BatchNorm2d(h.shape[1]),
    "average pool": _constant(lambda h: F.avg_pool2d(h, 2, ceil_mode=True)),
    "max pool": _constant(lambda h: F.max_pool2d(h, 2, ceil_mode=True)),
    "adaptive pool": _constant(lambda h: F.adaptive_avg_pool2d(h, 2)),
    "nearest": _constant(lambda h: F.interpolate(h, scale_factor=2)),
    "bilinear": _constant(lambda h: F.interpolate(h, size=(3, 4), mode="bilinear", align_corners=False)),
    "padded": _constant(lambda h: F.pad(h, (1, 0, 0, 2))),
    "permuted": _constant(lambda h: h.permute(0, 2, 3, 1)),
    "viewed": _constant(lambda h: h.contiguous().view(len(h), h.shape[1], -1)),
    "pixels": _constant(lambda h: h.mean((2, 3))),
    "channel shuffle": _constant(lambda h: F.pixel_unshuffle(h, 1)),
}
HEADS = {
    "linear": lambda c, h: nn.Sequential(nn.Flatten(), nn.Linear(h[0].numel(), 1)),
    "squeezed": lambda c, h: nn.Sequential(nn.Flatten(), nn.Linear(h[0].numel(), 1), nn.Flatten(0)),
    "logsumexp": lambda c, h: lambda v: v.flatten(1).logsumexp(1),
    "sum": lambda c, h: lambda v: v.flatten(1).sum(1),
    "mean of squares": lambda c, h: lambda v: v.flatten(1).square().mean(1),
    "norm": lambda c, h: lambda v: (v.flatten(1) - 0.3).norm(dim=1),
    "class": lambda c, h: lambda v: v.flatten(1)[:, 0],
}
