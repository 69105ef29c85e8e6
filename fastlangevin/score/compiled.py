"""The score of any energy that torch.compile can trace, forward and input gradient fused by inductor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..network.inputs import Inputs
from ..network.target import Target
from .autograd import AutogradScore
from .base import BoundScore, ScoreEngine


class CompiledEngine(ScoreEngine):
    """∇ log-density by `torch.compile(torch.func.grad(f))`: inductor's code for the forward and for the gradient with
    respect to the state only. It is compiled at the first call for a shape, which takes seconds to minutes.

    Energies alone, and second derivatives, are computed as in `AutogradEngine`.

    Raises:
        ValueError: the target is a score; or (at the first call) torch.compile cannot trace the whole energy, or the
            network's parameters are sharded.
    """

    name = "compiled"

    def __init__(self, target: Target, precision: str) -> None:
        if target.kind == "score":
            raise ValueError("engine='compiled' differentiates an energy or log_density, but a score was given")
        super().__init__(target, precision)
        self._gradients: dict[str, Any] = {}  # by precision

    def bind(self, x: Tensor, inputs: Inputs) -> BoundScore:
        if self.target.is_sharded:
            raise ValueError(f"engine='compiled' cannot compile this {self.target.kind}: parameters are sharded")
        precision = self.precision_on(x.device)
        if precision not in self._gradients:
            log_density = functools.partial(_log_density, self.target, precision)
            self._gradients[precision] = torch.compile(torch.func.grad(log_density, has_aux=True), fullgraph=True)
        return CompiledScore(self.target, precision, self._gradients[precision], inputs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_gradients": {}}


def _log_density(target: Target, precision: str, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    energies = AutogradScore(target, precision, Inputs(args, kwargs))._energies(x)
    return -energies.sum(), energies


class CompiledScore(AutogradScore):
    """Energies and scores by the engine's compiled function."""

    name = "compiled"

    def __init__(self, target: Target, precision: str, gradient: Callable[..., Any], inputs: Inputs) -> None:
        super().__init__(target, precision, inputs)
        self._gradient = gradient

    def __call__(self, x: Tensor) -> Tensor:
        return self.energy_and_score(x)[1]

    def energy_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        try:
            with self._running(x.device):
                score, energy = self.inputs.call(self._gradient, x)
        except torch._dynamo.exc.TorchDynamoException as error:
            why = "; ".join(_first_line(e) for e in (error, error.__cause__) if e is not None and str(e).strip())
            raise ValueError(f"engine='compiled' cannot compile this {self.target.kind}: {why}") from error
        return energy, score


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
