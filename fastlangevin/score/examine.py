"""What the convnet engine would make of an energy, before any call or without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from .convnet import choose
from .dependencies import Dependencies
from .stack import Stack
from .target import Target
from .tracing import NotRecognised, trace

_IMAGE_SIZES = (32, 28, 64, 8, 16, 128, 256, 48, 96, 224)


def examine(target: Target, precision: str, device: torch.device, event: tuple[int, ...] | None) -> list[str]:
    """What a plan says of the engine, where it recognises the energy for states of shape (B, *event).

    Without an event shape it is guessed from the first layer. Leaves the network's buffers as they are.

    Raises:
        NotRecognised: it does not.
    """
    stack = _recognised(target, device, event)
    kind, passed_over = choose(stack, precision, torch.empty((0, *stack.shapes[0]), device=device))
    return [f"the convnet engine computes with {kind.kernels}", *passed_over]


def _recognised(target: Target, device: torch.device, event: tuple[int, ...] | None) -> Stack:
    dependencies = Dependencies(target.function)
    before = [(b, b.clone()) for b in dependencies.buffers()]
    parameter = target.parameter()
    dtype = torch.float32 if parameter is None else parameter.dtype
    failure = NotRecognised("the shape of its states is not known before the first call")
    try:
        for i, guess in enumerate(_events(dependencies.modules) if event is None else [event]):
            try:
                return trace(target, (2, *guess), dtype, device, ())
            except NotRecognised as error:
                failure = failure if i else error
        raise failure
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
        for size in (*(size for size in own if isinstance(size, int)), *_IMAGE_SIZES):
            yield (first.in_channels, size, size)
