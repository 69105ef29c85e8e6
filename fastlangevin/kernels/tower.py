"""What the kernels of convnets read of a tower: `fastlangevin.score.stack.Conv` has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Conv(Protocol):
    """A 2-D convolution: weight (O, I / groups, kh, kw), bias (O,) or None, zero padding."""

    @property
    def weight(self) -> Tensor: ...
    @property
    def bias(self) -> Tensor | None: ...
    @property
    def stride(self) -> tuple[int, int]: ...
    @property
    def padding(self) -> tuple[int, int]: ...
    @property
    def dilation(self) -> tuple[int, int]: ...
    @property
    def groups(self) -> int: ...


Layers = Sequence[tuple[Conv, float]]  # each convolution with the slope below zero of the activation after it
