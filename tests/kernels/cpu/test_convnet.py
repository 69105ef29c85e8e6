"""The convnet's native score: against float64 and a bfloat16 reference, bits whatever the batch, bad input."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import network_bounds
from support.activation_bounds import LIBRARY
from support.error_bounds import Roundings, assert_within
from support.network_bounds import Exact
from torch.nn.functional import conv2d, leaky_relu

from fastlangevin.kernels import native
from fastlangevin.kernels.cpu import convnet as convnet_cpu
from fastlangevin.network import walk
from fastlangevin.network.layers import Activation, Conv, Linear

pytestmark = pytest.mark.skipif(native.load_cpu() is not None, reason="no cpu kernels here")

needs_bf16 = pytest.mark.skipif(
    native.load_cpu() is not None or not native.cpu_has_bfloat16(), reason="no bfloat16 arithmetic here"
)


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
    "tiles": ((3, 9, 6), [(48, 1, 1, 0, 0.2, True), (80, 4, 2, 0, 0.2, True)]),
    "tiles-odd": ((3, 4, 13), [(64, 1, 1, 0, 0.2, True), (80, 4, 2, 2, 0.0, False)]),
    "tiles-deep": ((2, 8, 6), [(130, 1, 1, 0, 0.2, False), (80, 4, 2, 0, 0.2, True)]),
    "tiles-of-1": ((2, 5, 6), [(64, 1, 1, 0, 0.2, True), (64, 2, 1, 0, 0.1, True), (65, 2, 1, 1, 0.2, True)]),
    "tiles-of-2x3": ((1, 8, 13), [(48, 1, 1, 0, 0.2, True), (64, (4, 6), (2, 3), (1, 2), 0.2, True)]),
    "wide": ((64, 5, 4), [(130, 3, 2, 1, 0.2, True), (112, 3, 1, 1, 0.2, True)]),
}
ROWS = pytest.mark.parametrize("name", TOWERS)
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


def exact(layers, last, x):
    """The score in float64, by autograd."""
    x = x.double().requires_grad_()
    h = x
    for layer, slope in layers:
        bias = None if layer.bias is None else layer.bias.double()
        h = leaky_relu(conv2d(h, layer.weight.double(), bias, layer.stride, layer.padding), slope)
    return torch.autograd.grad((h * last.double()).sum(), x)[0]


def stack(layers, last):
    """As `network_bounds` takes it: last is the weights of a linear layer on top."""
    steps = [step for conv, slope in layers for step in (conv, Activation("leaky_relu", (slope,)))]
    return [*steps, torch.nn.Flatten(), Linear(last.flatten()[None], None)]


def whole_numbers(layers, last, x, dtype=torch.float64):
    """The same tower of whole numbers and slopes of quarters, as large as they may be that float32 adds them without
    an error once they are rounded to `dtype`: 2^24 is nearly reached. And its score with that rounding. float64 is for
    the kernel of float32.
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
            expected = network_bounds.score(Roundings(), stack(whole, end), images.double(), arithmetic)
            return whole, end, images, expected.detach()
    raise AssertionError("no whole numbers are short enough")


@functools.cache
def whole_tower(name, dtype):
    shape, rows = TOWERS[name]
    return whole_numbers(*build(shape, rows), images(65, shape), dtype)


def score(layers, last, x, precision="fp32"):
    """The kernel's score, with the memory that it is likely to get poisoned."""
    assert convnet_cpu.unsupported(layers, x.shape[1:], precision) is None
    packed = convnet_cpu.pack(layers, last, x.shape[1:], precision)
    poison = [torch.full((4096 * k + 16,), torch.nan) for k in range(1, 40)]
    poison += [torch.full_like(x, torch.nan) for _ in range(3)]
    del poison
    return convnet_cpu.score(packed, x)


@ROWS
@pytest.mark.parametrize("n", [1, 3, 65])
def test_sums_of_whole_numbers_are_exact(capability, name, n):
    layers, last, x, expected = whole_tower(name, torch.float64)
    got = score(layers, last, x[:n])
    assert got.shape == x[:n].shape and got.dtype == torch.float32 and got.is_contiguous()
    assert torch.equal(got.double(), expected[:n])
    assert torch.equal(expected[:n], exact(layers, last, x[:n])) and (expected[:n] != 0).double().mean() > 0.1


@needs_bf16
@ROWS
@pytest.mark.parametrize("n", [1, 65])
def test_bfloat16_rounds_images_weights_activations_and_gradients(name, n):
    """To nearest, halves to even, before products and sums that are exact."""
    layers, last, x, expected = whole_tower(name, torch.bfloat16)
    assert torch.equal(score(layers, last, x[:n], "bf16").double(), expected[:n])
    assert (expected[:n] != exact(layers, last, x[:n])).double().mean() > 0.1


@needs_bf16
def test_bfloat16_rounds_what_is_multiplied_and_nothing_else():
    """To the bit, of numbers of float32's length, half of which lie in the middle between two of bfloat16. In 1x1
    convolutions whose weights are diagonal each sum is one product, exact in float32, and a bias. The second layer's
    biases put its sums so near 0 that their signs show the activations to the bit.
    """
    n, slopes, generator = 256, (0.2, 0.3), torch.Generator().manual_seed(7)
    rounded = lambda value: value.bfloat16().float()

    def numbers() -> torch.Tensor:
        bits = torch.randn(n, generator=generator).view(torch.int32)
        middle = torch.arange(n) // 2 % 2 == 0
        return torch.where(middle, bits & ~0xFFFF | 0x8000, bits).view(torch.float32)

    x, first, second, bias, last = (numbers() for _ in range(5))
    leaky = lambda positive, value, slope: rounded(torch.where(positive, value, slope * value))
    below = rounded(x) * rounded(first) + bias
    product = rounded(second) * leaky(below > 0, below, slopes[0])
    above = torch.rand(n, generator=generator) > 0.5
    near = torch.where(above == (product > 0), -1 + 2.0**-10, -1 - 2.0**-10) * product  # bfloat16's unit is over 2^-8
    top = leaky(above, last, slopes[1])
    expected = rounded(first) * leaky(below > 0, rounded(second) * top, slopes[0])
    layers = [
        (Conv(weight.diag()[:, :, None, None], shift, (1, 1), (0, 0), (1, 1), 1), slope)
        for weight, shift, slope in zip((first, second), (bias, near), slopes, strict=True)
    ]
    got = score(layers, last[:, None, None], x[None, :, None, None], "bf16")
    assert torch.equal(got.flatten(), expected)


@functools.cache
def bounded(name):
    shape, rows = TOWERS[name]
    layers, last = build(shape, rows)
    x, roundings = images(2, shape), Roundings()
    if name in IN_TILES:  # sums are long, and some activations close to a kink, unless no number is negative
        positive = lambda value: None if value is None else value.abs()
        layers = [
            (dataclasses.replace(conv, weight=positive(conv.weight), bias=positive(conv.bias)), slope)
            for conv, slope in layers
        ]
        last, x = positive(last), positive(x)
    arithmetic = dataclasses.replace(LIBRARY, winograd=True)
    expected = network_bounds.score(roundings, stack(layers, last), x.double(), arithmetic)
    return layers, last, x, (expected.detach(), roundings.bound(expected), roundings.sure)


@pytest.mark.parametrize("name", ["paper-8x8", "paper-16x16", *IN_TILES, "relu", "kernel-5", "ragged", "wide"])
def test_layers_in_tiles(name):
    """Which layers have transformed weights, 9 for 4 of the window's, is a matter of their geometry: those whose kernel
    is twice as long as its stride, with so many channels and so few zeros around that it is worth it.
    """
    shape, rows = TOWERS[name]
    layers, last = build(shape, rows)
    padded = [shape[0], *(-(-outs // 16) * 16 for outs, *_ in rows)]
    areas = [math.prod(layer.weight.shape[2:]) for layer, _ in layers]
    plain = sum(2 * area * ins * outs for area, ins, outs in zip(areas, padded, padded[1:], strict=False))
    words = convnet_cpu.pack(layers, last, shape, "fp32").words.numel() - last[0].numel() * padded[-1]
    assert (words > 1.2 * plain) == name.startswith(("tiles", "paper")), words / plain


@pytest.mark.parametrize(
    "name", ["one-layer", "pixel", "steep", "padding-over-kernel", "kernel-over-image", "tiles-odd", "tiles-of-1"]
)
def test_against_float64(capability, name):
    """Of any numbers: each sum is off by γ_n Σ|terms| at most, whatever the order, and no sign turns unless a float32
    pre-activation may be of either.
    """
    layers, last, x, expected = bounded(name)
    before = x.clone()
    assert_within(score(layers, last, x), *expected, tight=1e-3)
    assert torch.equal(x, before)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_tower(data):
    draw = data.draw
    shape = (draw(st.integers(1, 20)), draw(st.integers(4, 17)), draw(st.integers(4, 17)))
    rows, size = [], list(shape[1:])
    for _ in range(draw(st.integers(1, 3))):
        kernel, stride, padding = (
            tuple(draw(st.integers(lo, hi)) for _ in range(2)) for lo, hi in ((1, 5), (1, 3), (0, 2))
        )
        after = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(size, padding, kernel, stride, strict=True)]
        if min(after) < 1:
            break
        size = after
        rows.append((draw(st.integers(1, 70)), kernel, stride, padding, draw(st.sampled_from([0.0, 0.2, 1.0])), True))
    if not rows:
        return
    layers, last = build(shape, rows)
    x = images(draw(st.integers(1, 9)), shape)
    whole, end, states, expected = whole_numbers(layers, last, x)
    assert torch.equal(score(whole, end, states).double(), expected)
    if native.cpu_has_bfloat16():
        whole, end, states, expected = whole_numbers(layers, last, x, torch.bfloat16)
        assert torch.equal(score(whole, end, states, "bf16").double(), expected)


@pytest.mark.parametrize("precision", convnet_cpu.PRECISIONS)
@pytest.mark.parametrize("name", ["tiles-of-1", "ragged"])
def test_bits_do_not_depend_on_threads_or_batch(capability, threads, name, precision):
    shape, rows = TOWERS[name]
    layers, last = build(shape, rows)
    if convnet_cpu.unsupported(layers, shape, precision):
        pytest.skip(convnet_cpu.unsupported(layers, shape, precision))
    x = images(65, shape)
    threads(1)
    expected = score(layers, last, x, precision)
    for n_threads in (2, 5):
        threads(n_threads)
        assert torch.equal(score(layers, last, x, precision), expected)
        for sizes in ([1] * 65, [2, 31, 32], [64, 1]):
            parts = [score(layers, last, part, precision) for part in x.split(sizes)]
            assert torch.equal(torch.cat(parts), expected)


def test_strides_of_x_and_of_weights_do_not_matter():
    shape, rows = TOWERS["ragged"]
    layers, last = build(shape, rows)
    x = images(4, shape)
    expected = score(layers, last, x)
    assert torch.equal(score(layers, last, x.to(memory_format=torch.channels_last)), expected)
    strided = [
        (dataclasses.replace(layer, weight=layer.weight.to(memory_format=torch.channels_last)), slope)
        for layer, slope in layers
    ]
    assert torch.equal(score(strided, last.transpose(1, 2).contiguous().transpose(1, 2), x), expected)


def test_no_chains():
    layers, last = build(*TOWERS["paper-8x8"])
    assert score(layers, last, torch.empty(0, 1, 8, 8)).shape == (0, 1, 8, 8)


def test_weights_that_require_grad_are_unchanged():
    layers, last = build(*TOWERS["one-layer"])
    layers[0][0].weight.requires_grad_()
    got = score(layers, last, images(2, (5, 4, 7)))
    assert not got.requires_grad and layers[0][0].weight.grad is None


def test_opcheck():
    shape, rows = TOWERS["ragged"]
    layers, last = build(shape, rows)
    packed = convnet_cpu.pack(layers, last, shape, "fp32")
    arguments = (images(3, shape), packed.words, packed.geometry, packed.slopes, False)
    torch.library.opcheck(torch.ops.fastlangevin.convnet_score_cpu.default, arguments)


# Unsupported arguments, and bad input

_GOOD = ((conv(4, 3, 3), 0.2), (conv(2, 4, 2), 0.2))
_LAST = torch.zeros(2, 5, 5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "fp16"}, "precision must be fp32 or bf16, got fp16"),
        ({"layers": ()}, "the network has no convolution"),
        ({"x_shape": (3, 2, 8)}, "a kernel is larger than its input"),
        ({"x_shape": (3, 8, 3)}, "a kernel is larger than its input"),
        ({"x_shape": (1, 8, 8)}, "a convolution expects 3 input channels, got 1"),
        ({"slope": -0.1}, "an activation has the negative slope -0.1"),
        ({"slope": float("nan")}, "an activation has the negative slope nan"),
        ({"groups": 2}, "a convolution has groups"),
        ({"dilation": (1, 2)}, "a convolution has dilation"),
        ({"weight": torch.zeros(4, 3, 3, 3, dtype=torch.float64)}, "weights must be float32 on the CPU, got.*float64"),
        ({"weight": torch.zeros(4, 3, 3, 3, device="meta")}, "weights must be float32 on the CPU, got.*meta"),
    ],
)
def test_unsupported(change, words):
    arguments = {"layers": _GOOD, "x_shape": (3, 8, 8), "precision": "fp32"}
    assert convnet_cpu.unsupported(**arguments) is None
    conv_change = {k: v for k, v in change.items() if k in ("groups", "dilation", "weight")}
    first = (dataclasses.replace(_GOOD[0][0], **conv_change), change.get("slope", 0.2))
    arguments["layers"] = (first, _GOOD[1])
    arguments |= {k: v for k, v in change.items() if k in arguments}
    assert re.search(words, convnet_cpu.unsupported(**arguments) or "")


def test_bfloat16_needs_the_best_instruction_set(capability):
    why = convnet_cpu.unsupported(_GOOD, (3, 8, 8), "bf16")
    if capability == "avx512" and "avx512_bf16" in Path("/proc/cpuinfo").read_text().split():
        assert why is None
    else:
        assert why == f"bfloat16 needs AVX512_BF16, and the instruction set in use is {capability}"
        packed = convnet_cpu.pack(_GOOD, _LAST, (3, 8, 8), "bf16")
        with pytest.raises(RuntimeError, match="bfloat16 needs the avx512 kernels and a processor with AVX512_BF16"):
            convnet_cpu.score(packed, torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(2, 3, 8, 9),
        torch.zeros(2, 1, 8, 8),
        torch.zeros(2, 3, 8, 8, dtype=torch.float64),
    ],
)
def test_x_that_does_not_fit_is_an_error(x):
    packed = convnet_cpu.pack(_GOOD, _LAST, (3, 8, 8), "fp32")
    with pytest.raises(RuntimeError, match="x must be contiguous float32 of the geometry's shape"):
        convnet_cpu.score(packed, x)


def test_packed_words_of_something_else_are_an_error():
    packed = convnet_cpu.pack(_GOOD, _LAST, (3, 8, 8), "fp32")
    for words in (packed.words[1:], packed.words.float(), packed.words[None]):
        with pytest.raises(RuntimeError, match="packed must be what convnet_pack_cpu made"):
            convnet_cpu.score(dataclasses.replace(packed, words=words), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("at", "value"), [(0, 0), (1, -8), (3, 0), (4, 0), (5, 99), (6, 0), (7, 0), (8, -1), (9, -1), (10, 0)]
)
def test_geometry_that_makes_no_sense_is_an_error(at, value):
    packed = convnet_cpu.pack(_GOOD, _LAST, (3, 8, 8), "fp32")
    geometry = list(packed.geometry)
    geometry[at] = value
    with pytest.raises(RuntimeError, match="geometry must have positive sizes"):
        convnet_cpu.score(dataclasses.replace(packed, geometry=tuple(geometry)), torch.zeros(2, 3, 8, 8))
    with pytest.raises(RuntimeError, match="geometry must have 3 numbers and 7 a layer"):
        convnet_cpu.score(dataclasses.replace(packed, geometry=packed.geometry[:-1]), torch.zeros(2, 3, 8, 8))
    with pytest.raises(RuntimeError, match="slopes must not be negative"):
        convnet_cpu.score(dataclasses.replace(packed, slopes=(0.1, -0.1)), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 4), (1, 2, 5, 5)])
def test_last_that_does_not_fit_is_an_error(shape):
    with pytest.raises(RuntimeError, match="last must be contiguous float32 of the last layer's shape"):
        convnet_cpu.pack(_GOOD, torch.zeros(shape), (3, 8, 8), "fp32")


def test_weights_that_do_not_fit_are_an_error():
    for weight in (torch.zeros(4, 3, 3), torch.zeros(4, 2, 3, 3), torch.zeros(4, 3, 3, 3).double()):
        layers = ((dataclasses.replace(_GOOD[0][0], weight=weight), 0.2), _GOOD[1])
        with pytest.raises((RuntimeError, ValueError)):
            convnet_cpu.pack(layers, _LAST, (3, 8, 8), "fp32")
    layers = ((dataclasses.replace(_GOOD[0][0], bias=torch.zeros(3)), 0.2), _GOOD[1])
    with pytest.raises(RuntimeError, match="biases must be contiguous float32 of the geometry's shape"):
        convnet_cpu.pack(layers, _LAST, (3, 8, 8), "fp32")
