"""The base classes of engines and of the scores that they bind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..kernels.arguments import ChainArgs, MetropolisMemory, TransitionArgs, TransitionKind, UpdateArgs
from ..network.inputs import Inputs
from ..network.target import Target
from . import cpu_precision


class Explanation(NamedTuple):
    """The name of the engine that computes a score, the precision that it computes in, and why others are not used."""

    engine: str
    precision: str
    reasons: list[str]


class ScoreEngine(ABC):
    """Computes the score of a target. `bind` returns the score for the steps of one call.

    Attributes:
        name: by which it is requested.
    """

    name: ClassVar[str]

    def __init__(self, target: Target, precision: str) -> None:
        self.target, self.precision = target, precision

    def precision_on(self, device: torch.device) -> str:
        """What torch's operators compute in on a device, for `precision`."""
        return cpu_precision.ways(self.precision, device)[0]

    def explain(self, device: torch.device, shape: tuple[int, ...] | None = None) -> Explanation:
        """How the score of chains on `device` is computed.

        Args:
            shape: (B, *event) of the states; None: that of the last call, or what the network's first layer suggests.
        """
        return Explanation(self.name, self.precision_on(device), cpu_precision.reasons(self.precision, device))

    @abstractmethod
    def bind(self, x: Tensor, inputs: Inputs) -> BoundScore:
        """The score of chains with the shape, dtype and device of x, for the steps of one call.

        Args:
            inputs: extra arguments of the energy.
        """


class BoundScore(ABC):
    """∇ log-density of a target at each chain's state, with the extra arguments given once.

    Attributes:
        name: of the engine.
        is_piecewise_linear: whether the score's Jacobian is known to be zero wherever it exists.
        updates_with: the backend whose update `fused_step_` and `run_chain_` do, if either is implemented.
    """

    name: ClassVar[str]
    is_piecewise_linear: bool = False
    updates_with: ClassVar[str | None] = None

    def at(self, k: int) -> BoundScore:
        """The score at step k of the call, if extra arguments change from step to step."""
        return self

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """(B, *event) states to scores of the same shape and dtype."""

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor | None:
        """(B, *event) states to (B,) energies; None if only a score was given."""

    @abstractmethod
    def energy_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """(B,) energies (None if only a score was given) and the scores."""

    @abstractmethod
    def linearize(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor | None]]:
        """The scores at x, and a function of v (B, *event) that returns vᵀ ∂score/∂x, or None for zero. The
        function may be called only once.
        """

    def fused_step_(self, x: Tensor, args: UpdateArgs) -> bool:
        """Does a whole Langevin step of x in place and returns True, if the kernels of the score include the update.
        Otherwise returns False and does nothing.
        """
        return False

    def runs_transitions(self, x: Tensor, kind: TransitionKind) -> bool:
        """Whether kernels of the score run whole chains of other transitions than Langevin steps at states like x."""
        return False

    def run_transitions_(self, x: Tensor, memory: MetropolisMemory | Tensor, args: TransitionArgs) -> None:
        """Does all transitions of a chain in place, where `runs_transitions`.

        Args:
            x: contiguous.
            memory: of Metropolis tests, whose scores are neither read nor written and whose energies are not read but
                may be written without the constants of U; or velocities, of underdamped dynamics.
        """
        raise NotImplementedError

    def run_chain_(self, x: Tensor, args: ChainArgs) -> bool:
        """Does all steps of a chain in place and returns True, if kernels of the score run them as a whole. Otherwise
        returns False and does nothing.
        """
        return False
