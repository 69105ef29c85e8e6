"""The base classes of engines for consecutive supported layers, and of the implementations of their scores."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from ..errors import BackendUnavailable
from ..network import walk
from ..network.errors import NotRecognised
from ..network.inputs import Inputs
from ..network.sequential import Sequential
from ..network.target import Target
from ..network.tracing import trace
from .autograd import AutogradScore
from .base import ScoreEngine


class SequentialScore(AutogradScore):
    """The score of a `Sequential`, by the kernels of a subclass; energies, and second derivatives, by autograd.

    Attributes:
        kernels: what the subclass computes with, as text for plans.
    """

    kernels: ClassVar[str]

    def __init__(self, network: Sequential, precision: str, x: Tensor) -> None:
        super().__init__(Target("log_density", functools.partial(walk.log_density, network)), precision, Inputs())
        self.network = network
        self.is_piecewise_linear = network.is_piecewise_linear

    @staticmethod
    def unsupported(network: Sequential, precision: str, x: Tensor) -> str | None:
        """Why the kernels do not support a network at states like x, or None if they do. May load a library."""
        return None

    @staticmethod
    def slower(network: Sequential, x: Tensor) -> str | None:
        """Why other kernels are faster at states like x, or None. It says the same for any number of threads, because
        results depend on the kernels.
        """
        return None

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...

    def energy_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        return self.energy(x), self(x)

    def linearize(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor | None]]:
        if self.is_piecewise_linear:
            return self(x), lambda v: None
        return super().linearize(x)


Implementations = tuple[type[SequentialScore], ...]


class SequentialEngine(ScoreEngine):
    """An engine for energies that `tracing.trace` recognises.

    Attributes:
        implementations: of the score, the fastest first.

    Raises (by `bind`):
        BackendUnavailable: the energy is not recognised as a sequence of supported layers, or no implementation
            supports it; the message gives the reason.
    """

    implementations: ClassVar[Implementations]

    def bind(self, x: Tensor, inputs: Inputs) -> SequentialScore:
        try:
            network = trace(self.target, x.shape, x.dtype, x.device, inputs)
            implementation, _ = choose(network, self.precision, x, self.implementations, only_if_fast=False)
            return implementation(network, self.precision, x)
        except NotRecognised as error:
            raise BackendUnavailable(
                f"engine={self.name!r} cannot be used for this {self.target.kind}: {error}"
            ) from None


def choose(
    network: Sequential, precision: str, x: Tensor, implementations: Implementations, only_if_fast: bool = True
) -> tuple[type[SequentialScore], list[str]]:
    """The first implementation that supports a network at states like x, and why those before it are not used.

    Args:
        only_if_fast: whether to leave out those that say that others are faster.

    Raises:
        NotRecognised: no implementation does.
    """
    reasons: list[str] = []
    for implementation in implementations:
        why = implementation.unsupported(network, precision, x)
        if why is None and only_if_fast:
            why = implementation.slower(network, x)
        if why is None:
            return implementation, reasons
        reasons.append(f"{implementation.kernels} not used: {why}")
    raise NotRecognised("; ".join(reasons))
