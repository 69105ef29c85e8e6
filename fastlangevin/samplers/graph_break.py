"""Functions that a compiled graph calls and does not contain."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

_F = TypeVar("_F", bound=Callable[..., object])


def outside_graphs(function: _F) -> _F:
    """Like torch.compiler.disable, but does not import torch's compiler: torch.compile breaks the graph at a call.

    A chain chooses its kernels and advances a noise counter in Python, which a graph cannot contain.
    """
    disabled: list[_F] = []

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        if "torch._dynamo" not in sys.modules:  # nothing can be compiling
            return function(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args, **kwargs)

    return call  # type: ignore[return-value]
