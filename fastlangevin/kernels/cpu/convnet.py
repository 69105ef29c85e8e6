"""The score of a small convolutional energy in one native call.

A tower is a sequence of convolutions, each followed by a leaky ReLU. After its last activation the function is affine,
so that its gradient there is a constant, `last`; the score is what becomes of it on the way back to the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...network.layers import ConvTower
from .. import native

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Packed:
    """A tower's weights in the kernel's order, and what else it needs to know.

    Attributes:
        words: int32, opaque; bfloat16 weights lie in pairs.
        geometry: C, H, W of x, then for each layer O, kh, kw, and in y and x stride and padding.
        slopes: of the activations, one a layer.
    """

    words: Tensor
    geometry: tuple[int, ...]
    slopes: tuple[float, ...]
    precision: str


def unsupported(layers: ConvTower, x_shape: Sequence[int], precision: str) -> str | None:
    """Why the kernel cannot serve a tower, or None where it can; may compile or load the native library.

    Args:
        layers: convolutions with the slope below zero of the activation after each.
        x_shape: (C, H, W) of one chain.
        precision: "fp32" or "bf16".
    """
    if precision not in PRECISIONS:
        return f"its precisions are fp32 and bf16, not {precision}"
    if not layers:
        return "there is no convolution"
    channels, *size = x_shape
    for conv, slope in layers:
        if conv.weight.dtype != torch.float32 or conv.weight.device.type != "cpu":
            return f"its weights are float32 on the CPU, not {conv.weight.dtype} on {conv.weight.device.type}"
        if conv.groups != 1:
            return "a convolution has groups"
        if tuple(conv.dilation) != (1, 1):
            return "a convolution has dilation"
        if not slope >= 0:
            return f"an activation has the negative slope {slope}"
        if conv.weight.shape[1] != channels:
            return f"a convolution takes {conv.weight.shape[1]} channels and gets {channels}"
        geometry = zip(size, conv.padding, conv.weight.shape[2:], conv.stride, strict=True)
        size = [(n + 2 * p - k) // s + 1 for n, p, k, s in geometry]
        if min(size) < 1:
            return "a kernel is larger than what it is applied to"
        channels = conv.weight.shape[0]
    why = native.load_cpu()
    if why is None and precision == "bf16" and not native.cpu_has_bfloat16():
        return f"no bfloat16 arithmetic: it needs AVX512_BF16, and {native.cpu_capability()} is in force"
    return why


def pack(layers: ConvTower, last: Tensor, x_shape: Sequence[int], precision: str) -> Packed:
    """Packs the weights; call it again when they have changed.

    Args:
        layers, x_shape, precision: a tower that is not `unsupported`.
        last: (C, H, W), the gradient at the last activation's output, sign included.
    """
    geometry, weights, biases, slopes = list(x_shape), [], [], []
    for conv, slope in layers:
        geometry += [conv.weight.shape[0], *conv.weight.shape[2:], *conv.stride, *conv.padding]
        weights.append(conv.weight.detach().contiguous())
        biases.append(None if conv.bias is None else conv.bias.detach().contiguous())
        slopes.append(slope)
    words = torch.ops.fastlangevin.convnet_pack_cpu(
        weights, biases, last.detach().contiguous(), geometry, slopes, precision == "bf16"
    )
    return Packed(words, tuple(geometry), tuple(slopes), precision)


def score(packed: Packed, x: Tensor) -> Tensor:
    """The score at x, (B, C, H, W) in float32: a new contiguous tensor. Each chain's is the same in any batch."""
    return torch.ops.fastlangevin.convnet_score_cpu(
        x.contiguous(), packed.words, packed.geometry, packed.slopes, packed.precision == "bf16"
    )
