"""The chain of preconditioned Langevin dynamics."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.arguments import Momentum, MoveArgs
from ..noise import Stream
from ..score import BoundScore
from .clip import clip_norm
from .langevin_chain import LangevinChain
from .momentum import compute_dtype, masses_column, momentum_of_column
from .preconditioner import RMSprop


@dataclass(eq=False, kw_only=True)
class PreconditionedChain(LangevinChain):
    """K steps of x' = clamp(x + ηP·clip(s(x)) + σ·sqrt(P)·z). The sum is `velocity_move` of the backend's moves, with
    the increment as the velocity.

    Attributes:
        momentum: P as the inverse masses, if it is constant; else of masses of 1.
        rmsprop: gives P at each step, with V as the memory; None if it is constant.
    """

    momentum: Momentum
    rmsprop: RMSprop | None

    def new_memory(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.rmsprop is None:
            return ()
        return (torch.empty_like(x, dtype=compute_dtype(x), memory_format=torch.contiguous_format),)

    def begin_(self, x: Tensor, score: BoundScore) -> None:
        for v in self.memory:
            v.zero_()

    def per_step(self) -> tuple[Sequence[float | Tensor], ...]:
        return *super().per_step(), *masses_column(self.momentum, len(self))

    def with_per_step(
        self, numbers: Sequence[Sequence[float | Tensor]], steps: Sequence[int | Tensor]
    ) -> PreconditionedChain:
        chain = super().with_per_step(numbers, steps)
        assert isinstance(chain, PreconditionedChain)
        chain.momentum = momentum_of_column(numbers[len(super().per_step()) :])
        return chain

    def built_in(self) -> tuple[Hashable, ...]:
        return *super().built_in(), self.rmsprop

    def move_(self, x: Tensor, score: Tensor, k: int) -> None:
        if self.grad_clip_norm is not None:
            score = clip_norm(score, self.grad_clip_norm)
        if self.grad_clip is not None:
            clip = _rounded(self.grad_clip, x)
            score = score.clamp(-clip, clip)
        score = score.contiguous()
        momentum = self.momentum
        if self.rmsprop is not None:
            (v,) = self.memory
            momentum = self.rmsprop.update_(v, score)
        eta, sigma, step = self.step_sizes[k], self.noise_stds[k], self.steps[k]
        args = MoveArgs(True, eta, 1, 1.0, None, sigma, self.seed, step, Stream.LANGEVIN, self.offset)
        moved = x.contiguous() if self.mask is None else x.clone(memory_format=torch.contiguous_format)
        self.backend.moves.velocity_move(moved, torch.empty_like(moved, dtype=compute_dtype(x)), score, momentum, args)
        if self.bounds is not None:
            moved.clamp_(*(_rounded(bound, x) for bound in self.bounds))
        if moved is not x:
            x.copy_(moved if self.mask is None else torch.where(self.mask, x, moved))


def _rounded(limit: float, x: Tensor) -> float:
    """A limit in x's type, where it may be infinite: torch.clamp refuses numbers that overflow."""
    return float(torch.tensor(limit, dtype=x.dtype))
