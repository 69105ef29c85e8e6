"""The library's exceptions."""

from __future__ import annotations


class ChainDiverged(RuntimeError):
    """A chain's state became NaN or infinite.

    Attributes:
        step: the first step (0 … n_steps - 1 within the call) after which a state was not finite, or None where a
            second pass did not meet it again (an energy that draws random numbers of its own).
        n_chains: how many chains were not finite at the end of the call.
    """

    def __init__(self, message: str, *, step: int | None, n_chains: int) -> None:
        super().__init__(message)
        self.step = step
        self.n_chains = n_chains


class TrainingDiverged(ChainDiverged):
    """A training drifted apart: chains or energies that are not finite, too far apart, or saturated.

    Attributes:
        reason: what was seen.
        advice: what to try.
        iteration: of the training, the first in which it was seen.
    """

    def __init__(
        self, reason: str, advice: str, iteration: int, *, kept: str = "", step: int | None = None, n_chains: int = 0
    ) -> None:
        super().__init__(
            f"training diverged at iteration {iteration}: {reason}: {advice}{kept}", step=step, n_chains=n_chains
        )
        self.reason, self.advice, self.iteration = reason, advice, iteration


class BackendUnavailable(RuntimeError):
    """A backend, engine or graph that was asked for by name cannot be had; the message says why."""


class CheckpointError(ValueError):
    """A file that is not a checkpoint, is damaged, or does not fit the model."""
