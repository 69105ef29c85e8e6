"""The chain of underdamped Langevin dynamics, by the splitting BAOAB."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..kernels.arguments import Momentum, MoveArgs, TransitionArgs, TransitionKind
from ..noise import Stream
from ..score import BoundScore
from .memory_chain import MemoryChain
from .momentum import compute_dtype, masses_column, momentum_of_column


class UnderdampedMemory(NamedTuple):
    """Both of the state's shape, contiguous."""

    velocity: Tensor  # float64 for float64 states, else float32
    score: Tensor  # at the state


@dataclass(eq=False, kw_only=True)
class UnderdampedChain(MemoryChain):
    """K steps of BAOAB, of step size h:

        v ← v + h/2·s(x)/m,   x ← x + h/2·v,   v ← decay·v + noise_std·z/sqrt(m),   x ← x + h/2·v,   v ← v + h/2·s(x)/m

    The last kick of a step and the first one of the next are done together where they are equal, see `velocity_move` of
    the backend's moves.
    The very last one, which does not change x, is left out with its score, unless the chain `continues`.

    Attributes:
        half_steps: h / 2 of each step.
        has_equal_steps: whether all steps have one size.
        decays, noise_stds: exp(-friction·h) and sqrt((1 - decay²)·T) of each step.
        momentum: the masses m.
        velocity: at the start, of the state's shape. None, and elements that are NaN: drawn from N(0, T / m), by
            `Stream.VELOCITY`.
    """

    half_steps: Sequence[float | Tensor]
    decays: Sequence[float | Tensor]
    noise_stds: Sequence[float | Tensor]
    has_equal_steps: bool
    momentum: Momentum
    velocity: Tensor | None

    _kind = TransitionKind.underdamped

    def new_memory(self, x: Tensor) -> UnderdampedMemory:
        dense = torch.contiguous_format
        velocity = torch.empty_like(x, dtype=compute_dtype(x), memory_format=dense)
        return UnderdampedMemory(velocity, torch.empty_like(x, memory_format=dense))

    def per_step(self) -> tuple[Sequence[float | Tensor], ...]:
        numbers = (self.step_sizes, self.half_steps, self.decays, self.noise_stds)
        given = () if self.velocity is None else ([self.velocity] * len(self),)
        return *numbers, *given, *masses_column(self.momentum, len(self))

    def with_per_step(
        self, numbers: Sequence[Sequence[float | Tensor]], steps: Sequence[int | Tensor]
    ) -> UnderdampedChain:
        step_sizes, half_steps, decays, noise_stds, *tensors = numbers
        velocity = None if self.velocity is None else cast(Tensor, tensors.pop(0)[0])
        return dataclasses.replace(
            self,
            step_sizes=step_sizes,
            half_steps=half_steps,
            decays=decays,
            noise_stds=noise_stds,
            velocity=velocity,
            momentum=momentum_of_column(tensors),
            steps=steps,
        )

    def built_in(self) -> tuple[Hashable, ...]:
        return self.temperature, self.stream, self.velocity is None, self.has_equal_steps

    def step_(self, x: Tensor, k: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        self._advance_(x, k, k + 1, score)

    def _advance_(self, x: Tensor, start: int, stop: int, score: BoundScore) -> None:
        if self.inputs.steps() and stop - start > 1:  # as the first kick of the next step is by another score
            for k in range(start, stop):
                self._advance_(x, k, k + 1, score)
            return
        velocity, s = memory = UnderdampedMemory(*self.memory)
        if self.inputs.steps():
            s.copy_(score.at(start)(x))
        move = self.backend.moves.velocity_move
        is_kick_due = False
        for k in range(start, stop):
            args = MoveArgs(
                False,
                self.half_steps[k],
                2 if is_kick_due else 1,
                self.half_steps[k],
                self.decays[k],
                self.noise_stds[k],
                self.seed,
                self.steps[k],
                self.stream,
                self.offset,
            )
            move(x, velocity, s, self.momentum, args)
            if k + 1 < len(self) or self.continues:
                s = score.at(k)(x).contiguous()
                if k + 1 == stop:
                    memory.score.copy_(s)
                is_kick_due = self.has_equal_steps and k + 1 < stop
                if not is_kick_due:
                    move(x, velocity, s, self.momentum, args._replace(n_kicks=1, drift=0.0, decay=None))

    def _fill_(self, x: Tensor, score: BoundScore | None) -> None:
        memory = UnderdampedMemory(*self.memory)
        root_t = math.sqrt(self.temperature)
        args = MoveArgs(True, None, 0, 0.0, None, root_t, self.seed, self.steps[0], Stream.VELOCITY, self.offset)
        still = torch.zeros_like(x, memory_format=torch.contiguous_format)
        self.backend.moves.velocity_move(still, memory.velocity, None, self.momentum, args)
        if self.velocity is not None:
            torch.where(self.velocity.isnan(), memory.velocity, self.velocity, out=memory.velocity)
        if score is not None:
            memory.score.copy_(score(x))

    def _kernel_memory(self) -> Tensor:
        return UnderdampedMemory(*self.memory).velocity

    def _transition_args(self, steps: slice) -> TransitionArgs:
        return self._args_of_kernels(steps, self.noise_stds, self.decays, self.momentum)
