"""The arguments of the update and of whole chains, in the form in which the kernels of `csrc/` read them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor


class UpdateArgs(NamedTuple):
    """The arguments of the update after the state and the score, in the operators' order.

    The first four are Python numbers, or tensors on the state's device: float64, int64 of one element for the counters.
    """

    step_size: Tensor | float | None  # η; a tensor of one element, or of one for each chain; None without a score
    noise_std: Tensor | float | None  # σ, likewise; None: no noise
    seed: Tensor | int  # of the noise stream
    step: Tensor | int  # of the noise stream
    stream: int  # of the noise stream
    offset: int  # of the state's first element in the noise stream
    grad_clip: float | None  # limit on every element of the score; None: no limit
    lo: float | None  # limits on the new state; None: no limit
    hi: float | None


def n_chains(x: Tensor) -> int:
    """The number of chains of a state (B, *event)."""
    return len(x) if x.dim() else 1


def is_per_chain(number: Tensor | float | None) -> bool:
    """Whether a step size or noise level has a value for each chain."""
    return isinstance(number, Tensor) and number.numel() != 1


class Momentum(NamedTuple):
    """The masses of velocities, in the velocities' type: None for masses of 1, or tensors of a chain's elements, or of
    all elements of a batch, which repeat over the elements of a state.
    """

    masses: Tensor | None  # m
    weights: Tensor | None  # w = 1 / m
    roots: Tensor | None  # r = 1 / sqrt(m)


class MoveArgs(NamedTuple):
    """The arguments of `velocity_move` after state, velocities, score and masses. Numbers are Python's, or tensors of
    one element on the state's device: float64, and int64 for seed and step.
    """

    draws: bool  # whether velocities are drawn first
    kick: float | Tensor | None  # times score and inverse mass, what is added to the velocities; None: nothing
    n_kicks: int  # how often: once or twice
    drift: float | Tensor  # times velocity, what is added to the state
    decay: float | Tensor | None  # of the velocities before new noise is added, and a second drift; None: neither
    noise_std: float | Tensor  # of the noise of a mass of 1
    seed: int | Tensor  # of the noise stream
    step: int | Tensor  # of the noise stream
    stream: int  # of the noise stream
    offset: int  # of the state's first element in the noise stream


class MetropolisMemory(NamedTuple):
    """What a Metropolis test reads and writes beside the states (B, *event), all contiguous."""

    energy: Tensor  # (B,) float64, U at the states
    score: Tensor  # at the states, of their shape and type
    log_ratio: Tensor  # (B,) float64, of the last test
    n_accepted: Tensor  # (B,) int64, tests that were passed
    n_rejected: Tensor  # (B,) int64, tests since the last one that was passed


class MetropolisArgs(NamedTuple):
    """The arguments of a Metropolis test. Numbers are as in `MoveArgs`."""

    step_size: float | Tensor  # η, of Langevin proposals; unread for trajectories
    kick: float | Tensor  # the last one of a trajectory; unread for Langevin proposals, like the next one
    noise_std: float | Tensor  # of the velocities that were drawn, for a mass of 1
    temperature: float | Tensor  # T: the density is exp(-U / T)
    lo: float  # limits of the state, beyond which the density is 0; infinities where there is no such limit
    hi: float
    seed: int | Tensor  # of the noise stream
    step: int | Tensor  # of the noise stream
    stream: int  # of the noise stream, for the velocities
    offset: int  # of the state's first element in the noise stream
    test_stream: int  # of the noise stream, for the uniform numbers of the tests
    first_chain: int  # place of the state's first chain in the whole batch


class TransitionKind(enum.IntEnum):
    """The transitions that kernels run whole chains of, beside Langevin steps: those of csrc/cpu/transitions.h."""

    mala = 0
    hmc = 1
    underdamped = 2


class TransitionArgs(NamedTuple):
    """The arguments of n transitions of whole chains. Numbers are Python's."""

    kind: TransitionKind
    step_sizes: Sequence[float]  # n of them
    noise_stds: Sequence[float]  # of a Langevin proposal, or of the velocities of a mass of 1; n of them
    decays: Sequence[float]  # of the velocities before new noise is added, of underdamped dynamics alone; n of them
    n_leapfrog: int  # steps of a trajectory, of HMC alone
    temperature: float
    momentum: Momentum
    lo: float  # limits of the state, beyond which the density is 0; infinities where there is no such limit
    hi: float
    seed: int  # of the noise stream
    steps: Sequence[int]  # of the noise stream: n consecutive ones
    stream: int  # of the noise stream, for normal numbers
    offset: int  # of the state's first element in the noise stream
    test_stream: int  # of the noise stream, for the uniform numbers of Metropolis tests
    first_chain: int  # place of the state's first chain in the whole batch


class ChainArgs(NamedTuple):
    """The arguments of K steps of a chain after the state. Numbers are Python's, or tensors on the state's device."""

    step_sizes: Sequence[float | Tensor]  # η_k, K of them
    noise_stds: Sequence[float | Tensor]  # σ_k, K of them
    has_noise: bool  # whether noise is drawn if `noise_first` is False
    seed: int | Tensor  # of the noise stream
    steps: Sequence[int | Tensor]  # of the noise stream: K consecutive ones
    offset: int  # of the state's first element in the noise stream
    grad_clip: float | None  # limit on every element of the score; None: no limit
    lo: float | None  # limits on the new state; None: no limit
    hi: float | None
    noise_first: bool | Literal["clamp"]  # see `LangevinChain`

    @property
    def order(self) -> NoiseFirst:
        return NoiseFirst.clamp if self.noise_first == "clamp" else NoiseFirst(int(self.noise_first))


class NoiseFirst(enum.IntEnum):
    """`NoiseFirst` of csrc/cpu/chain.h."""

    no = 0
    yes = 1
    clamp = 2


class ActivationKind(enum.IntEnum):
    """`ActivationKind` of csrc/cpu/chain.h. A ReLU is a leaky ReLU of slope 0."""

    leaky_relu = 0
    silu = 1
    gelu = 2
    gelu_tanh = 3
    tanh = 4
    softplus = 5
    elu = 6


class ActivationArgs(NamedTuple):
    """An activation as the kernels of MLPs read it."""

    kind: ActivationKind
    parameters: tuple[float, float]  # leaky_relu: slope; softplus: beta, threshold; elu: alpha; 0 for the rest
