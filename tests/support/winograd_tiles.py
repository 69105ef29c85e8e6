"""The terms that csrc/cpu/program_winograd_impl.h adds up, of absolute values, on which its errors depend.

Of y0 = m0 + m1 + m2 these are at most (|d0| + |d2|) |g0| + (|d1| + |d2|) s, s = |g0| + |g1| + |g2|: those of the
convolution with the weights (|g0|, s, |g0| + s). Of y1 = m1 - m2 - m3 they are those with (s + |g2|, s, |g2|), of its
own window. With two weights y0 = m0 + m1 has at most (|d0| + |d1|) |g0| + |d1| s, s = |g0| + |g1|, those with the
weights (|g0|, |g0| + s), and y1 = m1 + m2 those with (s + |g1|, |g1|). So it is along each axis.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn.functional import conv2d

Pair = tuple[int, int]


def _widened(weight: Tensor, dim: int, is_second: bool) -> Tensor:
    first, *middle, last = weight.unbind(dim)
    s = weight.sum(dim)
    middle = [s for _ in middle]
    return torch.stack((s + last, *middle, last) if is_second else (first, *middle, first + s), dim)


def terms(h: Tensor, weight: Tensor, bias: Tensor | None, padding: Pair, dilation: Pair) -> Tensor:
    """Of conv2d: |h|, |weight| and |bias| to the sums of absolute terms."""
    out = conv2d(h, weight, bias, 1, padding, dilation)
    rows, columns = (torch.arange(n) // d % 2 == 1 for n, d in zip(out.shape[2:], dilation, strict=True))
    for y, x in itertools.product((False, True), repeat=2):
        found = conv2d(h, _widened(_widened(weight, 2, y), 3, x), bias, 1, padding, dilation)
        out = torch.where((rows == y)[:, None] & (columns == x), found, out)
    return out


def gradient_weight(weight: Tensor) -> Tensor:
    """With it, conv2d is the input gradient of conv2d: k × k weights, with a padding of (k - 1) dilation - padding."""
    return weight.flip(2, 3).transpose(0, 1)
