"""What float32's roundings do to a formula in Triton. The function itself runs, as Python on float64, with a rounding
after each of its operations: a new formula, or another order of an old one, has its own bound.
"""

from __future__ import annotations

import math
import operator
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .error_bounds import Roundings

EXP, LOG, ERF = 6, 4, 4  # in u: within 3, 2 and 2 units in the last place, a unit is at most 2u of the number
LARGEST_EXPONENT = 700.0  # beyond 89, float32 has an infinity; float64 stays finite, and so do its derivatives


class Number:
    """An element of float32 in a formula, (N, 1) in float64, with the roundings that it comes from."""

    def __init__(self, roundings: Roundings, value: Tensor) -> None:
        self.roundings, self.value = roundings, value

    def rounded(self, value: Tensor, units: float = 1.0) -> Number:
        return Number(self.roundings, self.roundings.relative(value, units))

    def number(self, other: Number | float) -> Number:
        """A Python number is float32 in the kernel."""
        if isinstance(other, Number):
            return other
        exact = torch.full_like(self.value, other)
        return Number(self.roundings, self.roundings.rounded(exact, (exact.float() - exact).abs()))

    def _sum(self, other: Number | float, function: Callable[..., Tensor]) -> Number:
        return self.rounded(function(self.value, self.number(other).value))

    def __add__(self, other: Number | float) -> Number:
        return self._sum(other, operator.add)

    def __sub__(self, other: Number | float) -> Number:
        return self._sum(other, operator.sub)

    def __rsub__(self, other: float) -> Number:
        return self.number(other) - self

    def __mul__(self, other: Number | float) -> Number:
        exact = not isinstance(other, Number) and abs(math.frexp(other)[0]) == 0.5  # a power of two
        return self.rounded(self.value * self.number(other).value, 0.0 if exact else 1.0)

    def __truediv__(self, other: Number | float) -> Number:
        return self.rounded(self.value / self.number(other).value)

    def __rtruediv__(self, other: float) -> Number:
        return self.number(other) / self

    def __neg__(self) -> Number:
        return Number(self.roundings, -self.value)

    def __lt__(self, other: Number | float) -> Tensor:
        return self.value < self.number(other).value

    def __le__(self, other: Number | float) -> Tensor:
        return self.value <= self.number(other).value

    def __gt__(self, other: Number | float) -> Tensor:
        return self.value > self.number(other).value

    __radd__, __rmul__ = __add__, __mul__


class Pointer:
    """To an activation's parameters."""

    def __init__(self, values: Sequence[Number]) -> None:
        self.values = values

    def __add__(self, places: int) -> Pointer:
        return Pointer(self.values[places:])


class Language:
    """What formulas use of `triton.language`."""

    @staticmethod
    def load(pointer: Pointer) -> Number:
        return pointer.values[0]

    @staticmethod
    def where(condition: Tensor, a: Number | float, b: Number | float) -> Number:
        number = a if isinstance(a, Number) else b
        assert isinstance(number, Number)
        return Number(number.roundings, torch.where(condition, number.number(a).value, number.number(b).value))

    @staticmethod
    def abs(a: Number) -> Number:
        return Number(a.roundings, a.value.abs())

    @staticmethod
    def exp(a: Number) -> Number:
        return a.rounded(torch.exp(a.value.clamp_max(LARGEST_EXPONENT)), EXP)

    @staticmethod
    def log(a: Number) -> Number:
        return a.rounded(torch.log(a.value), LOG)

    @staticmethod
    def erf(a: Number) -> Number:
        return a.rounded(torch.erf(a.value), ERF)

    @staticmethod
    def static_assert(condition: bool) -> None:
        assert condition


def in_python(function: Any) -> Callable[..., Any]:
    """A function under `triton.jit`, and those that it calls, on the numbers above."""
    source = function.fn
    names = {**source.__globals__, "tl": Language}
    for name in source.__code__.co_names:
        if hasattr(names.get(name), "fn"):
            names[name] = in_python(names[name])
    return types.FunctionType(source.__code__, names)


def bounds(function: Any, z: Tensor, kind: int, parameters: Sequence[float]) -> tuple[Tensor, ...]:
    """Of what function(z, kind, pointer to parameters) returns, elementwise, for a z without an error."""
    roundings = Roundings()
    number = Number(roundings, z.detach().double().reshape(-1, 1))
    results = in_python(function)(number, kind, Pointer([number.number(p) for p in parameters]))
    return tuple(roundings.bound(result.value).view_as(z) for result in results)
