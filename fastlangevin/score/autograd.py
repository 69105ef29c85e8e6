"""The score of any callable energy, by automatic differentiation."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ..network.inputs import Inputs
from ..network.target import Target
from .base import BoundScore, ScoreEngine
from .precision import HALF, autocast


class AutogradEngine(ScoreEngine):
    """The engine for any energy. It differentiates with respect to the state only: it computes no weight gradients,
    leaves `.grad` unchanged and keeps no graph. The state is cast to the dtype of the network's parameters.
    """

    name = "autograd"

    def bind(self, x: Tensor, inputs: Inputs) -> BoundScore:
        return AutogradScore(self.target, self.precision, inputs)


class AutogradScore(BoundScore):
    """The score of any `Target`, with one forward and backward of torch's autograd."""

    name = "autograd"

    def __init__(self, target: Target, precision: str, inputs: Inputs) -> None:
        self.target, self.precision, self.inputs = target, precision, inputs
        self._changes = bool(inputs.steps())

    def at(self, k: int) -> AutogradScore:
        if not self._changes:
            return self
        score = copy.copy(self)
        score.inputs = self.inputs.at(k)
        return score

    def __call__(self, x: Tensor) -> Tensor:
        return self.energy_and_score(x)[1]

    def energy(self, x: Tensor) -> Tensor | None:
        if self.target.kind == "score":
            return None
        with torch.no_grad():
            return self._energies(x)

    def energy_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        if self.target.kind == "score":
            with torch.no_grad():
                return None, self._given_score(x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energies, score = self._differentiated(x, create_graph=False)
        return energies.detach(), score

    def linearize(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor | None]]:
        """One forward and backward, and a second backward for v."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            if self.target.kind == "score":
                score = self._given_score(x)
            else:
                _, score = self._differentiated(x, create_graph=True)

        def vjp(v: Tensor) -> Tensor | None:
            if not score.requires_grad:
                return None
            with self._running(x):
                return torch.autograd.grad(score, x, v, allow_unused=True)[0]

        return score.detach(), vjp

    def with_graph(self, x: Tensor) -> Tensor:
        """The scores at a constant x, with a graph to the other tensors that the energy reads, such as its weights.

        One forward and backward; a backward through the result is a second backward.
        """
        with torch.enable_grad():
            if self.target.kind == "score":
                return self._given_score(x.detach())
            return self._differentiated(x.detach().requires_grad_(), create_graph=True)[1]

    def _differentiated(self, x: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
        energies = self._energies(x)
        if not energies.requires_grad:
            raise ValueError(_independent(self.target.kind))
        down = torch.full_like(energies, -1.0)
        with self._running(x):
            (score,) = torch.autograd.grad(energies, x, down, create_graph=create_graph, allow_unused=True)
        if score is None:
            raise ValueError(_independent(self.target.kind))
        return energies, score

    def _energies(self, x: Tensor) -> Tensor:
        with self._running(x):
            output = self.target.energies(self.inputs.call(self.target.function, self._cast(x)), len(x))
            return -output if self.target.kind == "log_density" else output

    def _given_score(self, x: Tensor) -> Tensor:
        with self._running(x):
            score = self.inputs.call(self.target.function, self._cast(x))
        if not isinstance(score, Tensor) or score.shape != x.shape:
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(f"score must return a tensor of the state's shape {tuple(x.shape)}, got {got}")
        return score.to(x.dtype)

    def _running(self, x: Tensor) -> contextlib.AbstractContextManager[object]:
        return autocast(self.precision, x.device) if self.precision in HALF else contextlib.nullcontext()

    def _cast(self, x: Tensor) -> Tensor:
        parameter = self.target.parameter()
        return x if parameter is None else x.to(parameter.dtype)


def _independent(kind: str) -> str:
    return (
        f"{kind} does not depend on x: its output has no gradient with respect to the state "
        "(is x detached, converted to NumPy, or evaluated under no_grad inside it?)"
    )
