"""engine="auto": the fastest engine that recognises an energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..network.errors import NotRecognised
from ..network.target import Target
from ..network.tracing import trace
from . import analytic
from .autograd import AutogradScore, BoundScore
from .examine import examine
from .stack_engines import choose


class _Call(NamedTuple):
    """What is remembered of the last call, for plans."""

    event: tuple[int, ...]
    dtype: torch.dtype
    with_inputs: bool
    engine: str
    reasons: list[str]


class AutoScore(AutogradScore):
    """At each call "analytic", "mlp" or "convnet", where one recognises the energy as it then is, else "autograd"."""

    name = "auto"

    def __init__(self, target: Target, precision: str) -> None:
        super().__init__(target, precision)
        self._last: _Call | None = None

    def bind(self, x: Tensor, args: Sequence[object]) -> BoundScore:
        bound, reasons = self._choose(x, args)
        self._last = _Call(tuple(x.shape[1:]), x.dtype, bool(args), bound.name, reasons)
        return bound

    def explain(self, device: torch.device) -> tuple[str, list[str]]:
        compiled = "engine 'compiled' passed over: it compiles for seconds to minutes; ask for it by name"
        last = self._last
        if last is not None and last.with_inputs:
            return last.engine, [*last.reasons, compiled]
        event, dtype = (None, torch.float32) if last is None else (last.event, last.dtype)
        if analytic.unsupported(self.target, self.precision, torch.empty(0, dtype=dtype, device=device)) is None:
            return "analytic", [compiled]
        try:
            name, reasons = examine(self.target, self.precision, device, event, dtype)
        except NotRecognised as error:
            name, reasons = "autograd", [_not_recognised(error)]
        return name, [*reasons, compiled]

    def _choose(self, x: Tensor, args: Sequence[object]) -> tuple[BoundScore, list[str]]:
        if analytic.unsupported(self.target, self.precision, x) is None:
            return analytic.BoundAnalytic(self.target, self.precision, args), []
        try:
            stack = trace(self.target, x.shape, x.dtype, x.device, args)
            way, reasons = choose(stack, self.precision, x)
            return way(stack, self.precision, x), reasons
        except NotRecognised as error:
            return super().bind(x, args), [_not_recognised(error)]


def _not_recognised(error: NotRecognised) -> str:
    return f"engines 'mlp' and 'convnet' passed over: {error}"
