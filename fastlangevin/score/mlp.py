"""The engine of alternating linear layers and activations, whose kernels run all steps of a chain in one call."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..kernels import native, triton
from ..kernels.arguments import ChainArgs
from ..kernels.cpu import mlp_chain
from ..network import walk
from ..network.layers import Activation, Linear
from ..network.sequential import Sequential
from .sequential import SequentialEngine
from .torch_ops import TorchOpsScore


class MlpScore(TorchOpsScore):
    """Whole chains by the kernels of a subclass; a single score by torch's operators."""

    name = "mlp"

    def __init__(self, network: Sequential, precision: str, x: Tensor) -> None:
        super().__init__(network, precision, x)
        self._precision = precision
        # log p = direction · h - ½ prior ‖x‖², h the last hidden layer's activations
        direction, prior = walk.last_gradient(network, x.device)[0], -2 * network.quadratic
        self._energy = (network.layers[: network.tail], direction, prior)

    def run_chain_(self, x: Tensor, args: ChainArgs) -> bool:
        if x.dtype != torch.float32 or not x.is_contiguous():
            return False
        if x.is_cuda and not isinstance(args.step_sizes[0], Tensor) and torch.cuda.is_current_stream_capturing():
            return False  # the caller's graph cannot copy the numbers from the host
        self._run_chain_(x, args)
        return True

    @abstractmethod
    def _run_chain_(self, x: Tensor, args: ChainArgs) -> None: ...


class NativeMlpScore(MlpScore):
    """In C++ on a CPU, float32."""

    kernels = "native whole-chain kernels"
    updates_with = "cpu"

    @staticmethod
    def unsupported(network: Sequential, precision: str, x: Tensor) -> str | None:
        if x.device.type != "cpu":
            return f"they run on the CPU, not on {x.device.type}"
        if precision != "fp32":
            return f"they compute in fp32, not in {precision}"
        layers = network.layers[: network.tail]
        return _not_an_mlp(network, x) or mlp_chain.unsupported(layers, x.shape[1]) or native.load_cpu()

    def _run_chain_(self, x: Tensor, args: ChainArgs) -> None:
        mlp_chain.run_(*self._energy, x, args)


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
        from ..kernels.triton import mlp_chain as kernel

        return kernel.unsupported(network.layers[: network.tail], x.shape[1], precision, x.device)

    def _run_chain_(self, x: Tensor, args: ChainArgs) -> None:
        from ..kernels.triton import mlp_chain as kernel

        kernel.run_(*self._energy, x, args, self._precision)


class MlpEngine(SequentialEngine):
    """Alternating linear layers and activations: a chain's steps in one call, with weights and state on the chip."""

    name = "mlp"
    implementations = (NativeMlpScore, TritonMlpScore)


def _not_an_mlp(network: Sequential, x: Tensor) -> str | None:
    layers = network.layers[: network.tail]
    alternating = all(isinstance(la, Activation if i % 2 else Linear) for i, la in enumerate(layers))
    if x.dim() != 2 or not layers or not alternating or len(layers) % 2:
        return "they support only alternating linear layers and activations, on vectors"
    return None if x.dtype == torch.float32 else f"they need float32 states, got {x.dtype}"
