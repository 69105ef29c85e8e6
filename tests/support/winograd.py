"""The terms that csrc/cpu/convnet_winograd.h adds up, of absolute values, on which its errors depend.

Of y0 = (d0 - d1) g0 + d1 (g0 + g1) these are |d0 g0| + |d1 g1| + 2 |d1 g0|, and of y1 = d1 (g0 + g1) + (d2 - d1) g1
they are |d1 g0| + |d2 g1| + 2 |d1 g1|: those of the convolution with |g1| + 2 |g0| for |g1|, or |g0| + 2 |g1| for |g0|.
So it is along each axis.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d


def applies(weight: Tensor, stride: tuple[int, int]) -> bool:
    """Whether the kernel is twice as long as its stride: what may be computed so."""
    return weight.dim() == 4 and tuple(weight.shape[2:]) == tuple(2 * s for s in stride)


def _widened(weight: Tensor, dim: int, first: bool) -> Tensor:
    """Twice one half of the weights added to the other: to the first, or to the second."""
    halves = list(weight.chunk(2, dim))
    halves[not first] = halves[not first] + 2 * halves[first]
    return torch.cat(halves, dim)


def forward(
    h: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Of conv2d: |h|, |weight| and |bias| to the sums of absolute terms."""
    out = torch.empty_like(conv2d(h, weight, bias, stride, padding))
    for y, x in itertools.product((0, 1), repeat=2):
        changed = _widened(_widened(weight, 2, y == 1), 3, x == 1)
        out[..., y::2, x::2] = conv2d(h, changed, bias, stride, padding)[..., y::2, x::2]
    return out


def _odd(size: int, stride: int, padding: int) -> Tensor:
    """Whether pixels are the second, fourth, … of those with the same place modulo the stride."""
    place = torch.arange(size) + padding
    residue = place % stride
    first = -((residue - padding) // stride)  # ceil((padding - residue) / stride)
    return (place // stride - first) % 2 == 1


def gradient(g: Tensor, weight: Tensor, like: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Of conv2d's input gradient, of an input like `like`: |g| and |weight| to the sums of absolute terms.

    Its window runs backwards through the kernel: the second half of the weights is g0.
    """
    size = like.shape[2:]
    rest = [n + 2 * p - 2 * s - (o - 1) * s for n, p, s, o in zip(size, padding, stride, g.shape[2:], strict=True)]
    rows, columns = (_odd(n, s, p) for n, s, p in zip(size, stride, padding, strict=True))
    out = torch.empty_like(like)
    for y, x in itertools.product((False, True), repeat=2):
        changed = _widened(_widened(weight, 2, not y), 3, not x)
        found = conv_transpose2d(g, changed, None, stride, padding, rest)
        out = torch.where((rows == y)[:, None] & (columns == x), found, out)
    return out
