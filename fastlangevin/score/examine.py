"""What the engines of stacks would make of an energy, before any call or without one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from ..network.dependencies import Dependencies
from ..network.errors import NotRecognised, WrongShape
from ..network.sequential import Sequential
from ..network.target import Target
from ..network.tracing import trace
from .stack_engines import choose

_LIKELY_SIZES = (32, 28, 64, 8, 16, 128)
_LARGEST_SIZE = 256


def examine(
    target: Target, precision: str, device: torch.device, event: tuple[int, ...] | None, dtype: torch.dtype
) -> tuple[str, list[str]]:
    """The engine that recognises the energy for states of shape (B, *event), and what a plan says of its kernels.

    Without an event shape it is guessed from the first layer. Leaves the network's buffers as they are.

    Raises:
        NotRecognised: none does.
    """
    stack = _recognised(target, device, event, dtype)
    way, passed_over = choose(stack, precision, torch.empty((0, *stack.shapes[0]), dtype=dtype, device=device))
    return way.name, [f"the {way.name} engine computes with {way.kernels}", *passed_over]


def _recognised(target: Target, device: torch.device, event: tuple[int, ...] | None, dtype: torch.dtype) -> Sequential:
    dependencies = Dependencies(target.function)
    before = [(b, b.clone()) for b in dependencies.buffers()]
    try:
        if event is not None:
            return trace(target, (2, *event), dtype, device, ())
        for guess in _events(dependencies.modules):
            with contextlib.suppress(WrongShape):
                return trace(target, (2, *guess), dtype, device, ())
        raise NotRecognised("the shape of its states is not known before the first call, and no square image fits")
    finally:
        for buffer, value in before:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _events(modules: Sequence[nn.Module]) -> Iterator[tuple[int, ...]]:
    """Shapes of a state that a network's first layer would take."""
    first = next((m for m in modules if isinstance(m, (nn.Conv2d, nn.Linear))), None)
    if isinstance(first, nn.Linear):
        yield (first.in_features,)
    elif first is not None:
        own = (getattr(m, "image_size", None) for m in modules)
        sizes = (*(size for size in own if isinstance(size, int)), *_LIKELY_SIZES, *range(1, _LARGEST_SIZE + 1))
        for size in dict.fromkeys(sizes):
            yield (first.in_channels, size, size)
