"""Checks of arguments. Errors name the argument, what is required and what was given."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable
from numbers import Real

import torch
from torch import Tensor

Bounds = tuple[float | None, float | None]
STATE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def as_index(value: object) -> int | None:
    """The value as an int, if it is an integer of any type but bool, such as NumPy's; else None."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def check_int(name: str, value: object, least: int = 1) -> int:
    """Returns the value as an int. Raises ValueError unless it is an integer of at least `least`."""
    number = as_index(value)
    if number is None or number < least:
        raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
    return number


def check_positive(name: str, value: object) -> float:
    """Returns the value as a float. Raises ValueError unless it is a positive finite number, or a tensor of one."""
    if isinstance(value, Tensor) and value.dim() == 0 and not value.is_complex() and value.dtype != torch.bool:
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return float(value)


def check_shape(shape: object) -> tuple[int, ...]:
    """Returns the shape as a tuple. Raises ValueError unless it is a sequence of non-negative ints."""
    try:
        numbers = tuple(operator.index(n) for n in shape)  # type: ignore[attr-defined]
    except TypeError:
        numbers = (-1,)
    if any(n < 0 for n in numbers):
        raise ValueError(f"shape must be a sequence of non-negative ints, got {shape!r}")
    return numbers


def check_states_shape(shape: object) -> tuple[int, ...]:
    """As `check_shape`, and raises ValueError for a shape without a dimension of chains."""
    numbers = check_shape(shape)
    if not numbers:
        raise ValueError("shape must be (B, *event), got ()")
    return numbers


def nearest(name: object, names: Iterable[str]) -> str:
    """`"; did you mean 'digits'?"` for the closest of `names`, or an empty string if none is close."""
    close = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown(argument: str, got: object, names: Iterable[str]) -> ValueError:
    """The error for a value that is not one of `names`."""
    names = list(names)
    return ValueError(f"{argument} must be one of {', '.join(map(repr, names))}, got {got!r}{nearest(got, names)}")


def dtype_and_shape(value: object) -> str:
    """Describes a value in an error: `torch.float32 (2, 3)` for a tensor, the name of the type for any other value."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def check_scalar_tensor(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """Raises TypeError unless a tensor given in place of a Python number has this dtype and one element."""
    if value.dtype != dtype or value.numel() != 1:
        wanted = str(dtype).removeprefix("torch.")
        raise TypeError(f"{name} as a tensor must be {wanted} with one element, got {dtype_and_shape(value)}")
    return value


def check_state_dtype(name: str, x: object) -> None:
    """Raises TypeError unless x is a dense tensor of a dtype that a chain's state may have."""
    if not isinstance(x, Tensor) or x.dtype not in STATE_DTYPES:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a float32, float64, bfloat16 or float16 tensor, got {got}")
    if not is_dense(x):
        got = "a nested one" if x.is_nested else f"layout {x.layout}"
        raise TypeError(f"{name} must be a dense tensor, got {got}")


def is_dense(x: Tensor) -> bool:
    """Whether the elements are one block of memory: neither sparse nor nested."""
    return x.layout == torch.strided and not x.is_nested


def check_grad_clip(grad_clip: float | None, name: str = "grad_clip") -> float | None:
    if grad_clip is None:
        return None
    if not _is_number(grad_clip) or not grad_clip > 0:
        raise ValueError(f"{name} must be a positive number or None, got {grad_clip!r}")
    return float(grad_clip)


def check_bounds(bounds: Bounds | None) -> tuple[float, float] | None:
    """Returns the bounds as two floats, with an infinity in place of None."""
    if bounds is None:
        return None
    is_pair = isinstance(bounds, (tuple, list)) and len(bounds) == 2
    if not is_pair or not all(b is None or _is_number(b) for b in bounds):
        raise ValueError(
            f"bounds must be a pair of numbers (lo, hi), one of which may be None, or None, got {bounds!r}"
        )
    if bounds[0] is None and bounds[1] is None:
        raise ValueError("bounds must have at least one number, got (None, None)")
    lo = -math.inf if bounds[0] is None else float(bounds[0])
    hi = math.inf if bounds[1] is None else float(bounds[1])
    if not lo < hi:
        raise ValueError(f"bounds must have lo < hi, got ({lo}, {hi})")
    return lo, hi


def check_scale(name: str, value: float | Tensor | None, x: Tensor) -> float | Tensor | None:
    """Checks a step size or noise level of a state (B, *event): a non-negative number, or a float64 tensor of one
    element or of B.
    """
    if value is None or isinstance(value, torch.SymFloat):
        return value
    if isinstance(value, Tensor):
        if value.dtype != torch.float64 or (value.numel() != 1 and value.shape != x.shape[:1]):
            chains = f"{len(x)} chains" if x.dim() else "one chain"
            raise TypeError(
                f"{name} as a tensor must be float64 with one element, or one for each chain of x ({chains}), got "
                f"{dtype_and_shape(value)}"
            )
        return value
    if not _is_number(value):
        raise TypeError(f"{name} must be a float or a float64 tensor, got {type(value).__name__} {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return float(value)


def _is_number(value: object) -> bool:
    # Built-in types first: isinstance of an abstract base class is slow, and torch.compile does not trace it.
    if isinstance(value, (int, float)):
        return not isinstance(value, bool)
    return isinstance(value, Real)
