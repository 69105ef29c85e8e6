"""Chains at several temperatures that exchange their states: parallel tempering."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..kernels.arguments import MetropolisMemory
from ..noise import Stream, uniform
from ..score import BoundScore
from .chain import Chain
from .divergence import STUCK
from .metropolis_chain import MalaChain

_STREAMS = 4  # of a temperature


class TemperingMemory(NamedTuple):
    """The states of R temperatures beside those of the first one, and of R tests, all contiguous."""

    states: Tensor  # (R - 1, B, *event)
    energy: Tensor  # (R, B) float64
    score: Tensor  # (R, B, *event), at the states of all temperatures
    log_ratio: Tensor  # (R, B) float64
    n_accepted: Tensor  # (R, B) int64
    n_rejected: Tensor  # (R, B) int64
    n_swapped: Tensor  # (R - 1, B) int64, exchanges with the next temperature, and
    n_tried: Tensor  # (R - 1,) int64, how many were tried

    def of(self, r: int) -> MetropolisMemory:
        return MetropolisMemory(*(each[r] for each in (self.energy, *self[2:6])))


@dataclass(eq=False, kw_only=True)
class TemperingChain(Chain):
    """K steps, each a transition of `MalaChain` at each of R temperatures. After every swap_every-th noise step the
    chains of temperatures r and r + 1 exchange their states with probability

        min(1, exp((1/T_r - 1/T_{r+1})·(U_r - U_{r+1})))

    for even r and odd r in turn, beginning with even ones. The state of the chain is that of the first temperature, the
    others are memory.

    Temperature r > 0 draws from streams TEMPERING + 4r + 0 for normal numbers and + 3 for those of Metropolis tests,
    the first one from those of other samplers, and exchanges of r and r + 1 from TEMPERING + 4r + 2.

    Attributes:
        temperatures: T_0 < … < T_{R-1}.
        step_sizes, noise_stds: for each temperature, of each step.
        swap_every: in noise steps.
        replicas: the states of temperatures 1 … R - 1 at the start, (R - 1, B, *event); None for those of the first.
        parities: at each step 1 to exchange with even r, 2 with odd r, 0 for neither; None: by the noise steps.
        may_swap: which steps may exchange states.
    """

    temperatures: tuple[float, ...]
    step_sizes: Sequence[Sequence[float | Tensor]]
    noise_stds: Sequence[Sequence[float | Tensor]]
    swap_every: int
    bounds: tuple[float, float] | None
    replicas: Tensor | None = None
    parities: Sequence[float | Tensor] | None = None
    may_swap: Sequence[bool] | None = None

    def new_memory(self, x: Tensor) -> TemperingMemory:
        n = len(self.temperatures)

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=x.device)

        chains = (n, len(x))
        return TemperingMemory(
            zeros(n - 1, *x.shape, dtype=x.dtype),
            zeros(*chains, dtype=torch.float64),
            zeros(n, *x.shape, dtype=x.dtype),
            zeros(*chains, dtype=torch.float64),
            zeros(*chains),
            zeros(*chains),
            zeros(n - 1, len(x)),
            zeros(n - 1),
        )

    def begin_(self, x: Tensor, score: BoundScore) -> None:
        memory = self._memory()
        memory.states.copy_(x if self.replicas is None else self.replicas)
        for counts in memory[3:]:
            counts.zero_()
        assert isinstance(score, ReplicaScores)
        if not self.runs_alone(x, score.one):
            self._evaluate_(x, score.at(0))

    def statistics(self, n: int) -> dict[str, Tensor]:
        memory = self._memory()
        found = self._at(0).statistics(n)
        swaps = memory.n_swapped.sum(1) / (memory.n_tried * memory.n_swapped.shape[1])
        for counts in (memory.n_accepted, memory.n_swapped, memory.n_tried):
            counts.zero_()
        return {**found, "swaps": swaps}

    def n_stuck(self) -> Tensor:
        return (self._memory().n_rejected >= STUCK).any(0).sum()

    def bind(self, x: Tensor) -> ReplicaScores:
        return ReplicaScores.bound(self, x)

    def per_step(self) -> tuple[Sequence[float | Tensor], ...]:
        given = () if self.replicas is None else ([self.replicas] * len(self),)
        return *self.step_sizes, *self.noise_stds, self._parities(), *given

    def with_per_step(
        self, numbers: Sequence[Sequence[float | Tensor]], steps: Sequence[int | Tensor]
    ) -> TemperingChain:
        """As in `Chain`. Fewer steps than the chain has are any of its windows of their number, the first of which
        starts at step 0, and the next one where it ends.
        """
        n = len(self.temperatures)
        return dataclasses.replace(
            self,
            step_sizes=numbers[:n],
            noise_stds=numbers[n : 2 * n],
            parities=numbers[2 * n],
            replicas=None if self.replicas is None else cast(Tensor, numbers[2 * n + 1][0]),
            may_swap=[any(self._may_swap()[k :: len(steps)]) for k in range(len(steps))],
            steps=steps,
        )

    def built_in(self) -> tuple[Hashable, ...]:
        return self.temperatures, self.bounds, *self._may_swap()

    def part(self, start: int, stop: int) -> TemperingChain:
        return dataclasses.replace(super().part(start, stop), may_swap=self._may_swap()[start:stop])

    def step_(self, x: Tensor, k: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        self.advance_(x, k, k + 1, score)

    def advance_(self, x: Tensor, start: int, stop: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        if not x.is_contiguous():
            dense = x.contiguous()
            self.advance_(dense, start, stop, score)
            x.copy_(dense)
            return
        assert isinstance(score, ReplicaScores)
        may_swap, parities, first = self._may_swap(), self._parities(), start
        for k in range(start, stop):
            if may_swap[k] or k + 1 == stop:
                self._transitions_(x, first, k + 1, score)
                first = k + 1
            if may_swap[k]:
                self._exchange_(x, k, parities[k])

    def _transitions_(self, x: Tensor, start: int, stop: int, score: ReplicaScores) -> None:
        """Those of all temperatures: as whole chains, if the score's kernels run them, else step by step."""
        chains, states = [self._at(r) for r in range(len(self.temperatures))], self._states(x)
        if self.runs_alone(x, score.one):
            for chain, at in zip(chains, states, strict=True):
                chain.advance_(at, start, stop, score.one)
            return
        for k in range(start, stop):
            now = score.at(k)
            if self.inputs.steps():
                self._evaluate_(x, now)
            proposals = torch.stack(states)
            for chain, y in zip(chains, proposals.unbind(), strict=True):
                chain.propose_(y, k)
            energies, scores = now.of_all(proposals)
            for r, (chain, at) in enumerate(zip(chains, states, strict=True)):
                chain.test_(at, k, proposals[r], scores[r], energies[r])

    def _exchange_(self, x: Tensor, k: int, parity: float | Tensor) -> None:
        memory, states = self._memory(), self._states(x)
        betas = [1.0 / temperature for temperature in self.temperatures]
        for r in range(len(states) - 1):
            now = parity == 1 + r % 2  # of a captured graph a tensor
            if now is False:
                continue
            u = uniform(
                memory.log_ratio.shape[1:],
                seed=self.seed,
                step=self.steps[k],
                stream=Stream.TEMPERING + _STREAMS * r + 2,
                offset=self.chains.start,
                device=x.device,
                backend=self.backend.name,
            )
            log_ratio = (betas[r] - betas[r + 1]) * (memory.energy[r] - memory.energy[r + 1])
            swapped = (u.double().log() < log_ratio) & now
            for a, b in ((states[r], states[r + 1]), memory.energy[r : r + 2], memory.score[r : r + 2]):
                _swap_(a, b, swapped)
            memory.n_swapped[r].add_(swapped)
            memory.n_tried[r].add_(now)

    def _evaluate_(self, x: Tensor, score: ReplicaScores) -> None:
        memory = self._memory()
        energies, scores = score.of_all(torch.stack(self._states(x)))
        memory.energy.copy_(energies)
        memory.score.copy_(scores)

    def runs_alone(self, x: Tensor, score: BoundScore) -> bool:
        """Whether kernels of the score run the transitions of each temperature as whole chains."""
        return self._at(0).may_run(x, score)

    def _states(self, x: Tensor) -> list[Tensor]:
        return [x, *self._memory().states.unbind()]

    def _at(self, r: int) -> MalaChain:
        """The chain of one temperature."""
        first = Stream.TEMPERING + _STREAMS * r
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(Chain)}
        return MalaChain(
            **{**shared, "memory": self._memory().of(r)},
            step_sizes=self.step_sizes[r],
            noise_stds=self.noise_stds[r],
            temperature=self.temperatures[r],
            bounds=self.bounds,
            stream=first if r else Stream.LANGEVIN,
            test_stream=first + 3 if r else Stream.ACCEPT_REJECT,
        )

    def _memory(self) -> TemperingMemory:
        return TemperingMemory(*self.memory)

    def _parities(self) -> Sequence[float | Tensor]:
        if self.parities is not None:
            return self.parities
        rounds = [divmod(int(step) + 1, self.swap_every) for step in self.steps]
        return [float(2 - n % 2) if rest == 0 else 0.0 for n, rest in rounds]

    def _may_swap(self) -> Sequence[bool]:
        return [bool(p) for p in self._parities()] if self.may_swap is None else self.may_swap


class ReplicaScores(BoundScore):
    """The score at the states of one temperature, and at those of all: in one evaluation, unless an extra argument is a
    tensor, which may have a value for each chain, or kernels of the score run the chains of each temperature.

    Attributes:
        one: of one temperature.
    """

    name = "tempering"

    def __init__(self, one: BoundScore, every: BoundScore | None) -> None:
        self.one, self._every = one, every

    @classmethod
    def bound(cls, chain: TemperingChain, x: Tensor) -> ReplicaScores:
        one = chain.score.bind(x, chain.inputs)
        given = [*chain.inputs.tensors(), *(value for values in chain.inputs.steps() for value in values)]
        if any(isinstance(value, Tensor) for value in given) or chain.runs_alone(x, one):
            return cls(one, None)
        like = x.expand(len(chain.temperatures), *x.shape).flatten(0, 1)
        return cls(one, chain.score.bind(like, chain.inputs))

    def at(self, k: int) -> ReplicaScores:
        return ReplicaScores(self.one.at(k), None if self._every is None else self._every.at(k))

    def of_all(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(R, B, *event) states of all temperatures to (R, B) energies and the scores."""
        if self._every is not None:
            energies, scores = self._every.energy_and_score(x.flatten(0, 1))
            assert energies is not None
            return energies.view(x.shape[:2]), scores.view(x.shape)
        found = [self.one.energy_and_score(states) for states in x.unbind()]
        return torch.stack([cast(Tensor, energy) for energy, _ in found]), torch.stack([s for _, s in found])

    def __call__(self, x: Tensor) -> Tensor:
        return self.one(x)

    def energy(self, x: Tensor) -> Tensor | None:
        return self.one.energy(x)

    def energy_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        return self.one.energy_and_score(x)

    def linearize(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor | None]]:
        return self.one.linearize(x)


def _swap_(a: Tensor, b: Tensor, chains: Tensor) -> None:
    """Exchanges the rows of (B, …) tensors for which `chains`, (B,) bool, is true."""
    rows = chains.view(-1, *[1] * (a.dim() - 1))
    before = a.clone()
    a.copy_(torch.where(rows, b, a))
    b.copy_(torch.where(rows, before, b))
