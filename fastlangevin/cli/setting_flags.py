"""The flags declared in `runs.settings`, as parameters of a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import typer

from ..runs.flags import Flag
from ..runs.settings import DECLARATIONS, Declaration

_Command = TypeVar("_Command", bound=Callable[..., Any])


def takes_flags(after: str) -> Callable[[_Command], _Command]:
    """Adds the flags, which the command takes as **flags, to its signature after the parameter `after`."""

    def decorate(command: _Command) -> _Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        place = [parameter.name for parameter in own].index(after) + 1
        flags = [_parameter(flag, declared) for declared in DECLARATIONS.values() for flag in declared.flags]
        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own[:place], *flags, *own[place:]]
        )
        return command

    return decorate


def overrides(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the given settings by name. Settings that hold options contain only the given ones."""
    given: dict[str, Any] = {}
    for name, declared in DECLARATIONS.items():
        for flag in declared.flags:
            if (text := flags[flag.parameter]) is None:
                continue
            if flag.option is None:
                given[name] = flag.value(text)
            else:
                given.setdefault(name, {})[flag.option] = flag.value(text)
    return given


def _parameter(flag: Flag, declared: Declaration) -> inspect.Parameter:
    option = typer.Option(
        flag.spelling,
        help=flag.help,
        min=flag.minimum,
        metavar=flag.metavar,
        show_default="the recipe's" if declared.in_recipes else str(declared.default),
    )
    annotation = Annotated[flag.type | None, option]  # type: ignore[name-defined]
    return inspect.Parameter(flag.parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
