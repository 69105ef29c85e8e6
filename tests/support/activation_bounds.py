"""What the kernels' activations and their derivatives may be off, for an argument without an error: what
`network_bounds.Arithmetic` asks for. test_mlp_chain.py of kernels/cpu and of kernels/triton hold the kernels to it.
"""

from __future__ import annotations

from torch import Tensor

from fastlangevin.kernels.cpu.mlp_chain import activation_args
from fastlangevin.network.layers import Activation

from . import triton_roundings
from .error_bounds import U
from .network_bounds import Arithmetic


def native(activation: Activation, z: Tensor, value: Tensor, derivative: Tensor) -> tuple[Tensor, Tensor]:
    """7 units in the last place of the value or of 0.1, and 2.5 of the derivative or of 1; a unit is at most 2u of the
    number. A leaky ReLU is a product with the slope rounded to float32.
    """
    if activation.slope is not None:
        return 2 * U * value.abs(), U * derivative.abs() * (derivative != 1)
    return 14 * U * value.abs().clamp_min(0.1), 5 * U * derivative.abs().clamp_min(1.0)


def triton(activation: Activation, z: Tensor, value: Tensor, derivative: Tensor) -> tuple[Tensor, Tensor]:
    """Of the formula in kernels/triton/mlp_chain.py."""
    from fastlangevin.kernels.triton.mlp_chain import _activate  # Triton may be missing

    kind, parameters = activation_args(activation)
    return triton_roundings.bounds(_activate, z, int(kind), parameters)


# Any order of the sums, as libraries' kernels have; leaky ReLUs alone, for their other activations promise nothing.
LIBRARY = Arithmetic(native)
NATIVE_MLP = Arithmetic(native, ascending=True)
TRITON_MLP = Arithmetic(triton)
