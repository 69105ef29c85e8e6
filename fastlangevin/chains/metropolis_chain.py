"""Chains of proposals that a Metropolis test accepts or rejects: MALA and Hamiltonian Monte Carlo."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..kernels.arguments import (
    MetropolisArgs,
    MetropolisMemory,
    Momentum,
    MoveArgs,
    TransitionArgs,
    TransitionKind,
    UpdateArgs,
)
from ..score import BoundScore
from .divergence import STUCK
from .memory_chain import MemoryChain
from .momentum import compute_dtype, masses_column, momentum_of_column

M = TypeVar("M", bound="MetropolisChain")


@dataclass(eq=False, kw_only=True)
class MetropolisChain(MemoryChain):
    """Transitions x' = y if log u < log_ratio(x, y), else x, for a proposal y: they leave exp(-U / T) invariant, zero
    outside the bounds. Step k draws the uniform u of a chain from `test_stream`.

    The energies and scores at the states are memory, so that a transition evaluates them at its proposal alone, unless
    extra arguments of the energy change from step to step.
    """

    bounds: tuple[float, float] | None

    def new_memory(self, x: Tensor) -> MetropolisMemory:
        def of_chains(dtype: torch.dtype) -> Tensor:
            return torch.zeros(len(x), dtype=dtype, device=x.device)

        score = torch.zeros_like(x, memory_format=torch.contiguous_format)
        numbers, counts = (torch.float64, torch.int64)
        return MetropolisMemory(of_chains(numbers), score, of_chains(numbers), of_chains(counts), of_chains(counts))

    def statistics(self, n: int) -> dict[str, Tensor]:
        memory = self._kernel_memory()
        acceptance = memory.n_accepted / n if n else torch.full_like(memory.log_ratio, math.nan)
        memory.n_accepted.zero_()
        error = -self.temperature * memory.log_ratio if n else acceptance
        return {"acceptance": acceptance.float(), "energy_error": error.float()}

    @abc.abstractmethod
    def with_step_sizes(self: M, step_sizes: Sequence[float]) -> M:
        """The same chain with other step sizes."""

    def acceptance(self) -> float:
        """The mean over chains of the probability of acceptance in the last test; NaN counts as 0. Waits for a GPU."""
        return float(self._kernel_memory().log_ratio.nan_to_num(nan=-math.inf).clamp(max=0.0).exp().mean())

    def n_stuck(self) -> Tensor:
        return (self._kernel_memory().n_rejected >= STUCK).sum()

    def step_(self, x: Tensor, k: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        if self.inputs.steps():
            self._evaluate_(x, score)
        self._transition_(x, k, score, self._kernel_memory())

    def advance_(self, x: Tensor, start: int, stop: int, score: BoundScore, precomputed: Tensor | None = None) -> None:
        super().advance_(x, start, stop, score, precomputed)
        if not x.is_cuda:  # there the values would have to be waited for
            self._check_energies()

    @abc.abstractmethod
    def _transition_(self, x: Tensor, k: int, score: BoundScore, memory: MetropolisMemory) -> None:
        """Proposal and test of step k, in place."""

    def _fill_(self, x: Tensor, score: BoundScore | None) -> None:
        memory = self._kernel_memory()
        for counts in (memory.n_accepted, memory.n_rejected, memory.log_ratio):
            counts.zero_()
        if not x.is_cuda:  # there the values would have to be waited for
            self._check_bounds(x)
        if score is not None:
            self._evaluate_(x, score)

    def _check_energies(self) -> None:
        energy = self._kernel_memory().energy
        n_bad = int((energy.isnan() | energy.isneginf()).sum())
        if n_bad:
            raise ValueError(
                f"energy must be a number above -infinity at x0, or no proposal is ever accepted: that of {n_bad} of "
                f"{len(energy)} chains is not"
            )

    def _check_bounds(self, x: Tensor) -> None:
        lo, hi = self.bounds or (-math.inf, math.inf)
        lo, hi = (float(torch.tensor(bound, dtype=x.dtype)) for bound in (lo, hi))
        outside = (
            ~((x >= lo) & (x <= hi)).reshape(len(x), -1).all(dim=1) if len(x) else x.new_zeros(0, dtype=torch.bool)
        )
        if outside.any():
            raise ValueError(
                f"x0 must lie within the bounds ({lo}, {hi}), beyond which the density is 0: {int(outside.sum())} of "
                f"{len(x)} chains do not"
            )

    def _evaluate_(self, x: Tensor, score: BoundScore) -> None:
        memory = self._kernel_memory()
        energy, s = score.energy_and_score(x)
        assert energy is not None
        memory.energy.copy_(energy)
        memory.score.copy_(s)

    def _kernel_memory(self) -> MetropolisMemory:
        return MetropolisMemory(*self.memory)

    def _test_args(self, k: int, step_size: float | Tensor, kick: float | Tensor) -> MetropolisArgs:
        lo, hi = self.bounds or (-math.inf, math.inf)
        return MetropolisArgs(
            step_size,
            kick,
            math.sqrt(self.temperature),
            self.temperature,
            lo,
            hi,
            self.seed,
            self.steps[k],
            self.stream,
            self.offset,
            self.test_stream,
            self.chains.start,
        )


@dataclass(eq=False, kw_only=True)
class MalaChain(MetropolisChain):
    """Langevin proposals y = x + η·s(x) + sqrt(2ηT)·z, those of `langevin_update_` bit for bit; see `mala_test` of the
    backend's moves.

    Attributes:
        noise_stds: sqrt(2ηT) of each step.
    """

    noise_stds: Sequence[float | Tensor]

    _kind = TransitionKind.mala

    def per_step(self) -> tuple[Sequence[float | Tensor], ...]:
        return self.step_sizes, self.noise_stds

    def with_per_step(self, numbers: Sequence[Sequence[float | Tensor]], steps: Sequence[int | Tensor]) -> MalaChain:
        return dataclasses.replace(self, step_sizes=numbers[0], noise_stds=numbers[1], steps=steps)

    def with_step_sizes(self, step_sizes: Sequence[float]) -> MalaChain:
        noise_stds = langevin_noise_stds(step_sizes, self.temperature)
        return dataclasses.replace(self, step_sizes=step_sizes, noise_stds=noise_stds)

    def built_in(self) -> tuple[Hashable, ...]:
        return self.temperature, self.bounds, self.stream, self.test_stream

    def _transition_(self, x: Tensor, k: int, score: BoundScore, memory: MetropolisMemory) -> None:
        y = x.clone()
        self.propose_(y, k)
        energy, s = score.energy_and_score(y)
        assert energy is not None
        self.test_(x, k, y, s, energy)

    def propose_(self, x: Tensor, k: int) -> None:
        """Turns the states, whose scores the memory has, into the proposals of step k."""
        eta, sigma = self.step_sizes[k], self.noise_stds[k]
        args = UpdateArgs(eta, sigma, self.seed, self.steps[k], self.stream, self.offset, None, None, None)
        self.backend.update(x, self._kernel_memory().score, args)

    def test_(self, x: Tensor, k: int, y: Tensor, score: Tensor, energy: Tensor) -> None:
        """Moves x, and the memory, to the proposals y of step k that are accepted. score, energy: at y."""
        args = self._test_args(k, self.step_sizes[k], 0.0)
        self.backend.moves.mala_test(x, self._kernel_memory(), y, score.contiguous(), energy.double(), args)

    def _transition_args(self, steps: slice) -> TransitionArgs:
        return self._args_of_kernels(steps, self.noise_stds, bounds=self.bounds)


@dataclass(eq=False, kw_only=True)
class HmcChain(MetropolisChain):
    """Trajectories of n_leapfrog leapfrog steps of size ε from velocities v ~ N(0, T / m), see `velocity_move` and
    `hmc_test` of the backend's moves.

    Attributes:
        half_steps: ε / 2 of each transition.
    """

    half_steps: Sequence[float | Tensor]
    n_leapfrog: int
    momentum: Momentum

    _kind = TransitionKind.hmc

    def per_step(self) -> tuple[Sequence[float | Tensor], ...]:
        return self.step_sizes, self.half_steps, *masses_column(self.momentum, len(self))

    def with_per_step(self, numbers: Sequence[Sequence[float | Tensor]], steps: Sequence[int | Tensor]) -> HmcChain:
        momentum = momentum_of_column(numbers[2:])
        return dataclasses.replace(self, step_sizes=numbers[0], half_steps=numbers[1], momentum=momentum, steps=steps)

    def with_step_sizes(self, step_sizes: Sequence[float]) -> HmcChain:
        return dataclasses.replace(self, step_sizes=step_sizes, half_steps=[e / 2 for e in step_sizes])

    def built_in(self) -> tuple[Hashable, ...]:
        return self.temperature, self.bounds, self.stream, self.test_stream, self.n_leapfrog

    def _transition_(self, x: Tensor, k: int, score: BoundScore, memory: MetropolisMemory) -> None:
        step_size, half = self.step_sizes[k], self.half_steps[k]
        y, v = x.clone(), torch.empty_like(x, dtype=compute_dtype(x))
        first = MoveArgs(
            True,
            half,
            1,
            step_size,
            None,
            math.sqrt(self.temperature),
            self.seed,
            self.steps[k],
            self.stream,
            self.offset,
        )
        moves, momentum = self.backend.moves, self.momentum
        moves.velocity_move(y, v, memory.score, momentum, first)
        for _ in range(self.n_leapfrog - 1):
            moves.velocity_move(y, v, score(y).contiguous(), momentum, first._replace(draws=False, kick=step_size))
        energy, s = score.energy_and_score(y)
        assert energy is not None
        args = self._test_args(k, 0.0, half)
        moves.hmc_test(x, memory, y, v, s.contiguous(), energy.double(), momentum, args)

    def _transition_args(self, steps: slice) -> TransitionArgs:
        noise_stds = [math.sqrt(self.temperature)] * len(self)
        return self._args_of_kernels(
            steps, noise_stds, momentum=self.momentum, n_leapfrog=self.n_leapfrog, bounds=self.bounds
        )


def langevin_noise_stds(step_sizes: Sequence[float], temperature: float) -> list[float]:
    """sqrt(2ηT) of each step."""
    return [math.sqrt(2.0 * eta * temperature) for eta in step_sizes]
