"""The engine of alternating linear layers and activations, whose kernels run all steps of a chain in one call."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..kernels import triton
from ..kernels.arguments import ChainArgs, MetropolisMemory, TransitionArgs, TransitionKind
from ..kernels.cpu import mlp_chain
from ..network import walk
from ..network.layers import Activation, Layer, Linear, LogSumExp, Reshape
from ..network.sequential import Sequential
from .sequential import SequentialEngine
from .torch_ops import TorchOpsScore

# A product of the native kernel has at least 8 chains (16 with AVX-512). For fewer, and layers so wide that the time of
# reading their weights counts, torch's products are faster: measured in docs/performance.md.
_FEW_CHAINS, _MANY_WEIGHTS = 8, 2**19
# Of a product on average. In smaller ones rounding to bfloat16 costs more than AMX gains: measured there too.
_FEW_WEIGHTS = 2048


class MlpScore(TorchOpsScore):
    """Whole chains by the kernels of a subclass; a single score by torch's operators."""

    name = "mlp"

    def __init__(self, network: Sequential, precision: str, x: Tensor) -> None:
        super().__init__(network, precision, x)
        self._precision = precision
        # log p = direction · h - ½ prior ‖x‖², h the output of the last nonlinear layer
        direction = walk.last_gradient(network, x.device)
        last = direction.flatten() if len(direction) == 1 else direction.reshape(len(x), -1)
        self._energy = (_layers(network), last, -2 * network.quadratic)

    def run_chain_(self, x: Tensor, args: ChainArgs) -> bool:
        if x.dtype != torch.float32 or not x.is_contiguous():
            return False
        if x.is_cuda and not isinstance(args.step_sizes[0], Tensor) and torch.cuda.is_current_stream_capturing():
            return False  # the caller's graph cannot copy the numbers from the host
        self._run_chain_(x.view(len(x), -1) if len(x) else x.flatten(1), args)
        return True

    @abstractmethod
    def _run_chain_(self, x: Tensor, args: ChainArgs) -> None:
        """All steps of x (B, d), in place."""


class NativeMlpScore(MlpScore):
    """In C++ on a CPU, in float32 or bfloat16."""

    kernels = "native whole-chain kernels"
    updates_with = "cpu"

    @staticmethod
    def unsupported(network: Sequential, precision: str, x: Tensor) -> str | None:
        if x.device.type != "cpu":
            return f"they run on the CPU, not on {x.device.type}"
        return _not_an_mlp(network, x) or mlp_chain.unsupported(_layers(network), _n_inputs(network), precision)

    @staticmethod
    def slower(network: Sequential, precision: str, x: Tensor) -> str | None:
        sizes = [layer.weight.numel() for layer in _layers(network) if isinstance(layer, Linear)]
        n_weights = sum(sizes)
        if precision == "bf16" and n_weights < _FEW_WEIGHTS * len(sizes):
            return f"float32 is faster for {len(sizes)} products of {n_weights} weights in all"
        if not 0 < len(x) < _FEW_CHAINS or n_weights <= _MANY_WEIGHTS:
            return None
        return f"{len(x)} chains do not fill a block of {_FEW_CHAINS}, and the network has {n_weights} weights"

    def _run_chain_(self, x: Tensor, args: ChainArgs) -> None:
        mlp_chain.run_(*self._energy, x, args, self._precision)

    def runs_transitions(self, x: Tensor, kind: TransitionKind) -> bool:
        return x.dtype == torch.float32

    def run_transitions_(self, x: Tensor, memory: MetropolisMemory | Tensor, args: TransitionArgs) -> None:
        mlp_chain.run_transitions_(
            *self._energy, x.view(len(x), -1) if len(x) else x.flatten(1), memory, args, self._precision
        )


class TritonMlpScore(MlpScore):
    """In Triton on a GPU, in any precision."""

    kernels = "Triton whole-chain kernels"
    updates_with = "triton"

    @staticmethod
    def unsupported(network: Sequential, precision: str, x: Tensor) -> str | None:
        if x.device.type != triton.DEVICE:
            return f"they run on {triton.DEVICE} tensors, not on {x.device.type}"
        if triton.DEVICE == "cpu" and precision == "bf16":
            return "Triton's interpreter does not support bfloat16 products"
        why = triton.unsupported() or _not_an_mlp(network, x)
        if why is not None:
            return why
        if network.is_over_classes:
            return "they support no head over classes"
        from ..kernels.triton import mlp_chain as kernel

        return kernel.unsupported(_layers(network), _n_inputs(network), precision, x.device)

    def _run_chain_(self, x: Tensor, args: ChainArgs) -> None:
        from ..kernels.triton import mlp_chain as kernel

        kernel.run_(*self._energy, x, args, self._precision)


class MlpEngine(SequentialEngine):
    """Alternating linear layers and activations: a chain's steps in one call, with weights and state on the chip."""

    name = "mlp"
    implementations = (NativeMlpScore, TritonMlpScore)


def _first(network: Sequential) -> int:
    """The index of the first layer after the state is flattened."""
    return int(bool(network.layers) and isinstance(network.layers[0], Reshape))


def _layers(network: Sequential) -> tuple[Layer, ...]:
    return network.layers[_first(network) : network.tail]


def _n_inputs(network: Sequential) -> int:
    return network.shapes[_first(network)][0]


def _not_an_mlp(network: Sequential, x: Tensor) -> str | None:
    layers, shapes = _layers(network), network.shapes[_first(network) : network.tail]
    kinds: list[type[Layer]] = [(Linear, Activation)[i % 2] for i in range(len(layers))]
    if layers and isinstance(layers[-1], LogSumExp):
        kinds[-1] = LogSumExp
    alternating = all(isinstance(la, kind) for la, kind in zip(layers, kinds, strict=True))
    if not layers or not alternating or len(layers) % 2 or any(len(shape) != 1 for shape in shapes):
        return "they support only alternating linear layers and activations, on vectors"
    return None if x.dtype == torch.float32 else f"they need float32 states, got {x.dtype}"
