"""Checks of settings: each maps (name, value) to the value as plain numbers, strings, lists and dicts."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from ..chains.schedule import resolve as resolve_schedule
from ..data.values import check_value_range
from ..samplers.langevin import Langevin, check_pair
from ..samplers.replay_buffer import ReplayBuffer
from ..validation import as_index, check_int, unknown
from . import piecewise

Check = Callable[[str, Any], Any]

positive_schedule: Check = functools.partial(piecewise.check, positive=True)
schedule: Check = functools.partial(piecewise.check, positive=False)

_SET_BY_TRAINING = {
    "sampler": ("energy", "log_density", "score", "seed", "generator"),
    "buffer": ("shape", "init", "bounds", "seed", "generator", "device", "per_class"),
}


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


def sampler(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Checks options of `Langevin` and returns them in the form in which a file stores them: schedules as lists."""
    for option in _SET_BY_TRAINING["sampler"]:
        if option in options:
            raise ValueError(f"{name} must not contain {option!r}, which training sets")
    _check_names(name, options, "sampler", Langevin)
    if callable(options.get("init")):
        raise ValueError(f"{name}'s init must be 'uniform' or 'normal' in training: a function cannot be saved")
    checked = Langevin.check_options(without_unread_temperature(options))
    plain = {option: _plain(value) for option, value in options.items()}
    for option in ("step_size", "noise_std", "temperature"):
        value = plain.get(option)
        if value is not None and not isinstance(value, (int, float)):
            values = resolve_schedule(option, value, checked["n_steps"])
            if isinstance(values, Tensor):
                raise ValueError(f"{name}'s {option} must not differ between chains in training, got a tensor")
            plain[option] = values
    return plain


def check_sampler_pair(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Checks that the given options of `Langevin` determine the noise.

    Args:
        given: the caller's options. step_size needs noise_std among them, even if the defaults have one.
        defaults: the options of the recipe or run, whose noise_std a given temperature refers to.

    Raises:
        ValueError: step_size without noise_std, or a temperature other than 1 without noise_std=None.
    """
    if "step_size" not in given and "noise_std" not in given and "noise_std" in defaults:
        given = {**given, "noise_std": defaults["noise_std"]}
    check_pair(given)


def without_unread_temperature(options: Mapping[str, Any]) -> dict[str, Any]:
    """Drops a temperature that has no effect because noise_std is a number. Runs of version 0.1 may have stored one."""
    unread = options.get("noise_std") is not None
    return {name: value for name, value in options.items() if not (unread and name == "temperature")}


def buffer(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options of `ReplayBuffer` in the form in which a file stores them. `ReplayBuffer` checks their values."""
    for option in _SET_BY_TRAINING["buffer"]:
        if option in options:
            raise ValueError(f"{name} must not contain {option!r}: training sets it and does not use classes")
    _check_names(name, options, "buffer", ReplayBuffer)
    return {option: _plain(value) for option, value in options.items()}


def _option_names(setting: str, made: type) -> list[str]:
    return [name for name in inspect.signature(made).parameters if name not in _SET_BY_TRAINING[setting]]


def _check_names(name: str, options: Iterable[str], setting: str, made: type) -> None:
    """Raises TypeError for an option that `made` does not have."""
    names = _option_names(setting, made)
    for option in options:
        if option not in names:
            raise TypeError(str(unknown(f"{name}'s options", option, names)))


def _plain(value: Any) -> Any:
    """Converts NumPy numbers to Python numbers and tuples to lists."""
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, Real) and not isinstance(value, (bool, int)) else value
