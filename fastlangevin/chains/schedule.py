"""Step sizes and noise levels of a chain: a number, one value per step, or a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real

import torch

Schedule = float | Sequence[float] | Callable[[int], float] | torch.Tensor


def resolve(name: str, schedule: Schedule, n_steps: int) -> list[float]:
    """The schedule's n_steps values.

    Args:
        name: of the argument, for messages.
        schedule: a number (the same at every step), a sequence or 1-d tensor of n_steps numbers, or a callable of
            k = 0 … n_steps - 1.

    Raises:
        TypeError, ValueError: not one of these, another length, or a value that is negative or not finite.
    """
    if callable(schedule):
        values = [schedule(k) for k in range(n_steps)]
    elif isinstance(schedule, Real) or (isinstance(schedule, torch.Tensor) and schedule.dim() == 0):
        return [_check(name, schedule)] * n_steps
    else:
        try:
            values = list(schedule)  # type: ignore[arg-type]
        except TypeError:
            raise TypeError(
                f"{name} must be a number, a sequence of n_steps numbers, or a callable of the step, "
                f"got {type(schedule).__name__}"
            ) from None
        if len(values) != n_steps:
            raise ValueError(f"{name} as a sequence must have n_steps = {n_steps} values, got {len(values)}")
    return [_check(f"{name} at step {k}", value) for k, value in enumerate(values)]


def langevin_noise(step_sizes: Sequence[float], temperature: float) -> list[float]:
    """σ = sqrt(2 η T): the noise with which the chain targets exp(-U / T) as η → 0."""
    return [math.sqrt(2.0 * eta * temperature) for eta in step_sizes]


def _check(name: str, value: object) -> float:
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {number}")
    return number


def check_temperature(temperature: float) -> float:
    """The temperature as a float. Raises ValueError if it is not finite and not negative."""
    if not isinstance(temperature, Real) or isinstance(temperature, bool) or not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be finite and not negative, got {temperature!r}")
    return float(temperature)
