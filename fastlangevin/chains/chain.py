"""`Chain`: K consecutive transitions of a batch of chains, for any transition."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..kernels import Backend
from ..network.inputs import Inputs
from ..score import BoundScore, ScoreEngine

C = TypeVar("C", bound="Chain")


@dataclass(eq=False, kw_only=True)
class Chain(abc.ABC):
    """Everything that a run of steps needs besides its initial state. A subclass defines the transition, `step_`.

    Attributes:
        score, inputs: the engine of the score, and extra arguments of the energy.
        backend: of the update.
        requested_backend: the sampler's option; "auto" lets kernels of the score do the update instead of the backend.
        chains, device: of the state: the places of its chains in the whole batch, and where it is.
        seed, steps, offset: of the noise stream: step k draws at noise step steps[k], element i of the state at
            offset + i. Ints, or int64 tensors on the state's device.
    """

    score: ScoreEngine
    inputs: Inputs
    backend: Backend
    requested_backend: str
    chains: range
    device: torch.device
    offset: int
    seed: int | Tensor
    steps: Sequence[int | Tensor]

    @abc.abstractmethod
    def step_(self, x: Tensor, k: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        """Step k, in place.

        Args:
            score: `bind` of states like x.
            precomputed: the score at x, if the caller has it.
        """

    @abc.abstractmethod
    def per_step(self) -> tuple[Sequence[float | Tensor], ...]:
        """The numbers that change from step to step (step sizes, …), which a captured graph reads from memory: Python
        numbers, or tensors of one shape.
        """

    @abc.abstractmethod
    def with_per_step(self: C, numbers: Sequence[Sequence[float | Tensor]], steps: Sequence[int | Tensor]) -> C:
        """The same chain with these numbers and noise steps: Python numbers, float64 and int64 tensors of one element,
        or tensors like those of `per_step`.
        """

    @abc.abstractmethod
    def built_in(self) -> tuple[Hashable, ...]:
        """The options that are constants of a captured graph."""

    def keeping(self: C, mask: Tensor) -> C:
        """The same chain without the changes of the elements where `mask`, which has the states' shape, is true.

        Raises:
            ValueError: its transition cannot.
        """
        raise ValueError(f"mask must be None: {type(self).__name__} changes all elements")

    def __len__(self) -> int:
        return len(self.steps)

    def part(self: C, start: int, stop: int) -> C:
        """The chain of steps start to stop - 1."""
        part = self.with_per_step([column[start:stop] for column in self.per_step()], self.steps[start:stop])
        return dataclasses.replace(part, inputs=self.inputs.part(start, stop))

    def bind(self, x: Tensor) -> BoundScore:
        """The score for states like x, with the current weights."""
        return self.score.bind(x, self.inputs)

    def run_(self, x: Tensor) -> Tensor:
        """All steps, in place."""
        self.advance_(x, 0, len(self), self.bind(x))
        return x

    def advance_(self, x: Tensor, start: int, stop: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        """Steps start to stop - 1, in place. `precomputed`: the score at x, if the caller has it."""
        for k in range(start, stop):
            self.step_(x, k, score.at(k), precomputed if k == start else None)

    def first_divergence(self, x0: Tensor) -> int | None:
        """The first step after which a state was not finite, by running the chain again."""
        x = x0.clone()
        score = self.bind(x)
        for k in range(len(self)):
            self.advance_(x, k, k + 1, score)
            if not torch.isfinite(x).all():
                return k
        return None
