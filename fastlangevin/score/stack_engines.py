"""The engines of energies that are a stack of known layers, and the kernels that compute their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from ..errors import BackendUnavailable
from ..network.errors import NotRecognised
from ..network.sequential import Sequential
from ..network.tracing import trace
from .autograd import AutogradScore
from .convnet import FusedScore, NativeScore
from .mlp import NativeMlpScore, TritonMlpScore
from .sequential import BoundStack
from .torch_ops import OperatorScore

Ways = tuple[type[BoundStack], ...]


class StackEngine(AutogradScore):
    """An engine for energies that `tracing.trace` recognises; a subclass has the ways to a score, fastest first.

    Raises (by `bind`):
        BackendUnavailable: the energy is not such a stack, as far as can be seen, or there is no way for it; the
            message says what is in the way.
    """

    ways: ClassVar[Ways]

    def bind(self, x: Tensor, args: Sequence[object]) -> BoundStack:
        try:
            stack = trace(self.target, x.shape, x.dtype, x.device, args)
            return bind_stack(stack, self.precision, x, self.ways)
        except NotRecognised as error:
            raise BackendUnavailable(
                f"engine={self.name!r} cannot be used for this {self.target.kind}: {error}"
            ) from None


class ConvNetScore(StackEngine):
    """Convolutions, linear layers, average pools, element-wise functions and reshapes in a row, down to one number.

    With h_i = layer_i(h_{i-1}), h_0 = x, the score is J_1ᵀ ⋯ J_nᵀ (±1). What follows the last activation is affine, so
    its product of Jacobians is one constant a chain: neither that part's forward nor its backward is computed. Weights
    are read, and brought into the precision and layout that they are used in, once a call.
    """

    name = "convnet"
    ways = (FusedScore, NativeScore, OperatorScore)


class MlpEngine(StackEngine):
    """Linear layers and activations by turns: all steps of a chain in one call, with weights and state on the chip."""

    name = "mlp"
    ways = (NativeMlpScore, TritonMlpScore)


ALL_WAYS: Ways = (*MlpEngine.ways, *ConvNetScore.ways)


def bind_stack(stack: Sequential, precision: str, x: Tensor, ways: Ways = ALL_WAYS) -> BoundStack:
    """The score of a stack by the first way that serves it."""
    way, _ = choose(stack, precision, x, ways)
    return way(stack, precision, x)


def choose(stack: Sequential, precision: str, x: Tensor, ways: Ways = ALL_WAYS) -> tuple[type[BoundStack], list[str]]:
    """The first way to compute a stack's score at states like x, and why those before it are passed over.

    Raises:
        NotRecognised: there is none.
    """
    reasons: list[str] = []
    for way in ways:
        why = way.unsupported(stack, precision, x)
        if why is None:
            return way, reasons
        reasons.append(f"{way.kernels} passed over: {why}")
    raise NotRecognised("; ".join(reasons))
