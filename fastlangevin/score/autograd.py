"""The score of any callable energy, by automatic differentiation."""

from __future__ import annotations

import torch
from torch import Tensor

from .target import Target


class AutogradScore:
    """∇ log-density of a `Target` at each chain's state.

    Differentiates with respect to the state alone: no weight gradient is computed, no `.grad` is touched, no graph is
    kept. A network of one parameter dtype is given the state in that dtype; the score has the state's.
    """

    name = "autograd"

    def __init__(self, target: Target) -> None:
        self.target = target

    def __call__(self, x: Tensor, *args: object) -> Tensor:
        """(B, *event) states to scores of the same shape and dtype."""
        return self.energy_and_score(x, *args)[1]

    def energy(self, x: Tensor, *args: object) -> Tensor | None:
        """(B, *event) states to (B,) energies; None where only a score was given."""
        if self.target.kind == "score":
            return None
        with torch.no_grad():
            output = self.target.energies(self.target.function(self._cast(x), *args), len(x))
        return -output if self.target.kind == "log_density" else output

    def energy_and_score(self, x: Tensor, *args: object) -> tuple[Tensor | None, Tensor]:
        """(B,) energies (None where only a score was given) and the scores, from one forward and backward."""
        if self.target.kind == "score":
            return None, self._given_score(x, *args)
        kind = self.target.kind
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            output = self.target.energies(self.target.function(self._cast(x), *args), len(x))
            if not output.requires_grad:
                raise ValueError(_independent(kind))
            sign = torch.full_like(output, -1.0 if kind == "energy" else 1.0)
            (score,) = torch.autograd.grad(output, x, grad_outputs=sign, allow_unused=True)
        if score is None:
            raise ValueError(_independent(kind))
        output = output.detach()
        return (-output if kind == "log_density" else output), score

    def _given_score(self, x: Tensor, *args: object) -> Tensor:
        with torch.no_grad():
            score = self.target.function(self._cast(x), *args)
        if not isinstance(score, Tensor) or score.shape != x.shape:
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(f"score must return a tensor of the state's shape {tuple(x.shape)}, got {got}")
        return score.to(x.dtype)

    def _cast(self, x: Tensor) -> Tensor:
        parameter = self.target.parameter()
        return x if parameter is None else x.to(parameter.dtype)


def _independent(kind: str) -> str:
    return (
        f"{kind} does not depend on x: its output has no gradient with respect to the state "
        "(is x detached, converted to NumPy, or evaluated under no_grad inside it?)"
    )
