"""The options of a sampler: read-only attributes, and the checks of those that all samplers have."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar, overload

from .. import kernels
from ..chains import initial
from ..score import check_engine
from ..score import precision as precisions
from ..validation import check_bounds, check_int, unknown

TARGETS = ("energy", "log_density", "score")
NOISE = ("seed", "generator")  # arguments of a constructor that are no options, nor are those of TARGETS
T = TypeVar("T")


class HasOptions(Protocol):
    """What keeps the values of its options."""

    _options: dict[str, Any]


class Option(Generic[T]):
    """A read-only option of a sampler: the value of the constructor's keyword argument of the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, sampler: None, owner: type) -> Option[T]: ...
    @overload
    def __get__(self, sampler: HasOptions, owner: type) -> T: ...
    def __get__(self, sampler: HasOptions | None, owner: type) -> Option[T] | T:
        return self if sampler is None else sampler._options[self._name]

    def __set__(self, sampler: HasOptions, value: T) -> None:
        name = self._name
        raise AttributeError(f"{name} of a sampler is read-only: use sampler.replace({name}=…), which returns another")


class Options:
    """The options that all samplers have. A subclass adds an `Option` for each of its own, and their checks."""

    _options: dict[str, Any]

    n_steps = Option[int]()
    bounds = Option["tuple[float, float] | None"]()
    init = Option[initial.Init]()
    precision = Option[str]()
    engine = Option[str]()
    backend = Option[str]()
    graph = Option["bool | str"]()
    unroll = Option["int | None"]()

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Checks options and returns all options of such a sampler, with defaults for those that are not given.

        It needs no energy.

        Raises:
            TypeError: an unknown option, or a missing option that has no default.
            TypeError, ValueError: a value that the constructor does not accept.
        """
        defaults = cls._defaults()
        for name in options:
            if name not in defaults:
                raise TypeError(str(unknown(f"an option of {cls.__name__}", name, defaults)))
        complete = {**defaults, **options}
        missing = [name for name, value in complete.items() if value is inspect.Parameter.empty]
        if missing:
            raise TypeError(f"{cls.__name__} needs {', '.join(missing)}")
        return cls._check_options(complete)

    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Checks a complete dict of options and returns it in the form in which it is stored."""
        check_int("n_steps", options["n_steps"])
        check_engine(options["engine"])
        precisions.check(options["precision"])
        initial.check(options["init"])
        if options["backend"] != "auto" and options["backend"] not in kernels.BACKENDS:
            raise unknown("backend", options["backend"], ("auto", *kernels.BACKENDS))
        if options["graph"] not in (True, False, "auto"):
            raise unknown("graph", options["graph"], ("True", "False", "auto"))
        if "bounds" in options:
            options = {**options, "bounds": check_bounds(options["bounds"])}
        return {
            **options,
            "n_steps": check_int("n_steps", options["n_steps"]),
            "unroll": None if options["unroll"] is None else check_int("unroll", options["unroll"]),
        }

    @classmethod
    @functools.cache
    def _defaults(cls) -> dict[str, Any]:
        parameters = inspect.signature(cls).parameters.values()
        return {p.name: p.default for p in parameters if p.name not in (*TARGETS, *NOISE)}
