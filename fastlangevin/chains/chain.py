"""K consecutive Langevin steps: the loop around score and update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..kernels import Backend
from ..kernels.arguments import ChainArgs, UpdateArgs
from ..noise import Stream
from ..score import BoundScore, ScoreEngine


@dataclass(frozen=True)
class Chain:
    """Everything that a run of steps needs besides its initial state.

    Attributes:
        score, args: the engine of the score, and extra arguments of the energy.
        step_sizes, noise_stds: η_k and σ_k of each step: floats, or float64 tensors on the state's device.
        noise_first: False: x' = clamp(x + η·clip(s(x)) + σz). True: x̃ = x + σz, x' = clamp(x̃ + η·clip(s(x̃))).
            "clamp": the same with x̃ = clamp(x + σz).
        seed, steps, offset: of the noise stream: step k draws `Stream.LANGEVIN` at steps[k]. Ints, or int64 tensors.
        has_noise: whether noise is drawn at all.
        update: the backend that was asked for, or "auto": then kernels of the score may do the update in its place.
    """

    score: ScoreEngine
    args: tuple[object, ...]
    backend: Backend
    step_sizes: Sequence[float | Tensor]
    noise_stds: Sequence[float | Tensor]
    seed: int | Tensor
    steps: Sequence[int | Tensor]
    has_noise: bool
    offset: int
    grad_clip: float | None
    bounds: tuple[float, float] | None
    noise_first: bool | Literal["clamp"]
    update: str

    def __len__(self) -> int:
        return len(self.step_sizes)

    def run_(self, x: Tensor) -> Tensor:
        """All steps, in place."""
        self.advance_(x, 0, len(self), self.bind(x))
        return x

    def advance_(self, x: Tensor, start: int, stop: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        """Steps start to stop - 1, in place, in one call where the score's kernels run whole chains. `precomputed`: the
        score at x, where the caller has it.
        """
        if self._may_update(score) and score.run_chain_(x, self._chain_args(slice(start, stop))):
            return
        for k in range(start, stop):
            self.step_(x, k, score, precomputed if k == start else None)

    def bind(self, x: Tensor) -> BoundScore:
        """The score for states like x, with the weights as they are now."""
        return self.score.bind(x, self.args)

    def step_(self, x: Tensor, k: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        """Step k, in place. A `precomputed` score at x is used, except by noise_first, which moves x before."""
        if self.noise_first:
            self.add_noise_(x, k)
            precomputed = None
        elif precomputed is None and self._may_update(score) and score.fused_step_(x, self._update_args(k)):
            return
        self.move_(x, score(x) if precomputed is None else precomputed, k)

    def first_divergence(self, x0: Tensor) -> int | None:
        """The first step after which a state was not finite, by running the chain again."""
        x = x0.clone()
        score = self.bind(x)
        for k in range(len(self)):
            self.advance_(x, k, k + 1, score)
            if not torch.isfinite(x).all():
                return k
        return None

    def move_(self, x: Tensor, score: Tensor, k: int) -> None:
        """The part of step k that follows the score."""
        self.backend.update(x, score, self._update_args(k))

    def add_noise_(self, x: Tensor, k: int) -> None:
        """The part of step k before the score, where noise comes first."""
        lo, hi = (self.bounds if self.noise_first == "clamp" else None) or (None, None)
        sigma, step = self.noise_stds[k], self.steps[k]
        args = UpdateArgs(None, sigma, self.seed, step, Stream.LANGEVIN, self.offset, None, lo, hi)
        self.backend.update(x, None, args)

    def _update_args(self, k: int) -> UpdateArgs:
        sigma = self.noise_stds[k] if self.has_noise and not self.noise_first else None
        eta, step, (lo, hi) = self.step_sizes[k], self.steps[k], self.bounds or (None, None)
        return UpdateArgs(eta, sigma, self.seed, step, Stream.LANGEVIN, self.offset, self.grad_clip, lo, hi)

    def _chain_args(self, steps: slice) -> ChainArgs:
        lo, hi = self.bounds or (None, None)
        return ChainArgs(
            self.step_sizes[steps],
            self.noise_stds[steps],
            self.has_noise,
            self.seed,
            self.steps[steps],
            self.offset,
            self.grad_clip,
            lo,
            hi,
            self.noise_first,
        )

    def _may_update(self, score: BoundScore) -> bool:
        return self.update in ("auto", score.updates_with)
