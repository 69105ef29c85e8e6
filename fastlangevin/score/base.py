"""What every engine and every score that it binds have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..kernels.arguments import ChainArgs, UpdateArgs
from ..network.target import Target


class ScoreEngine(ABC):
    """A way to compute the score of a target; `bind` gives the score for the steps of one call.

    Attributes:
        name: by which it is asked for.
    """

    name: ClassVar[str]

    def __init__(self, target: Target, precision: str) -> None:
        self.target, self.precision = target, precision

    def explain(self, device: torch.device) -> tuple[str, list[str]]:
        """The name of the engine that chains on `device` use, and why others are passed over."""
        return self.name, []

    @abstractmethod
    def bind(self, x: Tensor, args: Sequence[object]) -> BoundScore:
        """The score of chains with the shape, dtype and device of x, for the steps of one call.

        Args:
            args: extra arguments of the energy.
        """


class BoundScore(ABC):
    """∇ log-density of a target at each chain's state, with the extra arguments given once.

    Attributes:
        name: of the engine.
        is_piecewise_linear: whether the score's Jacobian is known to be zero wherever it exists.
        updates_with: the backend whose update `fused_step_` and `run_chain_` do, where there is either.
    """

    name: ClassVar[str]
    is_piecewise_linear: bool = False
    updates_with: ClassVar[str | None] = None

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """(B, *event) states to scores of the same shape and dtype."""

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor | None:
        """(B, *event) states to (B,) energies; None where only a score was given."""

    @abstractmethod
    def energy_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """(B,) energies (None where only a score was given) and the scores."""

    @abstractmethod
    def linearize(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor | None]]:
        """The scores at x, and the function of v (B, *event) that gives vᵀ ∂score/∂x, or None for zero. The function
        may be called once.
        """

    def fused_step_(self, x: Tensor, args: UpdateArgs) -> bool:
        """A whole Langevin step of x in place, where the kernels of the score do that too; False, and nothing, where
        they do not.
        """
        return False

    def run_chain_(self, x: Tensor, args: ChainArgs) -> bool:
        """All steps of a chain in place, where one kernel does them; False, and nothing, where none does."""
        return False
