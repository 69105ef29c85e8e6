"""The flags declared in `runs.settings`, as parameters of a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import typer

from ..runs import config
from ..runs.flags import Flag
from ..runs.settings import DECLARATIONS, Declaration
from ..validation import nearest

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


def resume_overrides(given: Sequence[str]) -> dict[str, Any] | Literal["config.yaml"]:
    """Returns the settings of --override NAME=VALUE by name, or "config.yaml".

    NAME is that of a flag, without its dashes in front, or of a setting.
    """
    if config.NAME in given:
        if len(given) > 1:
            raise ValueError("--override config.yaml and --override NAME=VALUE are mutually exclusive")
        return "config.yaml"
    flags: dict[str, str | None] = {f.parameter: None for declared in DECLARATIONS.values() for f in declared.flags}
    names = {name: declared.flags[0].parameter for name, declared in DECLARATIONS.items() if not declared.options_of}
    for text in given:
        name, equals, value = text.partition("=")
        parameter = name.lstrip("-").replace("-", "_")
        parameter = names.get(parameter, parameter)
        if not equals or parameter not in flags:
            raise ValueError(
                f"--override must be config.yaml or NAME=VALUE with the name of a setting, got {text!r}"
                f"{nearest(parameter, flags)}"
            )
        flags[parameter] = value
    return overrides({name: _typed(name, text) for name, text in flags.items()})


def _typed(parameter: str, text: str | None) -> Any:
    """The text as the type of the flag."""
    if text is None:
        return None
    flag = next(f for declared in DECLARATIONS.values() for f in declared.flags if f.parameter == parameter)
    values = {"true": True, "false": False} if flag.type is bool else None
    try:
        return values[text.lower()] if values else flag.type(text)
    except (KeyError, ValueError):
        kind = "true or false" if values else {int: "an int", float: "a number"}[flag.type]
        raise ValueError(f"--override {parameter} must be {kind}, got {text!r}") from None


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
