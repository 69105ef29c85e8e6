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
        chains, event, dtype, device: of the state: the places of its chains in the whole batch, the shape of a chain's
            state, its type, and where it is.
        seed, steps, offset: of the noise stream: step k draws at noise step steps[k], element i of the state at
            offset + i. Ints, or int64 tensors on the state's device.
        memory: what steps keep beside the state (`new_memory`); the parts of one call share it.
        begins: whether `run_` starts with `begin_`, which fills the memory; otherwise it continues from the memory.
        continues: whether other steps follow the last one, which need the memory.
    """

    score: ScoreEngine
    inputs: Inputs
    backend: Backend
    requested_backend: str
    chains: range
    event: torch.Size
    dtype: torch.dtype
    device: torch.device
    offset: int
    seed: int | Tensor
    steps: Sequence[int | Tensor]
    memory: tuple[Tensor, ...] = ()
    begins: bool = True
    continues: bool = False

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
        raise ValueError("mask must be None (nothing can be inpainted): the sampler's transitions change all elements")

    def new_memory(self, x: Tensor) -> tuple[Tensor, ...]:
        """Memory for what steps keep beside states like x, such as velocities; its values do not matter."""
        return ()

    def begin_(self, x: Tensor, score: BoundScore) -> None:
        """Fills the memory, before the first step from x."""
        return None

    def statistics(self, n: int) -> dict[str, Tensor]:
        """What traces record of the last n steps, those since the call before, (B,) each."""
        return {}

    def n_stuck(self) -> Tensor | None:
        """The number of chains that no longer move, an int64 scalar; None if that is not known."""
        return None

    def __len__(self) -> int:
        return len(self.steps)

    def part(self: C, start: int, stop: int) -> C:
        """The chain of steps start to stop - 1."""
        part = self.with_per_step([column[start:stop] for column in self.per_step()], self.steps[start:stop])
        return dataclasses.replace(
            part,
            inputs=self.inputs.part(start, stop),
            begins=self.begins and start == 0,
            continues=self.continues or stop < len(self),
        )

    def bind(self, x: Tensor) -> BoundScore:
        """The score for states like x, with the current weights."""
        return self.score.bind(x, self.inputs)

    def run_(self, x: Tensor) -> Tensor:
        """All steps, in place."""
        score = self.bind(x)
        if self.begins:
            self.begin_(x, score)
        self.advance_(x, 0, len(self), score)
        return x

    def advance_(self, x: Tensor, start: int, stop: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        """Steps start to stop - 1, in place. `precomputed`: the score at x, if the caller has it."""
        for k in range(start, stop):
            self.step_(x, k, score.at(k), precomputed if k == start else None)

    def first_divergence(self, x0: Tensor) -> int | None:
        """The first step after which a state was not finite, by running the chain again."""
        x = x0.clone()
        again = dataclasses.replace(self, memory=self.new_memory(x))
        score = again.bind(x)
        again.begin_(x, score)
        for k in range(len(self)):
            again.advance_(x, k, k + 1, score)
            if not torch.isfinite(x).all():
                return k
        return None
