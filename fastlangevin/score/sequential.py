"""The base classes of engines for consecutive supported layers, and of the implementations of their scores."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..errors import BackendUnavailable
from ..network import walk
from ..network.errors import NotRecognised
from ..network.inputs import Inputs
from ..network.sequential import Sequential
from ..network.target import Target
from ..network.tracing import trace
from . import cpu_precision
from .autograd import AutogradScore
from .base import Explanation, ScoreEngine


class SequentialScore(AutogradScore):
    """The score of a `Sequential`, by the kernels of a subclass; energies by torch's operators unless the kernels have
    them, and second derivatives by autograd.

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
    def slower(network: Sequential, precision: str, x: Tensor) -> str | None:
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

    def __init__(self, target: Target, precision: str) -> None:
        super().__init__(target, precision)
        self._last: Explanation | None = None

    def explain(self, device: torch.device, shape: tuple[int, ...] | None = None) -> Explanation:
        return self._last or super().explain(device, shape)

    def bind(self, x: Tensor, inputs: Inputs) -> SequentialScore:
        try:
            network = trace(self.target, x.shape, x.dtype, x.device, inputs)
            choice = choose(network, self.precision, x, self.implementations, only_if_fast=False)
        except NotRecognised as error:
            raise BackendUnavailable(
                f"engine={self.name!r} cannot be used for this {self.target.kind}: {error}"
            ) from None
        self._last = choice.explanation()
        return choice.bind(network, x)


class Choice(NamedTuple):
    """An implementation, the precision that it computes in, and why those before it are not used."""

    implementation: type[SequentialScore]
    precision: str
    reasons: list[str]

    def bind(self, network: Sequential, x: Tensor) -> SequentialScore:
        return self.implementation(network, self.precision, x)

    def explanation(self) -> Explanation:
        found = self.implementation
        return Explanation(
            found.name, self.precision, [f"the {found.name} engine computes with {found.kernels}", *self.reasons]
        )


def choose(
    network: Sequential, precision: str, x: Tensor, implementations: Implementations, only_if_fast: bool = True
) -> Choice:
    """The first implementation that supports a network at states like x and is not slower than others.

    Args:
        only_if_fast: whether there is none if all that support the network are slower than others; otherwise it is the
            first of those.

    Raises:
        NotRecognised: there is none.
    """
    ways, reasons = cpu_precision.ways(precision, x.device), cpu_precision.reasons(precision, x.device)
    slow: Choice | None = None
    for implementation in implementations:
        for way in ways:
            why = implementation.unsupported(network, way, x)
            if why is None:
                why = implementation.slower(network, way, x)
                if why is None and way != ways[0]:
                    why = cpu_precision.why_bfloat16_of(network, len(x))
                if why is None:
                    return Choice(implementation, way, reasons)
                slow = slow or Choice(implementation, way, list(reasons))
            in_way = "" if len(ways) == 1 else f" in {way}"
            reasons.append(f"{implementation.kernels}{in_way} not used: {why}")
    if slow is None or only_if_fast:
        raise NotRecognised("; ".join(reasons))
    return slow
