"""A Langevin chain through levels: its energy has an extra argument that stays the same for many steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..network.inputs import Inputs
from ..score import BoundScore
from .langevin_chain import LangevinChain


@dataclass(eq=False, kw_only=True)
class AnnealedChain(LangevinChain):
    """`LangevinChain` whose first extra argument, `inputs.args[0]`, is the level of each step. The score is bound anew
    where the level changes, so that engines see an argument that stays the same, and run the steps of a level as a
    whole chain if they can.

    Attributes:
        levels: a number for each step; where two consecutive ones are equal, so are the steps' levels.
        denoises: whether the last step is a denoising one.
    """

    levels: Sequence[int]
    denoises: bool

    def bind(self, x: Tensor) -> LevelScores:
        return LevelScores(self, x)

    def advance_(self, x: Tensor, start: int, stop: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        """Steps start to stop - 1, in place: one call a level if the score's kernels run whole chains."""
        assert isinstance(score, LevelScores)
        ends = [k for k in range(start + 1, stop) if self.levels[k] != self.levels[k - 1]]
        for first, end in itertools.pairwise([start, *ends, stop]):
            super().advance_(x, first, end, score.of_level(first), precomputed if first == start else None)

    def part(self, start: int, stop: int) -> AnnealedChain:
        part = super().part(start, stop)
        if start % (stop - start):  # else it shares a graph with all such parts
            part.levels = self.levels[start:stop]
        part.denoises = self.denoises and stop == len(self)
        return part

    def with_per_step(
        self, numbers: Sequence[Sequence[float | Tensor]], steps: Sequence[int | Tensor]
    ) -> AnnealedChain:
        """As in `Chain`. Fewer steps than the chain has are any of its windows of their number, the first of which
        starts at step 0, and the next one where it ends: a captured graph is one of all.
        """
        n = len(steps)
        changes = {k % n for k in range(1, len(self)) if self.levels[k] != self.levels[k - 1]}
        levels = list(itertools.accumulate(int(k in changes) for k in range(n)))
        chain = super().with_per_step(numbers, steps)
        assert isinstance(chain, AnnealedChain)
        chain.levels = levels
        return chain

    def built_in(self) -> tuple[Hashable, ...]:
        return (*super().built_in(), *(a == b for a, b in itertools.pairwise(self.levels)))

    def score_at(self, x: Tensor, k: int) -> BoundScore:
        """The score of step k's level for states like x, with the current weights."""
        args, kwargs = self.inputs
        return self.score.bind(x, Inputs((args[0][k], *args[1:]), kwargs))


class LevelScores(BoundScore):
    """The scores of a chain's levels, of which it keeps the last one that was asked for."""

    name = "annealed"

    def __init__(self, chain: AnnealedChain, x: Tensor) -> None:
        self._chain, self._x = chain, x
        self._level, self._score = chain.levels[0], chain.score_at(x, 0)

    def of_level(self, k: int) -> BoundScore:
        """The score at step k's level. Other extra arguments may still change from step to step."""
        if self._chain.levels[k] != self._level:
            self._level, self._score = self._chain.levels[k], self._chain.score_at(self._x, k)
        return self._score

    def at(self, k: int) -> BoundScore:
        return self.of_level(k).at(k)

    def __call__(self, x: Tensor) -> Tensor:
        return self.at(0)(x)

    def energy(self, x: Tensor) -> Tensor | None:
        return self.at(0).energy(x)

    def energy_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        return self.at(0).energy_and_score(x)

    def linearize(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor | None]]:
        return self.at(0).linearize(x)
