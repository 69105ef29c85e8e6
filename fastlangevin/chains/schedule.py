"""Step sizes, noise levels and temperatures of chains: one number, one for each step, for each chain, or for both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import TypeGuard

import torch
from torch import Tensor

Schedule = float | Sequence[float] | Callable[[int], float] | Tensor
# n_steps numbers that are the same for all chains; or (n_steps or 1, n chains) float64, 1: the same for all steps.
Values = list[float] | Tensor


def check(name: str, schedule: Schedule) -> Schedule:
    """Checks a tensor over chains, and returns it as a float64 copy. Any other schedule is returned as it is.

    Raises:
        ValueError: a tensor of more than two dimensions, or a value that is negative or not finite.
    """
    if not _is_over_chains(schedule):
        return schedule
    if schedule.dim() > 2 or schedule.is_complex() or schedule.dtype == torch.bool:
        raise ValueError(
            f"{name} as a tensor must be of numbers over chains, (B,), or over steps and chains, (n_steps, B), got "
            f"{schedule.dtype} {tuple(schedule.shape)}"
        )
    values = schedule.detach().to(torch.float64, copy=True)
    if not ((values >= 0) & (values < math.inf)).all():
        raise ValueError(f"{name} must be finite and not negative, got {values.min()} … {values.max()}")
    return values


def resolve(name: str, schedule: Schedule, n_steps: int) -> Values:
    """The schedule's values at n_steps steps.

    Args:
        name: of the argument, for messages.
        schedule: a number (the same at every step), a sequence of n_steps numbers, or a callable of
            k = 0 … n_steps - 1, each for all chains; a tensor (B,) over chains, or (n_steps, B) over both, by `check`.

    Raises:
        TypeError, ValueError: not one of these, another length, or a value that is negative or not finite.
    """
    if _is_over_chains(schedule):
        if schedule.dim() == 2 and len(schedule) != n_steps:
            raise ValueError(
                f"{name} as a tensor over steps and chains must have n_steps = {n_steps} rows, got {len(schedule)}"
            )
        return schedule if schedule.dim() == 2 else schedule[None]
    if callable(schedule):
        values = [schedule(k) for k in range(n_steps)]
    elif isinstance(schedule, (float, Real, Tensor)):
        return [_check(name, schedule)] * n_steps
    else:
        try:
            values = [] if isinstance(schedule, str) else list(schedule)
        except TypeError:
            values = []
        if not values:
            raise TypeError(
                f"{name} must be a number, a sequence of n_steps numbers, a callable of the step, or a tensor over "
                f"chains, got {schedule!r}"
            )
        if len(values) != n_steps:
            raise ValueError(f"{name} as a sequence must have n_steps = {n_steps} values, got {len(values)}")
    return [_check(f"{name} at step {k}", value) for k, value in enumerate(values)]


def positive_step_sizes(step_size: Schedule, n_steps: int) -> list[float]:
    """The step size of each step: a number, a sequence of n_steps numbers or a callable of the step.

    Raises:
        TypeError, ValueError: not one of these, or a value that is not positive and finite.
    """
    if isinstance(step_size, Tensor) and step_size.dim():
        raise TypeError(f"step_size must be the same for all chains, got a tensor of shape {tuple(step_size.shape)}")
    values = resolve("step_size", step_size, n_steps)
    assert isinstance(values, list)
    least = min(values)
    if not least > 0:
        raise ValueError(f"step_size must be positive, got {least}")
    return values


def langevin_noise(step_sizes: Values, temperatures: Values) -> Values:
    """σ = sqrt(2 η T): the noise with which the chain targets exp(-U / T) as η → 0."""
    if not isinstance(step_sizes, Tensor) and not isinstance(temperatures, Tensor):
        return [math.sqrt(2.0 * eta * t) for eta, t in zip(step_sizes, temperatures, strict=True)]
    given = step_sizes if isinstance(step_sizes, Tensor) else temperatures
    eta, t = (_over_chains(values, given.device) for values in (step_sizes, temperatures))  # type: ignore[union-attr]
    return (2.0 * eta * t).sqrt()


def of_chains(
    name: str, values: Values, n_steps: int, chains: range, device: torch.device
) -> Sequence[float] | Sequence[Tensor]:
    """The value of each step: a number, or float64 (len(chains),) on `device`.

    Args:
        chains: places in the whole batch, by which the values are counted.

    Raises:
        ValueError: there are values for fewer chains.
    """
    if not isinstance(values, Tensor):
        return values
    if chains.stop > values.shape[1]:
        raise ValueError(
            f"{name} must have a value for each chain of the whole batch: it has {values.shape[1]}, and the call runs "
            f"chains {chains.start} to {chains.stop - 1}"
        )
    rows = values[:, chains.start : chains.stop].to(device).contiguous().unbind()
    return list(rows) if len(rows) == n_steps else list(rows) * n_steps


def of_elements(value: float | Tensor, x: Tensor) -> float | Tensor:
    """A step's value such that it multiplies the elements of states (B, *event) of x's dtype."""
    return value.to(x.dtype).view(-1, *[1] * (x.dim() - 1)) if isinstance(value, Tensor) else value


def _over_chains(values: Values, device: torch.device) -> Tensor:
    """(n_steps or 1, n chains or 1), 1 for values that are the same for all."""
    if isinstance(values, Tensor):
        return values.to(device)
    same = values[:1] if values.count(values[0]) == len(values) else values
    return torch.tensor(same, dtype=torch.float64, device=device)[:, None]


def _is_over_chains(schedule: object) -> TypeGuard[Tensor]:
    return isinstance(schedule, Tensor) and schedule.dim() > 0


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
