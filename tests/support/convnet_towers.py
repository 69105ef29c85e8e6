"""Towers of convolutions for the convnet's native kernels: of awkward shapes, and of whole numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import torch

from fastlangevin.network import walk
from fastlangevin.network.layers import Activation, Conv, Linear

from . import network_bounds
from .error_bounds import Roundings
from .network_bounds import Exact


def conv(outs, ins, kernel, stride=1, padding=0, bias=True, seed=0) -> Conv:
    pair = lambda v: v if isinstance(v, tuple) else (v, v)
    generator = torch.Generator().manual_seed(seed)
    kh, kw = pair(kernel)
    weight = torch.randn(outs, ins, kh, kw, generator=generator) * (2 / (ins * kh * kw)) ** 0.5
    shift = torch.randn(outs, generator=generator) * 0.3 if bias else None
    return Conv(weight, shift, pair(stride), pair(padding), (1, 1), 1)


# x's shape, and for each layer: channels, kernel, stride, padding, slope, bias or not.
TOWERS = {
    "paper-8x8": ((1, 8, 8), [(32, 3, 1, 1, 0.2, True), (64, 4, 2, 1, 0.2, True)]),
    "paper-16x16": ((3, 16, 16), [(32, 3, 1, 1, 0.2, True), (64, 4, 2, 1, 0.2, True), (128, 4, 2, 1, 0.2, True)]),
    "one-layer": ((5, 4, 7), [(33, 3, 1, 1, 0.2, True)]),
    "pixel": ((1, 1, 1), [(1, 1, 1, 0, 0.5, True)]),
    "relu": ((3, 9, 9), [(16, 3, 1, 1, 0.0, True), (48, 3, 1, 1, 0.0, True), (5, 3, 1, 0, 0.0, False)]),
    "steep": ((2, 6, 5), [(17, 3, 1, 1, 1.5, True), (9, 2, 1, 0, 1.0, True)]),
    "ragged": ((5, 13, 17), [(33, (3, 2), (1, 2), (1, 0), 0.2, True), (65, (4, 5), (3, 2), (2, 1), 0.0, False)]),
    "stride-over-kernel": ((3, 10, 11), [(5, 2, 3, 0, 0.2, True), (7, 1, 2, 0, 0.1, True)]),
    "padding-over-kernel": ((1, 4, 5), [(3, 1, 1, 2, 0.2, True), (32, 2, 3, 2, 0.2, True)]),
    "kernel-5": ((3, 12, 7), [(32, 5, 1, 2, 0.2, True), (16, 5, 3, 2, 0.2, True)]),
    "kernel-over-image": ((2, 1, 3), [(16, 5, 1, 2, 0.2, True), (7, (1, 5), 1, (0, 2), 0.2, True)]),
    "image-of-4": ((4, 4, 3), [(16, 3, 1, 1, 0.2, True)]),
    "image-of-7": ((7, 3, 5), [(17, 3, 2, 1, 0.2, True)]),
    "tiles": ((3, 9, 6), [(48, 1, 1, 0, 0.2, True), (80, 4, 2, 0, 0.2, True)]),
    "tiles-odd": ((3, 4, 13), [(64, 1, 1, 0, 0.2, True), (80, 4, 2, 2, 0.0, False)]),
    "tiles-deep": ((2, 8, 6), [(130, 1, 1, 0, 0.2, False), (80, 4, 2, 0, 0.2, True)]),
    "tiles-of-1": ((2, 5, 6), [(64, 1, 1, 0, 0.2, True), (64, 2, 1, 0, 0.1, True), (65, 2, 1, 1, 0.2, True)]),
    "tiles-of-2x3": ((1, 8, 13), [(48, 1, 1, 0, 0.2, True), (64, (4, 6), (2, 3), (1, 2), 0.2, True)]),
    "wide": ((64, 5, 4), [(130, 3, 2, 1, 0.2, True), (112, 3, 1, 1, 0.2, True)]),
}
IN_TILES = [name for name in TOWERS if name.startswith("tiles")]


def build(shape, rows):
    """The layers, and a constant gradient at the last one's output."""
    layers, channels, h = [], shape[0], torch.zeros(1, *shape)
    for i, (outs, kernel, stride, padding, slope, bias) in enumerate(rows):
        layer = conv(outs, channels, kernel, stride, padding, bias, seed=i)
        layers.append((layer, slope))
        h, channels = walk.forward(layer, h), outs
    return layers, torch.randn(h.shape[1:], generator=torch.Generator().manual_seed(99))


def images(n, shape, seed=5):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def stack(layers, last):
    """As `network_bounds` takes it: last is the weights of a linear layer on top."""
    steps = [step for conv, slope in layers for step in (conv, Activation("leaky_relu", (slope,)))]
    return [*steps, torch.nn.Flatten(), Linear(last.flatten()[None], None)]


def whole_numbers(layers, last, x, dtype=torch.float64):
    """The same tower of whole numbers and slopes of quarters, as large as they may be that float32 adds them without
    an error once they are rounded to `dtype`: 2^24 is nearly reached. And its log-density without an offset and its
    score, with that rounding. float64 is for the kernel of float32.
    """
    for bits in range(10, -2, -1):
        whole = [
            (
                dataclasses.replace(
                    conv,
                    weight=(conv.weight * (conv.weight[0].numel() / 2) ** 0.5 * 2.0**bits).round(),
                    bias=None if conv.bias is None else (conv.bias * 3 * 4.0**bits).round(),
                ),
                math.ceil(4 * slope) / 4,
            )
            for conv, slope in layers
        ]
        end, images = (last * 2.0**bits).round(), (x * 4 * 2.0**bits).round()
        with contextlib.suppress(FloatingPointError):
            arithmetic = Exact(dtype=dtype, winograd=dtype == torch.float64)
            f, expected = network_bounds.log_density_and_score(
                Roundings(), stack(whole, end), images.double(), arithmetic
            )
            return whole, end, images, f.detach(), expected.detach()
    raise AssertionError("no whole numbers are short enough")
