"""engine="auto": the fastest engine that recognises an energy, and what keeps the others from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .autograd import AutogradScore, BoundScore
from .convnet import BoundStack
from .dependencies import Dependencies
from .target import Target
from .tracing import NotRecognised, trace

_IMAGE_SIZES = (32, 28, 64, 8, 16, 128, 256, 48, 96, 224)


class AutoScore(AutogradScore):
    """Looks at each call: "convnet" where that recognises the energy as it is then, else "autograd"."""

    name = "auto"

    def __init__(self, target: Target, precision: str) -> None:
        super().__init__(target, precision)
        self._event: tuple[int, ...] | None = None
        self._declined: str | None = None  # at the last call, if that had further inputs

    def bind(self, x: Tensor, args: Sequence[object]) -> BoundScore:
        self._event, self._declined = tuple(x.shape[1:]), None
        try:
            return BoundStack(trace(self.target, x.shape, x.dtype, x.device, args), self.precision, x.device)
        except NotRecognised as error:
            if args:
                self._declined = str(error)
            return super().bind(x, args)

    def explain(self, device: torch.device) -> tuple[str, list[str]]:
        reasons = ["engine 'compiled' passed over: it compiles for seconds to minutes; ask for it by name"]
        why = self._declined or why_not_recognised(self.target, device, self._event)
        if why is None:
            return "convnet", reasons
        return "autograd", [f"engine 'convnet' passed over: {why}", *reasons]


def why_not_recognised(target: Target, device: torch.device, event: tuple[int, ...] | None) -> str | None:
    """Why a target is not a stack of known layers for states of shape (B, *event), or None where it is one.

    Without an event shape it is guessed from the first layer. Leaves the network's buffers as they are.
    """
    dependencies = Dependencies(target.function)
    before = [(b, b.clone()) for b in dependencies.buffers()]
    parameter = target.parameter()
    dtype = torch.float32 if parameter is None else parameter.dtype
    reasons = []
    try:
        for guess in _events(dependencies.modules) if event is None else [event]:
            try:
                trace(target, (2, *guess), dtype, device, ())
                return None
            except NotRecognised as error:
                reasons.append(str(error))
    finally:
        for buffer, value in before:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
    return reasons[0] if reasons else "the shape of its states is not known before the first call"


def _events(modules: Sequence[nn.Module]) -> Iterator[tuple[int, ...]]:
    """Shapes of a state that a network's first layer would take."""
    first = next((m for m in modules if isinstance(m, (nn.Conv2d, nn.Linear))), None)
    if isinstance(first, nn.Linear):
        yield (first.in_features,)
    elif first is not None:
        own = (getattr(m, "image_size", None) for m in modules)
        for size in (*(size for size in own if isinstance(size, int)), *_IMAGE_SIZES):
            yield (first.in_channels, size, size)
