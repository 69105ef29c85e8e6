"""Whole chains of energies in closed form on the CPU."""

from __future__ import annotations

from torch import Tensor

from ..arguments import ChainArgs, MetropolisMemory, TransitionArgs
from . import transitions, whole_chain

MOST_DIMENSIONS = 1024  # of transitions: those of 256 chains need 50 KB of memory for each


def mixture_(
    constants: Tensor,  # (K,) contiguous float32
    means: Tensor,  # (K, d) contiguous float32
    precisions: Tensor,  # (K, d) contiguous float32
    x: Tensor,  # (B, d) contiguous float32
    args: ChainArgs,
) -> None:
    """Chains of p(x) ∝ Σ_k exp(constants_k - ½ Σ_i precisions_ki (x_i - means_ki)²), in place."""
    whole_chain.run_("mixture_chain_cpu_", x, (constants, means, precisions), args)


def double_well_(barrier: float, width: float, x: Tensor, args: ChainArgs) -> None:
    """Chains of U(x) = barrier Σ_i ((x_i / width)² - 1)², x (B, d) contiguous float32, in place."""
    whole_chain.run_("double_well_chain_cpu_", x, (barrier, width), args)


def mixture_transitions_(
    constants: Tensor,
    means: Tensor,
    precisions: Tensor,
    x: Tensor,
    memory: MetropolisMemory | Tensor,
    args: TransitionArgs,
) -> None:
    """Other transitions of the chains of `mixture_`, in place."""
    transitions.run_("mixture_transitions_cpu_", x, (constants, means, precisions), memory, args)


def double_well_transitions_(
    barrier: float, width: float, x: Tensor, memory: MetropolisMemory | Tensor, args: TransitionArgs
) -> None:
    """Other transitions of the chains of `double_well_`, in place."""
    transitions.run_("double_well_transitions_cpu_", x, (barrier, width), memory, args)
