"""K Langevin steps in a row: the loop around score and update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .kernels import Backend
from .noise import Stream
from .score import AutogradScore


@dataclass(frozen=True)
class Chain:
    """Everything that a run of steps needs besides its initial state.

    Attributes:
        score, args: the score is `score(x, *args)`.
        step_sizes, noise_stds: η_k and σ_k of each step: floats, or float64 tensors on the state's device.
        noise_first: False: x' = clamp(x + η·clip(s(x)) + σz). True: x̃ = x + σz, x' = clamp(x̃ + η·clip(s(x̃))).
            "clamp": the same with x̃ = clamp(x + σz).
        seed, steps, offset: of the noise stream: step k draws `Stream.LANGEVIN` at steps[k]. Ints, or int64 tensors.
        has_noise: whether noise is drawn at all.
    """

    score: AutogradScore
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

    def __len__(self) -> int:
        return len(self.step_sizes)

    def run_(self, x: Tensor) -> Tensor:
        """All steps, in place."""
        for k in range(len(self)):
            self.step_(x, k)
        return x

    def step_(self, x: Tensor, k: int, score: Tensor | None = None) -> None:
        """Step k, in place. A score at x that is known already is used, except by noise_first, which moves x before."""
        if self.noise_first:
            self._add_noise_(x, k)
            score = None
        self._move_(x, self.score(x, *self.args) if score is None else score, k)

    def first_divergence(self, x0: Tensor) -> int | None:
        """The first step after which a state was not finite, by running the chain again."""
        x = x0.clone()
        for k in range(len(self)):
            self.step_(x, k)
            if not torch.isfinite(x).all():
                return k
        return None

    def _move_(self, x: Tensor, score: Tensor, k: int) -> None:
        sigma = self.noise_stds[k] if self.has_noise and not self.noise_first else None
        self._update_(x, score, self.step_sizes[k], sigma, k, self.grad_clip, self.bounds)

    def _add_noise_(self, x: Tensor, k: int) -> None:
        bounds = self.bounds if self.noise_first == "clamp" else None
        self._update_(x, None, None, self.noise_stds[k], k, None, bounds)

    def _update_(
        self,
        x: Tensor,
        score: Tensor | None,
        eta: float | Tensor | None,
        sigma: float | Tensor | None,
        k: int,
        clip: float | None,
        bounds: tuple[float, float] | None,
    ) -> None:
        lo, hi = bounds or (None, None)
        self.backend.update(x, score, eta, sigma, self.seed, self.steps[k], Stream.LANGEVIN, self.offset, clip, lo, hi)
