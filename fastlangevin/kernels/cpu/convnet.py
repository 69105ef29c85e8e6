"""Scores, and whole chains, of a small convolutional energy in one native call.

A tower is a sequence of convolutions, each followed by a leaky ReLU. After its last activation the function is affine,
so its gradient there is a constant, `last`. The score is this gradient, propagated back to the input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...network.layers import Conv, ConvTower
from .. import native
from ..arguments import ChainArgs, MetropolisMemory, TransitionArgs
from . import transitions, whole_chain

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Packed:
    """A tower's weights in the kernel's order, and the other arguments of the kernel.

    Attributes:
        words: int32, opaque; bfloat16 weights are stored in pairs.
        geometry: C, H, W of x, then for each layer O, kh, kw, the strides in y and x, and the paddings in y and x.
        slopes: of the activations, one per layer.
        multiply_adds: of the score of one image.
    """

    words: Tensor
    geometry: tuple[int, ...]
    slopes: tuple[float, ...]
    precision: str
    multiply_adds: int


def unsupported(layers: ConvTower, x_shape: Sequence[int], precision: str) -> str | None:
    """Why the kernel does not support a tower, or None if it does. May compile or load the native library.

    Args:
        layers: convolutions with the slope below zero of the activation after each.
        x_shape: (C, H, W) of one chain.
        precision: "fp32" or "bf16".
    """
    if precision not in PRECISIONS:
        return f"precision must be fp32 or bf16, got {precision}"
    if not layers:
        return "the network has no convolution"
    channels, *size = x_shape
    for conv, slope in layers:
        if conv.weight.dtype != torch.float32 or conv.weight.device.type != "cpu":
            return f"weights must be float32 on the CPU, got {conv.weight.dtype} on {conv.weight.device.type}"
        if conv.groups != 1:
            return "a convolution has groups"
        if tuple(conv.dilation) != (1, 1):
            return "a convolution has dilation"
        if not slope >= 0:
            return f"an activation has the negative slope {slope}"
        if conv.weight.shape[1] != channels:
            return f"a convolution expects {conv.weight.shape[1]} input channels, got {channels}"
        size = _output_size(conv, size)
        if min(size) < 1:
            return "a kernel is larger than its input"
        channels = conv.weight.shape[0]
    why = native.load_cpu()
    if why is None and precision == "bf16" and not native.cpu_has_bfloat16():
        return f"bfloat16 needs AVX512_BF16, and the instruction set in use is {native.cpu_capability()}"
    return why


def _output_size(conv: Conv, size: Sequence[int]) -> list[int]:
    geometry = zip(size, conv.padding, conv.weight.shape[2:], conv.stride, strict=True)
    return [(n + 2 * p - k) // s + 1 for n, p, k, s in geometry]


def pack(layers: ConvTower, last: Tensor, x_shape: Sequence[int], precision: str) -> Packed:
    """Packs the weights; call it again when they have changed.

    Args:
        layers, x_shape, precision: a supported tower, see `unsupported`.
        last: (C, H, W), the gradient at the last activation's output, sign included.
    """
    geometry, weights, biases, slopes = list(x_shape), [], [], []
    size, multiply_adds = list(x_shape[1:]), 0
    for conv, slope in layers:
        size = _output_size(conv, size)
        multiply_adds += 2 * conv.weight.numel() * math.prod(size)
        geometry += [conv.weight.shape[0], *conv.weight.shape[2:], *conv.stride, *conv.padding]
        weights.append(conv.weight.detach().contiguous())
        biases.append(None if conv.bias is None else conv.bias.detach().contiguous())
        slopes.append(slope)
    words = torch.ops.fastlangevin.convnet_pack_cpu(
        weights, biases, last.detach().contiguous(), geometry, slopes, precision == "bf16"
    )
    return Packed(words, tuple(geometry), tuple(slopes), precision, multiply_adds)


def score(packed: Packed, x: Tensor) -> Tensor:
    """The score at x, (B, C, H, W) in float32: a new contiguous tensor. It does not depend on the batch."""
    return torch.ops.fastlangevin.convnet_score_cpu(
        x.contiguous(), packed.words, packed.geometry, packed.slopes, packed.precision == "bf16"
    )


def energy(packed: Packed, x: Tensor, offset: float) -> Tensor:
    """(B,) energies at x, -(offset + Σ last · h(x)) with h the last activation.

    Their products are added in float64, in an order that does not depend on the batch.
    """
    return torch.ops.fastlangevin.convnet_energy_cpu(
        x.contiguous(), packed.words, packed.geometry, packed.slopes, packed.precision == "bf16", offset
    )


def energy_and_score(packed: Packed, x: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    """The bits of `energy` and of `score`, in one pass."""
    return torch.ops.fastlangevin.convnet_energy_and_score_cpu(
        x.contiguous(), packed.words, packed.geometry, packed.slopes, packed.precision == "bf16", offset
    )


def run_(packed: Packed, x: Tensor, args: ChainArgs) -> None:
    """All steps of the chains x, (B, C, H, W) contiguous float32, in place. See `whole_chain.run_`."""
    energy = (packed.words, packed.geometry, packed.slopes, packed.precision == "bf16")
    whole_chain.run_("convnet_chain_cpu_", x.view(len(x), -1), energy, args, packed.multiply_adds)


def run_transitions_(
    packed: Packed, x: Tensor, memory: MetropolisMemory | Tensor, args: TransitionArgs, offset: float
) -> None:
    """Other transitions of the chains of `run_`, in place, for the energies of `energy`. See `transitions.run_`."""
    energy = (packed.words, packed.geometry, packed.slopes, packed.precision == "bf16", offset)
    transitions.run_("convnet_transitions_cpu_", x.flatten(1), energy, memory, args, packed.multiply_adds)
