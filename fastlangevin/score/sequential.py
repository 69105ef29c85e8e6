"""What all ways to compute the score of a stack have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from ..network import walk
from ..network.sequential import Sequential
from ..network.target import Target
from .autograd import BoundScore


class BoundStack(BoundScore):
    """The score of a `Sequential`, by the kernels of a subclass; energies, and second derivatives, by autograd.

    Attributes:
        kernels: what the subclass computes with, for people to read.
    """

    name = "convnet"
    kernels: ClassVar[str]

    def __init__(self, stack: Sequential, precision: str, x: Tensor) -> None:
        super().__init__(Target("log_density", functools.partial(walk.log_density, stack)), precision, ())
        self.stack = stack
        self.is_piecewise_linear = stack.is_piecewise_linear

    @staticmethod
    def unsupported(stack: Sequential, precision: str, x: Tensor) -> str | None:
        """Why the kernels cannot serve a stack at states like x, or None where they can; may load a kernel library."""
        return None

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def energy_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        return self.energy(x), self(x)

    def linearize(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor | None]]:
        if self.is_piecewise_linear:
            return self(x), lambda v: None
        return super().linearize(x)
