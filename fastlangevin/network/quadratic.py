"""Recognises a term c·‖x‖² that is added to the layers of an energy, as in latent-space priors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SQUARES = (Tensor.square, torch.square)
POWERS = (Tensor.pow, torch.pow, Tensor.__pow__)
PRODUCTS = (Tensor.mul, torch.mul, Tensor.__mul__, Tensor.__rmul__)
QUOTIENTS = (Tensor.div, torch.div, Tensor.__truediv__, Tensor.true_divide)
NEGATIONS = (Tensor.neg, torch.neg, Tensor.negative, torch.negative)
SUMS = (Tensor.sum, torch.sum)
RESHAPES = (Tensor.flatten, torch.flatten, Tensor.reshape, torch.reshape, Tensor.view)
ADDITIONS = (Tensor.add, torch.add, Tensor.__add__, Tensor.__radd__)
SUBTRACTIONS = (Tensor.sub, torch.sub, Tensor.__sub__, torch.subtract, Tensor.subtract)


@dataclass(frozen=True)
class Square:
    """coefficient · x², element by element or, once `summed`, over each chain."""

    coefficient: float
    summed: bool


def square_of(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], is_state: Callable[[object], bool]
) -> Square | None:
    """The square of the state if the function computes it, else None.

    Args:
        is_state: whether a value is the state, in any shape.
    """
    if kwargs or not is_state(args[0]):
        return None
    if function in SQUARES or (function in POWERS and args[1] == 2):
        return Square(1.0, summed=False)
    if function in PRODUCTS and is_state(args[1]) and args[1].shape == args[0].shape:
        return Square(1.0, summed=False)
    return None


def after(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], square: Square, number: float | None
) -> Square | None:
    """The result of a function of a square and of `number`, its other argument; None if that is not a `Square`."""
    if kwargs and function not in SUMS:
        return None
    if function in NEGATIONS:
        return Square(-square.coefficient, square.summed)
    if function in PRODUCTS and number is not None:
        return Square(square.coefficient * number, square.summed)
    if function in QUOTIENTS and number and isinstance(args[0], Tensor):
        return Square(square.coefficient / number, square.summed)
    if square.summed:
        return None
    if function in RESHAPES and not any(isinstance(a, torch.dtype) for a in args):
        return square
    if function in SUMS and not set(kwargs) - {"dim", "axis", "keepdim"}:
        n = args[0].dim()
        dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
        dims = (dim,) if isinstance(dim, int) else dim or ()
        if sorted(d % n for d in dims) == list(range(1, n)):
            return Square(square.coefficient, summed=True)
    return None


def shape_of_sum(shape: tuple[int, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    """That of a sum over each chain. (Without data torch would ask SymPy, whose import takes half a second.)"""
    keepdim = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
    return tuple(1 if dim else n for dim, n in enumerate(shape)) if keepdim else shape[:1]
