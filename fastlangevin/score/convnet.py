"""The engine of energies that are a stack of known layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import BackendUnavailable
from .autograd import AutogradScore
from .bound_stack import BoundStack
from .closed_form import OperatorScore
from .stack import Stack
from .tower import FusedScore, NativeScore
from .tracing import NotRecognised, trace


class ConvNetScore(AutogradScore):
    """The engine for energies that are layers in a row: convolutions, linear layers, average pools, element-wise
    functions and reshapes, ending in one number a chain (`tracing.trace` says exactly which).

    With h_i = layer_i(h_{i-1}), h_0 = x, the score is J_1ᵀ ⋯ J_nᵀ (±1). What follows the last activation is affine, so
    its product of Jacobians is one constant a chain: neither that part's forward nor its backward is computed. Weights
    are read, and brought into the precision and layout that they are used in, once a call.

    Raises (by `bind`):
        BackendUnavailable: the energy is not such a stack, as far as can be seen; the message says what is in the way.
    """

    name = "convnet"

    def bind(self, x: Tensor, args: Sequence[object]) -> BoundStack:
        try:
            stack = trace(self.target, x.shape, x.dtype, x.device, args)
        except NotRecognised as error:
            raise BackendUnavailable(f"engine='convnet' cannot be used for this {self.target.kind}: {error}") from None
        return bind_stack(stack, self.precision, x)


def bind_stack(stack: Stack, precision: str, x: Tensor) -> BoundStack:
    """The score of a stack by the fastest kernels that serve it."""
    kind, _ = choose(stack, precision, x)
    return kind(stack, precision, x)


def choose(stack: Stack, precision: str, x: Tensor) -> tuple[type[BoundStack], list[str]]:
    """The fastest way to compute a stack's score at states like x, and why faster ones are passed over."""
    reasons: list[str] = []
    ways: tuple[type[FusedScore] | type[NativeScore], ...] = (FusedScore, NativeScore)
    for kind in ways:
        why = kind.unsupported(stack, precision, x)
        if why is None:
            return kind, reasons
        reasons.append(f"{kind.kernels} passed over: {why}")
    return OperatorScore, reasons
