"""The arguments of an energy besides the state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .target import Target

_NO_KWARGS: dict[str, Any] = {}


class PerStep:
    """An extra argument of an energy that changes from step to step of a chain, such as a noise level or its label.

        sampler(x0, fl.PerStep(sigmas))           # sigmas[k] at step k
        sampler(x0, fl.PerStep(lambda k: k))      # the step index

    A chain whose energy takes one is computed by engine "autograd" or "compiled".

    Args:
        values: n_steps values (a sequence, or a tensor along its first dimension), or a callable of
            k = 0 … n_steps - 1, called once per step at the start of a call.

    Raises:
        TypeError: values is neither.

    Examples:
        >>> def energy(x, sigma):
        ...     return x.square().sum(1) / (2 * sigma**2)
        >>> sampler = fl.Langevin(energy, step_size=0.001, noise_std=None, n_steps=50, seed=1)
        >>> sampler(torch.ones(8, 2), fl.PerStep(torch.linspace(1.0, 0.1, 50))).shape  # σ falls along the chain
        torch.Size([8, 2])
        >>> sampler(torch.ones(8, 2), fl.PerStep(lambda k: 1 / (k + 1) ** 0.5)).shape
        torch.Size([8, 2])
    """

    def __init__(self, values: Callable[[int], Any] | Sequence[Any] | Tensor) -> None:
        if not callable(values) and not (hasattr(values, "__len__") and hasattr(values, "__getitem__")):
            raise TypeError(f"values must be a sequence, a tensor or a callable of the step, got {values!r}")
        self.values = values

    def resolved(self, name: str, n_steps: int) -> list[Any]:
        """The values of n_steps steps. Raises ValueError for another number of values."""
        if callable(self.values):
            return [self.values(k) for k in range(n_steps)]
        if len(self.values) != n_steps:
            raise ValueError(f"{name} must have n_steps = {n_steps} values, got {len(self.values)}")
        return list(self.values)

    def __repr__(self) -> str:
        return f"PerStep({self.values!r})"


class Steps(list[Any]):
    """The values of a `PerStep` at the steps of a call."""


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
        """The arguments that are tensors."""
        return [value for value in self.values() if isinstance(value, Tensor)]

    def steps(self) -> list[Steps]:
        """The arguments that change from step to step."""
        return [value for value in self.values() if isinstance(value, Steps)]

    def at(self, k: int) -> Inputs:
        """The arguments at step k."""
        return self._map(lambda value: value[k] if isinstance(value, Steps) else value)

    def part(self, start: int, stop: int) -> Inputs:
        """The arguments of steps start to stop - 1."""
        return self._map(lambda value: Steps(value[start:stop]) if isinstance(value, Steps) else value)

    def with_steps(self, columns: Sequence[Sequence[Tensor]]) -> Inputs:
        """The same arguments with other values of `steps()`."""
        given = iter(columns)
        return self._map(lambda value: Steps(next(given)) if isinstance(value, Steps) else value)

    def resolved(self, n_steps: int) -> Inputs:
        """The arguments of a chain of n_steps steps. Raises ValueError for a `PerStep` of another length."""
        if not any(isinstance(value, PerStep) for value in self.values()):
            return self
        names = iter([name for name, _ in self.named()])
        return self._map(lambda v, name: Steps(v.resolved(name, n_steps)) if isinstance(v, PerStep) else v, names)

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> Inputs:
        """The same arguments with each tensor replaced by `function(tensor)`."""

        def of(value: Any) -> Any:
            if isinstance(value, Steps):
                return Steps(map(of, value))
            return function(value) if isinstance(value, Tensor) else value

        return self._map(of)

    def _map(self, function: Callable[..., Any], *more: Iterator[Any]) -> Inputs:
        values = list(map(function, self.values(), *more))
        n = len(self.args)
        return Inputs(tuple(values[:n]), dict(zip(self.kwargs, values[n:], strict=True)))

    def __bool__(self) -> bool:
        return bool(self.args or self.kwargs)


def make_inputs(target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> Inputs:
    """The extra arguments of one call of a target.

    Raises:
        TypeError: kwargs is not a mapping from names, or there are no arguments for a network that needs classes.
    """
    if not args and not kwargs:
        target.check_without_arguments()
    if kwargs is None:
        return Inputs(args)
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise TypeError(f"kwargs must be a dict of the energy's keyword arguments, or None, got {kwargs!r}")
    return Inputs(args, dict(kwargs))
