"""Arguments of a call of a sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..network.inputs import Inputs, PerStep, make_inputs
from ..network.target import Target
from ..validation import check_int, dtype_and_shape

Callback = Callable[[int, Tensor], object]


class Observed:
    """The callback of a call, or None, and the number of steps between its calls.

    Raises:
        TypeError, ValueError: not callable, or `every` is not an int of at least 1.
    """

    def __init__(self, callback: Callback | None, every: int) -> None:
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, got {type(callback).__name__}")
        self.callback, self.every = callback, check_int("every", every)


NOT_OBSERVED = Observed(None, 1)


def at_a_state(target: Target, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> Inputs:
    """The extra arguments of an energy outside a chain. Raises TypeError as `make_inputs`, and for a `PerStep`."""
    inputs = make_inputs(target, args, kwargs)
    for name, value in inputs.named():
        if isinstance(value, PerStep):
            raise TypeError(f"{name} is a PerStep, but there are no steps here: give its value at one step")
    return inputs


def check_mask(mask: Tensor, x: Tensor) -> Tensor:
    """Returns the mask in x's shape. Raises TypeError or ValueError for another dtype, device or shape."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a bool tensor, got {dtype_and_shape(mask)}")
    if mask.device != x.device:
        raise ValueError(f"mask is on {mask.device} and the states on {x.device}: move one to the other")
    try:
        return mask.expand(x.shape)
    except RuntimeError:
        raise ValueError(
            f"mask must broadcast to the states' shape {tuple(x.shape)}, got {tuple(mask.shape)}"
        ) from None
