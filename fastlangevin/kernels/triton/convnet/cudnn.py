"""A layer's convolution and its input gradient by torch, which calls cuDNN on a GPU: in place of a matrix product of
ours where `tune` has found it faster together with the pass of `pointwise` that it needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor


def convolution(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Without bias, with padding 1: x (B, H, W, I) and weight (O, kernel, kernel, I) to (B, H', W', O) of x's type."""
    with _deterministic():
        y = torch.conv2d(_channels_last(x), _channels_last(weight), None, stride, 1)
    return y.permute(0, 2, 3, 1).contiguous()


def input_gradient(gradient: Tensor, like: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The gradient with respect to an input like `like`, whose values are not read: (B, H', W', O) to (B, H, W, I)."""
    tensors = (_channels_last(each) for each in (gradient, like, weight))
    geometry = ((stride, stride), (1, 1), (1, 1), False, (0, 0), 1)
    with _deterministic():
        y = torch.ops.aten.convolution_backward(*tensors, None, *geometry, (True, False, False))[0]
    return y.permute(0, 2, 3, 1).contiguous()


def _channels_last(nhwc: Tensor) -> Tensor:
    """A view: (N, H, W, C) is the memory of torch's channels last."""
    return nhwc.permute(0, 3, 1, 2)


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Without algorithms that add atomically, so that a score has the same bits at every run."""
    flags = torch.backends.cudnn
    before = flags.deterministic
    flags.deterministic = True
    try:
        yield
    finally:
        flags.deterministic = before
