"""Flags of the command line for settings, and the conversion of their text to values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Flag:
    """A flag of the command line, for a setting or for one option of a setting that is a dict.

    Attributes:
        spelling: "--lr", or "--clamp-data/--no-clamp-data" for a bool.
        type: of the argument on the command line: int, float, bool or str.
        help: its help text.
        parse: maps (spelling, text) to the value, for a str. None: the text itself.
        metavar: name of the argument in the help.
        minimum: least value of an int.
        option: name of the option, if the setting is a dict.
    """

    spelling: str
    type: type
    help: str
    parse: Callable[[str, str], Any] | None = None
    metavar: str | None = None
    minimum: int | None = None
    option: str | None = None

    @property
    def parameter(self) -> str:
        """The spelling as the name of a Python parameter."""
        return self.spelling.split("/")[0].lstrip("-").replace("-", "_")

    def value(self, given: Any) -> Any:
        return given if self.parse is None else self.parse(self.spelling, given)


def schedule(spelling: str, text: str) -> float | list[tuple[int, float]]:
    """ "1e-4" as 1e-4, "1e-4,1000:1e-5" as [(0, 1e-4), (1000, 1e-5)]."""
    first, *changes = text.split(",")
    try:
        if not changes:
            return float(first)
        pairs = [change.split(":") for change in changes]
        return [(0, float(first)), *((int(iteration), float(value)) for iteration, value in pairs)]
    except ValueError:
        raise ValueError(
            f"{spelling} must be a number, or a number and its changes such as 1e-4,150000:1e-5, got {text!r}"
        ) from None


def pair(spelling: str, text: str) -> tuple[float, float]:
    """ "0.9,0.999" as (0.9, 0.999)."""
    try:
        first, second = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"{spelling} must be two numbers separated by a comma, got {text!r}") from None
    return first, second


def pair_or_none(spelling: str, text: str) -> tuple[float, float] | None:
    return None if text == "none" else pair(spelling, text)


def number_or_none(spelling: str, text: str) -> float | None:
    return _number_or("none", spelling, text)


def limit(spelling: str, text: str) -> float:
    """A number, or "none" for infinity, no limit."""
    number = number_or_none(spelling, text)
    return math.inf if number is None else number


def noise(spelling: str, text: str) -> float | None:
    """A number, or "langevin" for None ("none" could be read as no noise)."""
    return _number_or("langevin", spelling, text)


def _number_or(word: str, spelling: str, text: str) -> float | None:
    if text == word:
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{spelling} must be a number or {word}, got {text!r}") from None
