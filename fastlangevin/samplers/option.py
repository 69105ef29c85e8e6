"""The options of a sampler as read-only attributes."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, overload

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
