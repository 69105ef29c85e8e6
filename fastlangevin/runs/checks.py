"""Checks of settings: each maps (name, value) to the value as plain numbers, strings, lists and dicts."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from ..data.values import check_value_range
from ..samplers.replay_buffer import ReplayBuffer
from ..validation import as_index, check_int, unknown
from . import piecewise

Check = Callable[[str, Any], Any]

positive_schedule: Check = functools.partial(piecewise.check, positive=True)
schedule: Check = functools.partial(piecewise.check, positive=False)

_SET_BY_TRAINING = ("shape", "init", "bounds", "seed", "generator", "device", "per_class", "velocities")  # of a buffer


def int_or_none(name: str, value: Any) -> int | None:
    return None if value is None else check_int(name, value)


def positive_or_none(name: str, value: Any) -> float | None:
    return None if value is None else piecewise.check_number(name, value, positive=True)


def count(name: str, value: Any) -> int:
    return check_int(name, value, 0)


def limit(name: str, value: Any) -> float:
    """A positive number, or infinity for no limit."""
    return math.inf if value == math.inf else piecewise.check_number(name, value, positive=True)


def share(name: str, value: Any) -> float:
    """A number in [0, 1]."""
    number = piecewise.check_number(name, value)
    if number > 1:
        raise ValueError(f"{name} must lie in 0 … 1, got {value!r}")
    return number


def share_below_one(name: str, value: Any) -> float:
    """A number in [0, 1)."""
    number = piecewise.check_number(name, value)
    if number >= 1:
        raise ValueError(f"{name} must be at least 0 and less than 1, got {value!r}")
    return number


def betas(name: str, value: Any) -> list[float]:
    values = list(value) if isinstance(value, (tuple, list)) else []
    if len(values) != 2:
        raise ValueError(f"{name} must be two numbers (β1, β2), got {value!r}")
    return [share_below_one(f"{name}[{i}]", beta) for i, beta in enumerate(values)]


def interval(name: str, value: Any) -> list[float]:
    return list(check_value_range(name, value))


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def one_of(*names: str) -> Check:
    def check(name: str, value: Any) -> str:
        if value not in names:
            raise unknown(name, value, names)
        return value

    return check


def seed(name: str, value: Any) -> int:
    number = as_index(value)
    if number is None or not 0 <= number < 2**64:
        raise ValueError(f"{name} must be an int in 0 … 2^64 - 1, got {value!r}")
    return number


def buffer(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options of `ReplayBuffer` in the form in which a file stores them. `ReplayBuffer` checks their values."""
    for option in _SET_BY_TRAINING:
        if option in options:
            raise ValueError(f"{name} must not contain {option!r}: training sets it and does not use classes")
    names = [option for option in inspect.signature(ReplayBuffer).parameters if option not in _SET_BY_TRAINING]
    for option in options:
        if option not in names:
            raise TypeError(str(unknown(f"{name}'s options", option, names)))
    return {option: plain(value) for option, value in options.items()}


def plain(value: Any) -> Any:
    """Converts NumPy numbers to Python numbers and tuples to lists."""
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, Real) and not isinstance(value, (bool, int)) else value
