"""Errors of the library's own, and the wording that all of them share."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable
from numbers import Real


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


def check_int(name: str, value: object, least: int = 1) -> int:
    """The value, an int of at least `least`, or the error that says what came instead."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
    return number


def check_positive(name: str, value: object) -> float:
    """The value as a float, positive and finite, or the error that says what came instead."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return float(value)


def check_shape(shape: object) -> tuple[int, ...]:
    """The shape as a tuple of ints, none negative, or the error that says what came instead."""
    try:
        numbers = tuple(operator.index(n) for n in shape)  # type: ignore[attr-defined]
    except TypeError:
        numbers = (-1,)
    if any(n < 0 for n in numbers):
        raise ValueError(f"shape must be a sequence of ints that are not negative, got {shape!r}")
    return numbers


def nearest(name: object, names: Iterable[str]) -> str:
    """`"; did you mean 'digits'?"` for the closest of `names`, or the empty string where none is close."""
    close = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(argument: str, got: object, names: Iterable[str]) -> ValueError:
    """The error for a name that is not among `names`."""
    names = list(names)
    return ValueError(f"{argument} must be one of {', '.join(map(repr, names))}, got {got!r}{nearest(got, names)}")
