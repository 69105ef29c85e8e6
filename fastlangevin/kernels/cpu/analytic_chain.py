"""Whole chains of energies in closed form on the CPU."""

from __future__ import annotations

from torch import Tensor

from ..arguments import ChainArgs
from . import whole_chain


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
