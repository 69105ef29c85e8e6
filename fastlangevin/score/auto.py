"""engine="auto": the fastest engine that recognises an energy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import analytic
from .autograd import AutogradScore, BoundScore
from .examine import examine
from .stack_engines import bind_stack
from .target import Target
from .tracing import NotRecognised, trace


class AutoScore(AutogradScore):
    """At each call "analytic", "mlp" or "convnet", where one recognises the energy as it then is, else "autograd"."""

    name = "auto"

    def __init__(self, target: Target, precision: str) -> None:
        super().__init__(target, precision)
        self._event: tuple[int, ...] | None = None
        self._declined: str | None = None  # at the last call, if that had further inputs

    def bind(self, x: Tensor, args: Sequence[object]) -> BoundScore:
        self._event, self._declined = tuple(x.shape[1:]), None
        if analytic.unsupported(self.target, self.precision, x) is None:
            return analytic.BoundAnalytic(self.target, self.precision, args)
        try:
            return bind_stack(trace(self.target, x.shape, x.dtype, x.device, args), self.precision, x)
        except NotRecognised as error:
            if args:
                self._declined = str(error)
            return super().bind(x, args)

    def explain(self, device: torch.device) -> tuple[str, list[str]]:
        compiled = "engine 'compiled' passed over: it compiles for seconds to minutes; ask for it by name"
        if analytic.unsupported(self.target, self.precision, torch.empty(0, device=device)) is None:
            return "analytic", [compiled]
        try:
            if self._declined is not None:
                raise NotRecognised(self._declined)
            name, reasons = examine(self.target, self.precision, device, self._event)
            return name, [*reasons, compiled]
        except NotRecognised as error:
            return "autograd", [f"engines 'mlp' and 'convnet' passed over: {error}", compiled]
