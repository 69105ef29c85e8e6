"""`MemoryChain`: transitions that keep more than the state from step to step, such as velocities and energies."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from ..kernels.arguments import MetropolisMemory, Momentum, TransitionArgs, TransitionKind
from ..noise import Stream
from ..score import BoundScore
from .chain import Chain
from .momentum import UNIT_MASS


@dataclass(eq=False, kw_only=True)
class MemoryChain(Chain):
    """Transitions by the backend's moves, or whole chains by kernels of the score.

    Attributes:
        step_sizes: of each transition.
        temperature: T: the density is exp(-U / T).
        stream, test_stream: of the normal numbers, and of the uniform ones of Metropolis tests.
    """

    step_sizes: Sequence[float | Tensor]
    temperature: float
    stream: int = Stream.LANGEVIN
    test_stream: int = Stream.ACCEPT_REJECT

    def begin_(self, x: Tensor, score: BoundScore) -> None:
        if self.may_run(x, score):
            self._fill_(x, None)
        else:
            self._fill_(x.contiguous(), score.at(0))

    def advance_(self, x: Tensor, start: int, stop: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        if not x.is_contiguous():  # as the moves need it
            dense = x.contiguous()
            self.advance_(dense, start, stop, score, precomputed)
            x.copy_(dense)
        elif self.may_run(x, score):
            score.run_transitions_(x, self._kernel_memory(), self._transition_args(slice(start, stop)))
        else:
            self._advance_(x, start, stop, score)

    @abc.abstractmethod
    def _fill_(self, x: Tensor, score: BoundScore | None) -> None:
        """Fills the memory at x. score: None if kernels of the score run the transitions."""

    @abc.abstractmethod
    def _kernel_memory(self) -> MetropolisMemory | Tensor: ...

    @abc.abstractmethod
    def _transition_args(self, steps: slice) -> TransitionArgs: ...

    def _args_of_kernels(
        self,
        steps: slice,
        noise_stds: Sequence[float | Tensor],
        decays: Sequence[float | Tensor] = (),
        momentum: Momentum = UNIT_MASS,
        n_leapfrog: int = 1,
        bounds: tuple[float, float] | None = None,
    ) -> TransitionArgs:
        """The arguments of these steps, with the noise and the decays of all, which are numbers where kernels run."""
        lo, hi = bounds or (-math.inf, math.inf)
        return TransitionArgs(
            self._kind,
            cast(Sequence[float], self.step_sizes[steps]),
            cast(Sequence[float], noise_stds[steps]),
            cast(Sequence[float], decays[steps]),
            n_leapfrog,
            self.temperature,
            momentum,
            lo,
            hi,
            cast(int, self.seed),
            cast(Sequence[int], self.steps[steps]),
            self.stream,
            self.offset,
            self.test_stream,
            self.chains.start,
        )

    def _advance_(self, x: Tensor, start: int, stop: int, score: BoundScore) -> None:
        super().advance_(x, start, stop, score)

    def may_run(self, x: Tensor, score: BoundScore) -> bool:
        """Whether kernels of the score run the transitions as whole chains."""
        return (
            self.requested_backend in ("auto", score.updates_with)
            and not self.inputs.steps()
            and score.runs_transitions(x, self._kind)
        )

    @property
    @abc.abstractmethod
    def _kind(self) -> TransitionKind: ...
