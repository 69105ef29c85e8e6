"""The engine of convnets. For consecutive convolutions with (leaky) ReLU it has custom kernels that run all layers."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..kernels import native
from ..kernels.arguments import ChainArgs, MetropolisMemory, TransitionArgs, TransitionKind, UpdateArgs
from ..kernels.cpu import convnet as convnet_cpu
from ..kernels.native import BFloat16Rate
from ..kernels.triton import convnet as convnet_triton
from ..network import walk
from ..network.layers import Activation, Conv, ConvTower
from ..network.sequential import Sequential
from .sequential import SequentialEngine, SequentialScore
from .torch_ops import TorchOpsScore


def as_tower(network: Sequential) -> ConvTower | None:
    """The convolutions before the affine tail, each with the slope below zero of the activation after it; None for any
    other kind of network.
    """
    layers = network.layers[: network.tail]
    if network.quadratic or network.is_over_classes:
        return None
    tower = []
    for conv, activation in zip(layers[::2], layers[1::2], strict=False):
        if not isinstance(conv, Conv) or not isinstance(activation, Activation) or activation.slope is None:
            return None
        tower.append((conv, activation.slope))
    return tower if 2 * len(tower) == len(layers) > 0 else None


def _leaves_amx_to_torch() -> bool:
    return native.cpu_bfloat16_rate() == BFloat16Rate.AMX and native.cpu_capability() != "amx"


class NativeConvNetScore(SequentialScore):
    """One C++ call per chain, or score, on a CPU (`kernels/cpu/convnet`)."""

    name = "convnet"
    kernels = "native kernels"
    updates_with = "cpu"

    def __init__(self, network: Sequential, precision: str, x: Tensor) -> None:
        super().__init__(network, precision, x)
        last = walk.last_gradient(network, x.device)[0]
        self._packed = convnet_cpu.pack(as_tower(network) or [], last, x.shape[1:], precision)

    @staticmethod
    def unsupported(network: Sequential, precision: str, x: Tensor) -> str | None:
        tower = as_tower(network)
        if x.device.type != "cpu":
            return f"they run on the CPU, not on {x.device.type}"
        if tower is None:
            return "they support only consecutive convolutions with (leaky) ReLU"
        why = convnet_cpu.unsupported(tower, x.shape[1:], precision)
        if why is None and precision == "bf16" and _leaves_amx_to_torch():
            return "this processor multiplies bfloat16 by AMX, which torch's operators use"
        return why

    def __call__(self, x: Tensor) -> Tensor:
        return convnet_cpu.score(self._packed, x.to(torch.float32)).to(x.dtype)

    def energy(self, x: Tensor) -> Tensor:
        return convnet_cpu.energy(self._packed, x.to(torch.float32), self._offset)

    def energy_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        energies, score = convnet_cpu.energy_and_score(self._packed, x.to(torch.float32), self._offset)
        return energies, score.to(x.dtype)

    @functools.cached_property
    def _offset(self) -> float:
        return float(walk.last_offset(self.network, torch.device("cpu")))

    def run_chain_(self, x: Tensor, args: ChainArgs) -> bool:
        if x.dtype != torch.float32 or not x.is_contiguous() or x.is_neg() or not len(x):
            return False
        convnet_cpu.run_(self._packed, x, args)
        return True

    def runs_transitions(self, x: Tensor, kind: TransitionKind) -> bool:
        return x.dtype == torch.float32 and not x.is_neg()

    def run_transitions_(self, x: Tensor, memory: MetropolisMemory | Tensor, args: TransitionArgs) -> None:
        convnet_cpu.run_transitions_(self._packed, x, memory, args, self._offset)


class TritonConvNetScore(SequentialScore):
    """Two Triton kernels per layer and step on a GPU, the last with the Langevin update (`kernels/triton/convnet`)."""

    name = "convnet"
    kernels = "fused Triton kernels"
    updates_with = "triton"

    def __init__(self, network: Sequential, precision: str, x: Tensor) -> None:
        super().__init__(network, precision, x)
        last = walk.last_gradient(network, x.device)[0]
        self._packed = convnet_triton.pack(as_tower(network) or [], last, tuple(x.shape[1:]), precision)

    @staticmethod
    def unsupported(network: Sequential, precision: str, x: Tensor) -> str | None:
        tower = as_tower(network)
        if tower is None:
            return "they support only consecutive convolutions with (leaky) ReLU"
        return convnet_triton.unsupported(tower, tuple(x.shape[1:]), precision, x.device)

    def __call__(self, x: Tensor) -> Tensor:
        return convnet_triton.score(self._packed, x.to(torch.float32).contiguous()).to(x.dtype)

    def energy(self, x: Tensor) -> Tensor:
        return convnet_triton.energy(self._packed, x.to(torch.float32).contiguous(), self._offset)

    def energy_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        energies, score = convnet_triton.energy_and_score(self._packed, x.to(torch.float32).contiguous(), self._offset)
        return energies, score.to(x.dtype)

    @functools.cached_property
    def _offset(self) -> Tensor:
        return walk.last_offset(self.network, self._packed.last.device).double()

    def fused_step_(self, x: Tensor, args: UpdateArgs) -> bool:
        if x.dtype != torch.float32 or not x.is_contiguous():
            return False
        convnet_triton.step_(self._packed, x, args)
        return True

    def run_chain_(self, x: Tensor, args: ChainArgs) -> bool:
        if x.dtype != torch.float32 or not x.is_contiguous():
            return False
        return convnet_triton.run_chain_(self._packed, x, args)


class ConvNetEngine(SequentialEngine):
    """Consecutive convolutions, linear layers, average pools, element-wise functions and reshapes, down to one number.

    With h_i = layer_i(h_{i-1}), h_0 = x, the score is J_1ᵀ ⋯ J_nᵀ (±1). The part after the last activation is affine,
    so its product of Jacobians is a constant: neither its forward nor its backward is computed. Weights are read, and
    converted to the precision and layout of the computation, once per call.
    """

    name = "convnet"
    implementations = (TritonConvNetScore, NativeConvNetScore, TorchOpsScore)
