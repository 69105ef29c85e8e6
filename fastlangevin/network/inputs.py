"""The arguments of an energy besides the state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

_NO_KWARGS: dict[str, Any] = {}


class Inputs(NamedTuple):
    """Extra arguments of an energy, such as class labels. They are not modified."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = _NO_KWARGS

    def call(self, function: Callable[..., Any], x: Any) -> Any:
        """`function(x, …)` with these arguments."""
        return function(x, *self.args, **self.kwargs)

    def named(self) -> Iterator[tuple[str, Any]]:
        """Each argument after its name in messages."""
        for i, value in enumerate(self.args):
            yield f"extra argument {i}", value
        for key, value in self.kwargs.items():
            yield f"extra argument {key!r}", value

    def values(self) -> tuple[Any, ...]:
        return (*self.args, *self.kwargs.values())

    def tensors(self) -> list[Tensor]:
        return [value for value in self.values() if isinstance(value, Tensor)]

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """The same arguments with each tensor replaced by `function(tensor)`."""

        def of(value: Any) -> Any:
            return function(value) if isinstance(value, Tensor) else value

        return Inputs(tuple(map(of, self.args)), {key: of(value) for key, value in self.kwargs.items()})

    def __bool__(self) -> bool:
        return bool(self.args or self.kwargs)


def make_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> Inputs:
    """The extra arguments of one call. Raises TypeError if kwargs is not a mapping from names."""
    if kwargs is None:
        return Inputs(args)
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise TypeError(f"kwargs must be a dict of the energy's keyword arguments, or None, got {kwargs!r}")
    return Inputs(args, dict(kwargs))
