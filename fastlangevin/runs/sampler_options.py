"""The options of a run's sampler: {"kind": "mala", "step_size": …}. Without a kind it is a `Langevin`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..chains.schedule import resolve as resolve_schedule
from ..samplers.base import Sampler
from ..samplers.kinds import DEFAULT, KINDS, of_kind
from ..samplers.langevin import Langevin, check_pair
from ..samplers.options import NOISE, TARGETS
from ..validation import unknown
from .checks import plain

_KIND = "kind"
_OVER_STEPS = ("step_size", "noise_std", "temperature")  # options that may be schedules


def class_of(options: Mapping[str, Any]) -> type[Sampler]:
    """The class of the sampler with these options. Raises ValueError for an unknown kind."""
    return of_kind("sampler's kind", options.get(_KIND, DEFAULT))


def check(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Checks options and returns them in the form in which a file stores them: schedules as lists, and the kind unless
    it is the default one, which the files of earlier versions do not name.

    Raises:
        TypeError, ValueError: an option that the sampler does not have or that training sets, a value that it does not
            accept, or no step size where it has no default.
    """
    for option in (*TARGETS, *NOISE):
        if option in options:
            raise ValueError(f"{name} must not contain {option!r}, which training sets")
    made, own = class_of(options), _without_kind(options)
    _check_names(f"{name}'s options" + ("" if made is Langevin else f" of kind {options[_KIND]!r}"), own, made)
    if callable(own.get("init")):
        raise ValueError(f"{name}'s init must be 'uniform' or 'normal' in training: a function cannot be saved")
    if isinstance(own.get("mass"), Tensor):
        raise ValueError(f"{name}'s mass must be a number in training, got a tensor")
    if own.get("preconditioner") is not None:
        raise ValueError(f"{name}'s preconditioner must be None in training: it cannot be saved")
    complete = _complete(made, own)
    stored = {option: plain(value) for option, value in own.items()}
    for option in _OVER_STEPS:
        value = stored.get(option)
        if value is not None and not isinstance(value, (int, float)):
            values = resolve_schedule(option, value, complete["n_steps"])
            if isinstance(values, Tensor):
                raise ValueError(f"{name}'s {option} must not differ between chains in training, got a tensor")
            stored[option] = values
    return stored if made is Langevin else {_KIND: options[_KIND], **stored}


def made_by(options: Mapping[str, Any]) -> tuple[type[Sampler], dict[str, Any]]:
    """Returns the class of the sampler with these options, and all its options. Raises as `check`."""
    made, own = class_of(options), _without_kind(options)
    _check_names(f"an option of {made.__name__}", own, made)
    return made, _complete(made, own)


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options, and the defaults of those that are not given and not `dropped`."""
    without = dropped(defaults, given)
    return {**{option: value for option, value in defaults.items() if option not in without}, **given}


def dropped(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The names of the defaults that are no options of the given kind, if it is another one than theirs; and step_size,
    which is another quantity in another update.
    """
    made = class_of({**defaults, **given})
    if made is class_of(defaults):
        return []
    kept = {_KIND, *given, *_names(made)} - ({"step_size"} - given.keys())
    return [option for option in defaults if option not in kept]


def note_on_dropped(defaults: Mapping[str, Any], given: Mapping[str, Any], whose: str) -> list[str]:
    """A line that names `dropped`, if there are any, of the recipe or run that has these defaults."""
    names = dropped(defaults, given)
    if not names:
        return []
    before, now = (class_of(options).__name__ for options in (defaults, {**defaults, **given}))
    return [f"sampler: {', '.join(names)} of {whose} {'is' if len(names) == 1 else 'are'} for {before}, not for {now}"]


def check_noise(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Checks that the given options of a `Langevin` determine the noise.

    Args:
        given: the caller's options. step_size needs noise_std among them, even if the defaults have one.
        defaults: the options of the recipe or run, whose noise_std a given temperature refers to.

    Raises:
        ValueError: step_size without noise_std, or a temperature other than 1 without noise_std=None.
    """
    complete = merged(defaults, given)
    if class_of(complete) is not Langevin:
        return
    if "step_size" not in given and "noise_std" not in given and "noise_std" in complete:
        given = {**given, "noise_std": complete["noise_std"]}
    check_pair(given)


def _without_kind(options: Mapping[str, Any]) -> dict[str, Any]:
    return {option: value for option, value in options.items() if option != _KIND}


def _check_names(argument: str, options: Mapping[str, Any], made: type[Sampler]) -> None:
    """Raises TypeError for an option that the sampler does not have; the message names the kinds that have it."""
    for option in options:
        if option not in _names(made):
            others = [repr(kind) for kind, other in KINDS.items() if option in _names(other)]
            elsewhere = f" (an option of kind {', '.join(others)})" if others else ""
            raise TypeError(f"{unknown(argument, option, [_KIND, *_names(made)])}{elsewhere}")


def _complete(made: type[Sampler], options: dict[str, Any]) -> dict[str, Any]:
    if made is Langevin:
        options = _without_unread_temperature(options)
    elif "step_size" not in options:
        raise ValueError(f"sampler's step_size must be given: {made.__name__} has no default one, nor has its recipe")
    return made.check_options(options)


def _names(made: type[Sampler]) -> list[str]:
    return [name for name in inspect.signature(made).parameters if name not in (*TARGETS, *NOISE)]


def _without_unread_temperature(options: dict[str, Any]) -> dict[str, Any]:
    """Drops a temperature that has no effect because noise_std is a number. Runs of version 0.1 may have stored one."""
    unread = options.get("noise_std") is not None
    return {name: value for name, value in options.items() if not (unread and name == "temperature")}
