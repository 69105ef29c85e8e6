"""Counts the multiply-adds of an evaluation, without products of padding, which are not needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastlangevin.network.operator_mode import OperatorMode

_aten = torch.ops.aten


def of_each_product(function: Callable[..., Any], *args: Tensor) -> list[int]:
    """The multiply-adds of each convolution and matrix product in `function(*args)`, in their order."""
    with torch.no_grad(), _Counter() as counter:
        function(*args)
    return counter.counts


class _Counter(OperatorMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        if operation is _aten.convolution.default:
            self.counts.append(_convolution(result, *args))
        elif operation in (_aten.mm.default, _aten.bmm.default):
            self.counts.append(result.numel() * args[0].shape[-1])
        elif operation is _aten.addmm.default:
            self.counts.append(result.numel() * args[1].shape[-1])
        return result


def _convolution(
    result: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    *_: Any,
) -> int:
    """Pairs of pixel and tap whose other pixel is not padding, for each pair of channels.

    Of a transposed convolution: pairs of input pixel and tap whose output is not cropped.
    """
    few, many = (x, result) if transposed else (result, x)
    numbers = zip(few.shape[2:], many.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    pairs = math.prod(_pairs(*axis) for axis in numbers)
    return len(x) * weight.shape[0] * weight.shape[1] * pairs


def _pairs(n_few: int, n_many: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return sum(0 <= i * stride - padding + tap * dilation < n_many for i in range(n_few) for tap in range(kernel))
