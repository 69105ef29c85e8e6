"""Whole chains of energies in closed form on the CPU: all Langevin steps in one call.

The noise and the update are those of `langevin_update_`, bit for bit, and a chain's result depends neither on the
number of threads nor on the chains beside it. The arguments after the energy's are `mlp_chain.run_`'s.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import chain_operators, native


def mixture_(
    constants: Tensor,  # (K,) contiguous float32
    means: Tensor,  # (K, d) contiguous float32
    precisions: Tensor,  # (K, d) contiguous float32
    x: Tensor,  # (B, d) contiguous float32
    *chain: Any,
) -> None:
    """Chains of p(x) ∝ Σ_k exp(constants_k - ½ Σ_i precisions_ki (x_i - means_ki)²), in place."""
    _run("mixture_chain_cpu_", x, (constants, means, precisions), chain)


def double_well_(barrier: float, width: float, x: Tensor, *chain: Any) -> None:
    """Chains of U(x) = barrier Σ_i ((x_i / width)² - 1)², x (B, d) contiguous float32, in place."""
    _run("double_well_chain_cpu_", x, (barrier, width), chain)


def _run(name: str, x: Tensor, energy: tuple[object, ...], chain: tuple[Any, ...]) -> None:
    why = native.load_cpu()
    if why:
        raise RuntimeError(why)
    chain_operators.run_(name, x, energy, *chain)
