"""The score of convolutions with (leaky) ReLU in a row, by kernels of our own that run all layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..kernels.cpu import convnet as convnet_cpu
from ..kernels.triton import convnet as convnet_triton
from ..network import walk
from ..network.layers import Activation, Conv
from ..network.sequential import Sequential
from .sequential import BoundStack

Tower = list[tuple[Conv, float]]


def as_tower(stack: Sequential) -> Tower | None:
    """The convolutions before the affine tail, each with the slope below zero of what follows it; None for any other
    kind of stack.
    """
    layers = stack.layers[: stack.tail]
    if stack.quadratic:
        return None
    tower = []
    for conv, activation in zip(layers[::2], layers[1::2], strict=False):
        if not isinstance(conv, Conv) or not isinstance(activation, Activation) or activation.slope is None:
            return None
        tower.append((conv, activation.slope))
    return tower if 2 * len(tower) == len(layers) > 0 else None


class NativeScore(BoundStack):
    """One C++ call a step for small images on a CPU (`kernels/convnet_cpu.py`)."""

    kernels = "native kernels"

    def __init__(self, stack: Sequential, precision: str, x: Tensor) -> None:
        super().__init__(stack, precision, x)
        last = walk.last_gradient(stack, x.device)[0]
        self._packed = convnet_cpu.pack(as_tower(stack) or [], last, x.shape[1:], precision)

    @staticmethod
    def unsupported(stack: Sequential, precision: str, x: Tensor) -> str | None:
        tower = as_tower(stack)
        if x.device.type != "cpu":
            return f"they run on the CPU, not on {x.device.type}"
        if tower is None:
            return "they are for convolutions with (leaky) ReLU in a row"
        return convnet_cpu.unsupported(tower, x.shape[1:], precision)

    def __call__(self, x: Tensor) -> Tensor:
        return convnet_cpu.score(self._packed, x.to(torch.float32)).to(x.dtype)


class FusedScore(BoundStack):
    """Two Triton kernels a layer and step on a GPU, the Langevin update in the last (`kernels/triton/convnet.py`)."""

    kernels = "fused Triton kernels"
    updates_with = "triton"

    def __init__(self, stack: Sequential, precision: str, x: Tensor) -> None:
        super().__init__(stack, precision, x)
        last = walk.last_gradient(stack, x.device)[0]
        self._packed = convnet_triton.pack(as_tower(stack) or [], last, tuple(x.shape[1:]), precision)

    @staticmethod
    def unsupported(stack: Sequential, precision: str, x: Tensor) -> str | None:
        tower = as_tower(stack)
        if tower is None:
            return "they are for convolutions with (leaky) ReLU in a row"
        return convnet_triton.unsupported(tower, tuple(x.shape[1:]), precision, x.device)

    def __call__(self, x: Tensor) -> Tensor:
        return convnet_triton.score(self._packed, x.to(torch.float32).contiguous()).to(x.dtype)

    def fused_step_(self, x: Tensor, *numbers: Any) -> bool:
        if x.dtype != torch.float32 or not x.is_contiguous():
            return False
        convnet_triton.step_(self._packed, x, *numbers)
        return True
