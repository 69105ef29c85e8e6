"""The score of any callable energy, by automatic differentiation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..network.target import Target
from .precision import HALF, autocast


class AutogradScore:
    """The engine for any energy: differentiates with respect to the state alone. No weight gradient is computed, no
    `.grad` is touched, no graph is kept. A network of one parameter dtype is given the state in that dtype.
    """

    name = "autograd"

    def __init__(self, target: Target, precision: str) -> None:
        self.target, self.precision = target, precision

    def explain(self, device: torch.device) -> tuple[str, list[str]]:
        """The name of the engine that chains on `device` use, and why others are passed over."""
        return self.name, []

    def bind(self, x: Tensor, args: Sequence[object]) -> BoundScore:
        """The score of chains with the shape, dtype and device of x, for the steps of one call."""
        return BoundScore(self.target, self.precision, args)


class BoundScore:
    """∇ log-density of a `Target` at each chain's state, with further inputs given once.

    Attributes:
        is_piecewise_linear: whether the score's Jacobian is known to be zero wherever it exists.
        updates_with: the backend whose update `fused_step_` and `run_chain_` do, where there is either.
    """

    name = "autograd"
    is_piecewise_linear = False
    updates_with: str | None = None

    def __init__(self, target: Target, precision: str, args: Sequence[object]) -> None:
        self.target, self.precision, self.args = target, precision, args

    def __call__(self, x: Tensor) -> Tensor:
        """(B, *event) states to scores of the same shape and dtype."""
        return self.energy_and_score(x)[1]

    def energy(self, x: Tensor) -> Tensor | None:
        """(B, *event) states to (B,) energies; None where only a score was given."""
        if self.target.kind == "score":
            return None
        with torch.no_grad():
            return self._energies(x)

    def energy_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """(B,) energies (None where only a score was given) and the scores, from one forward and backward."""
        if self.target.kind == "score":
            with torch.no_grad():
                return None, self._given_score(x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energies, score = self._differentiated(x, create_graph=False)
        return energies.detach(), score

    def fused_step_(self, x: Tensor, *numbers: Any) -> bool:
        """A whole Langevin step of x in place, where the kernels of the score do that too; False, and nothing, where
        they do not. `numbers` are the arguments of `Backend.update` after the score.
        """
        return False

    def run_chain_(self, x: Tensor, *numbers: Any) -> bool:
        """All steps of a chain in place, where one kernel does them; False, and nothing, where none does. `numbers`:
        step_sizes, noise_stds, has_noise, seed, steps, offset, grad_clip, lo, hi, noise_first, as in `chain.Chain`.
        """
        return False

    def linearize(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor | None]]:
        """The scores at x, and the function of v (B, *event) that gives vᵀ ∂score/∂x, or None for zero.

        One forward and backward, and a second backward a v, which may be asked for once.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            if self.target.kind == "score":
                score = self._given_score(x)
            else:
                _, score = self._differentiated(x, create_graph=True)

        def pull(v: Tensor) -> Tensor | None:
            if not score.requires_grad:
                return None
            with self._running(x):
                return torch.autograd.grad(score, x, v, allow_unused=True)[0]

        return score.detach(), pull

    def with_graph(self, x: Tensor) -> Tensor:
        """The scores at a constant x, with a graph to what else the energy reads: its weights.

        One forward and backward; a backward through the result is a second one.
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
            output = self.target.energies(self.target.function(self._cast(x), *self.args), len(x))
            return -output if self.target.kind == "log_density" else output

    def _given_score(self, x: Tensor) -> Tensor:
        with self._running(x):
            score = self.target.function(self._cast(x), *self.args)
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
