"""engine="auto": the fastest engine that recognises an energy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..network.dependencies import Dependencies
from ..network.errors import NotRecognised, WrongShape
from ..network.inputs import Inputs
from ..network.sequential import Sequential
from ..network.target import Target
from ..network.tracing import trace
from .analytic import AnalyticEngine, AnalyticScore
from .autograd import AutogradEngine
from .base import BoundScore
from .convnet import ConvNetEngine
from .mlp import MlpEngine
from .sequential import choose

_IMPLEMENTATIONS = (*MlpEngine.implementations, *ConvNetEngine.implementations)
_LIKELY_SIZES = (32, 28, 64, 8, 16, 128)
_LARGEST_SIZE = 256


class _Call(NamedTuple):
    """The properties of the last call that plans need."""

    event: tuple[int, ...]
    dtype: torch.dtype
    with_inputs: bool
    engine: str
    reasons: list[str]


class AutoEngine(AutogradEngine):
    """At each call "analytic", "mlp" or "convnet" if one of them recognises the energy, else "autograd"."""

    name = "auto"

    def __init__(self, target: Target, precision: str) -> None:
        super().__init__(target, precision)
        self._last: _Call | None = None

    def bind(self, x: Tensor, inputs: Inputs) -> BoundScore:
        bound, reasons = self._choose(x, inputs)
        self._last = _Call(tuple(x.shape[1:]), x.dtype, bool(inputs), bound.name, reasons)
        return bound

    def explain(self, device: torch.device) -> tuple[str, list[str]]:
        compiled = "engine 'compiled' not used: compiling takes seconds to minutes; it must be requested by name"
        last = self._last
        if last is not None and last.with_inputs:
            return last.engine, [*last.reasons, compiled]
        event, dtype = (None, torch.float32) if last is None else (last.event, last.dtype)
        if AnalyticEngine.unsupported(self.target, self.precision, torch.empty(0, dtype=dtype, device=device)) is None:
            return "analytic", [compiled]
        try:
            name, reasons = self._examine(device, event, dtype)
        except NotRecognised as error:
            name, reasons = "autograd", [_not_recognised(error)]
        return name, [*reasons, compiled]

    def _choose(self, x: Tensor, inputs: Inputs) -> tuple[BoundScore, list[str]]:
        if AnalyticEngine.unsupported(self.target, self.precision, x) is None:
            return AnalyticScore(self.target, self.precision, inputs), []
        try:
            network = trace(self.target, x.shape, x.dtype, x.device, inputs)
            implementation, reasons = choose(network, self.precision, x, _IMPLEMENTATIONS)
            return implementation(network, self.precision, x), reasons
        except NotRecognised as error:
            return super().bind(x, inputs), [_not_recognised(error)]

    def _examine(
        self, device: torch.device, event: tuple[int, ...] | None, dtype: torch.dtype
    ) -> tuple[str, list[str]]:
        """The engine that recognises the energy for states of shape (B, *event), and the reasons for a plan.

        Without an event shape it is guessed from the first layer. Leaves the network's buffers unchanged.

        Raises:
            NotRecognised: no engine does.
        """
        network = _recognised(self.target, device, event, dtype)
        x = torch.empty((0, *network.shapes[0]), dtype=dtype, device=device)
        found, reasons = choose(network, self.precision, x, _IMPLEMENTATIONS)
        return found.name, [f"the {found.name} engine computes with {found.kernels}", *reasons]


def _not_recognised(error: NotRecognised) -> str:
    return f"engines 'mlp' and 'convnet' not used: {error}"


def _recognised(target: Target, device: torch.device, event: tuple[int, ...] | None, dtype: torch.dtype) -> Sequential:
    dependencies = Dependencies(target.function)
    before = [(b, b.clone()) for b in dependencies.buffers()]
    try:
        if event is not None:
            return trace(target, (2, *event), dtype, device, Inputs())
        for guess in _events(dependencies.modules):
            with contextlib.suppress(WrongShape):
                return trace(target, (2, *guess), dtype, device, Inputs())
        raise NotRecognised("the shape of the states is not known before the first call, and no square image fits")
    finally:
        for buffer, value in before:
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _events(modules: Sequence[nn.Module]) -> Iterator[tuple[int, ...]]:
    """State shapes that a network's first layer accepts."""
    first = next((m for m in modules if isinstance(m, (nn.Conv2d, nn.Linear))), None)
    if isinstance(first, nn.Linear):
        yield (first.in_features,)
    elif first is not None:
        own = (getattr(m, "image_size", None) for m in modules)
        sizes = (*(size for size in own if isinstance(size, int)), *_LIKELY_SIZES, *range(1, _LARGEST_SIZE + 1))
        for size in dict.fromkeys(sizes):
            yield (first.in_channels, size, size)
