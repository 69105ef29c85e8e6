"""The chain of Langevin dynamics: the loop around score and update."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..kernels.arguments import ChainArgs, UpdateArgs
from ..noise import Stream
from ..score import BoundScore
from .chain import Chain
from .clip import clip_norm


@dataclass(eq=False, kw_only=True)
class LangevinChain(Chain):
    """K steps of x' = clamp(x + η·clip(s(x)) + σz); step k draws `Stream.LANGEVIN`.

    Attributes:
        step_sizes, noise_stds: η_k and σ_k of each step: floats, or float64 tensors on the state's device, of one
            element or of one for each chain.
        kernels_may_update: whether kernels of the score may do the update: not if it has a part that they do not know.
        noise_first: False: as above. True: x̃ = x + σz, x' = clamp(x̃ + η·clip(s(x̃))). "clamp": the same with
            x̃ = clamp(x + σz).
        noise_last: x' = clamp(x + η·clip(s(x))) + σz; not with noise_first.
        mask: of the elements that stay as they are, bool and of the state's shape; None for none.
        has_noise: whether noise is drawn at all.
    """

    step_sizes: Sequence[float | Tensor]
    noise_stds: Sequence[float | Tensor]
    has_noise: bool
    kernels_may_update: bool
    grad_clip: float | None
    grad_clip_norm: float | None
    bounds: tuple[float, float] | None
    noise_first: bool | Literal["clamp"]
    noise_last: bool
    mask: Tensor | None = None

    def advance_(self, x: Tensor, start: int, stop: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        """Steps start to stop - 1, in place: in one call if the score's kernels run whole chains."""
        if self._may_update(score) and score.run_chain_(x, self._chain_args(slice(start, stop))):
            return
        super().advance_(x, start, stop, score, precomputed)

    def step_(self, x: Tensor, k: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        """Step k, in place. A `precomputed` score at x is used, except with noise_first, which changes x before."""
        if self.noise_first:
            self.add_noise_(x, k)
            precomputed = None
        elif precomputed is None and self._may_update(score) and score.fused_step_(x, self._update_args(k)):
            return
        self.move_(x, score(x) if precomputed is None else precomputed, k)

    def per_step(self) -> tuple[Sequence[float | Tensor], ...]:
        masks = () if self.mask is None else ([self.mask] * len(self),)
        return (self.step_sizes, self.noise_stds, *masks)

    def with_per_step(
        self, numbers: Sequence[Sequence[float | Tensor]], steps: Sequence[int | Tensor]
    ) -> LangevinChain:
        mask = None if self.mask is None else numbers[2][0]
        assert not isinstance(mask, float)
        return dataclasses.replace(self, step_sizes=numbers[0], noise_stds=numbers[1], steps=steps, mask=mask)

    def keeping(self, mask: Tensor) -> LangevinChain:
        return dataclasses.replace(self, mask=mask, kernels_may_update=False)

    def built_in(self) -> tuple[Hashable, ...]:
        return (
            self.has_noise,
            self.kernels_may_update,
            self.grad_clip,
            self.grad_clip_norm,
            self.bounds,
            self.noise_first,
            self.noise_last,
        )

    def move_(self, x: Tensor, score: Tensor, k: int) -> None:
        """The part of step k that follows the score."""
        if self.grad_clip_norm is not None:
            score = clip_norm(score, self.grad_clip_norm)
        self._update_(x, score, self._update_args(k))
        if self.noise_last and self.has_noise:
            self.add_noise_(x, k)

    def add_noise_(self, x: Tensor, k: int) -> None:
        """The part of step k before the score, if noise comes first, or after the bounds, if it comes last."""
        lo, hi = (self.bounds if self.noise_first == "clamp" else None) or (None, None)
        sigma, step = self.noise_stds[k], self.steps[k]
        args = UpdateArgs(None, sigma, self.seed, step, Stream.LANGEVIN, self.offset, None, lo, hi)
        self._update_(x, None, args)

    def _update_(self, x: Tensor, score: Tensor | None, args: UpdateArgs) -> None:
        if self.mask is None:
            self.backend.update(x, score, args)
        else:
            before = x.clone()
            self.backend.update(x, score, args)
            torch.where(self.mask, before, x, out=x)

    def _update_args(self, k: int) -> UpdateArgs:
        sigma = self.noise_stds[k] if self.has_noise and not (self.noise_first or self.noise_last) else None
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
        return self.kernels_may_update and self.requested_backend in ("auto", score.updates_with)
