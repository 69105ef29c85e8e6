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
