"""The convnet's native scores and energies: against float64 and in bfloat16, bits whatever the batch, bad input."""

from __future__ import annotations

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
from support.convnet_towers import IN_TILES, TOWERS, build, conv, images, stack, whole_numbers
from support.error_bounds import Roundings, assert_within
from torch.nn.functional import conv2d, leaky_relu

from fastlangevin.kernels import native
from fastlangevin.kernels.cpu import convnet as convnet_cpu
from fastlangevin.network.layers import Conv

pytestmark = pytest.mark.skipif(native.load_cpu() is not None, reason="no cpu kernels here")
ROWS = pytest.mark.parametrize("name", TOWERS)


def exact(layers, last, x):
    """Log-density and score in float64, by autograd."""
    x = x.double().requires_grad_()
    h = x
    for layer, slope in layers:
        bias = None if layer.bias is None else layer.bias.double()
        h = leaky_relu(conv2d(h, layer.weight.double(), bias, layer.stride, layer.padding), slope)
    f = (h * last.double()).flatten(1).sum(1)
    return f.detach(), torch.autograd.grad(f.sum(), x)[0]


@functools.cache
def whole_tower(name, dtype):
    shape, rows = TOWERS[name]
    return whole_numbers(*build(shape, rows), images(65, shape), dtype)


def score(layers, last, x, precision="fp32"):
    """The kernel's score, with the memory that it is likely to get poisoned."""
    return energy_and_score(layers, last, x, None, precision)[1]


def energy_and_score(layers, last, x, offset, precision="fp32"):
    """The kernel's, likewise. Without energies if offset is None."""
    assert convnet_cpu.unsupported(layers, x.shape[1:], precision) is None
    packed = convnet_cpu.pack(layers, last, x.shape[1:], precision)
    poison = [torch.full((4096 * k + 16,), torch.nan) for k in range(1, 40)]
    poison += [torch.full_like(x, torch.nan) for _ in range(3)]
    del poison
    if offset is None:
        return None, convnet_cpu.score(packed, x)
    energy, got = convnet_cpu.energy_and_score(packed, x, offset)
    assert torch.equal(convnet_cpu.energy(packed, x, offset), energy) or energy.isnan().any()
    return energy, got


@ROWS
@pytest.mark.parametrize("n", [1, 3, 65])
def test_sums_of_whole_numbers_are_exact(capability, name, n):
    """So that energies have one rounding, of their sum to float32."""
    layers, last, x, f, expected = whole_tower(name, torch.float64)
    got = score(layers, last, x[:n])
    assert got.shape == x[:n].shape and got.dtype == torch.float32 and got.is_contiguous()
    assert torch.equal(got.double(), expected[:n])
    exact_f, exact_score = exact(layers, last, x[:n])
    assert torch.equal(expected[:n], exact_score) and (expected[:n] != 0).double().mean() > 0.1
    energy, same = energy_and_score(layers, last, x[:n], 7.25)
    assert torch.equal(same, got) and torch.equal(energy, -(f[:n] + 7.25).float())
    assert torch.equal(f[:n], exact_f) and (f[:n] != 0).any()


@ROWS
@pytest.mark.parametrize("n", [1, 65])
def test_bfloat16_rounds_images_weights_activations_and_gradients(bfloat16_capability, name, n):
    """To nearest, halves to even, before products and sums that are exact."""
    layers, last, x, f, expected = whole_tower(name, torch.bfloat16)
    energy, got = energy_and_score(layers, last, x[:n], 7.25, "bf16")
    assert torch.equal(got.double(), expected[:n]) and torch.equal(energy, -(f[:n] + 7.25).float())
    assert torch.equal(score(layers, last, x[:n], "bf16"), got)
    assert (expected[:n] != exact(layers, last, x[:n])[1]).double().mean() > 0.1


def test_bfloat16_rounds_what_is_multiplied_and_nothing_else(bfloat16_capability):
    """To the bit, of numbers of float32's length, half of which lie in the middle between two of bfloat16. In 1x1
    convolutions whose weights are diagonal each sum is one product, exact in float32, and a bias. The second layer's
    biases put its sums so near 0 that their signs show the activations to the bit. The energy is of those sums and of
    the gradients at them, neither of which is rounded to bfloat16.
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
    energy, got = energy_and_score(layers, last[:, None, None], x[None, :, None, None], 0.5, "bf16")
    assert torch.equal(got.flatten(), expected)
    terms = (product + near).double() * torch.where(above, last, slopes[1] * last).double()
    assert energy.item() == torch.tensor(-math.fsum([0.5, *terms.tolist()])).item()


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
    both = network_bounds.log_density_and_score(roundings, stack(layers, last), x.double(), arithmetic)
    bounds = [roundings.bound(v.reshape(len(x), -1)).view_as(v) for v in both]
    return layers, last, x, [(v.detach(), bound, roundings.sure) for v, bound in zip(both, bounds, strict=True)]


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
    layers, last, x, (expected_f, expected) = bounded(name)
    before = x.clone()
    energy, got = energy_and_score(layers, last, x, 0.0)
    assert_within(got, *expected, tight=1e-3)
    assert_within(-energy, *expected_f, tight=1e-3)
    assert torch.equal(x, before) and torch.equal(score(layers, last, x), got)


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
    for precision, dtype in (("fp32", torch.float64), ("bf16", torch.bfloat16))[: 1 + native.cpu_has_bfloat16()]:
        whole, end, states, f, expected = whole_numbers(layers, last, x, dtype)
        energy, got = energy_and_score(whole, end, states, -2.5, precision)
        assert torch.equal(got.double(), expected) and torch.equal(energy, -(f - 2.5).float())


@pytest.mark.parametrize("precision", convnet_cpu.PRECISIONS)
@pytest.mark.parametrize("name", ["tiles-of-1", "ragged"])
def test_bits_do_not_depend_on_threads_or_batch(capability, threads, name, precision):
    shape, rows = TOWERS[name]
    layers, last = build(shape, rows)
    if convnet_cpu.unsupported(layers, shape, precision):
        pytest.skip(convnet_cpu.unsupported(layers, shape, precision))
    x = images(65, shape)
    threads(1)
    found = lambda x: energy_and_score(layers, last, x, 0.25, precision)
    expected = found(x)
    for n_threads in (2, 5):
        threads(n_threads)
        for sizes in ([65], [1] * 65, [2, 31, 32], [64, 1]):
            parts = zip(*map(found, x.split(sizes)), strict=True)
            assert all(torch.equal(torch.cat(p), e) for p, e in zip(parts, expected, strict=True))


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
    energy, got = energy_and_score(layers, last, torch.empty(0, 1, 8, 8), 1.0)
    assert energy.shape == (0,) and got.shape == (0, 1, 8, 8)


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
    torch.library.opcheck(torch.ops.fastlangevin.convnet_energy_cpu.default, (*arguments, 0.5))
    torch.library.opcheck(torch.ops.fastlangevin.convnet_energy_and_score_cpu.default, (*arguments, 0.5))


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


def test_bfloat16_needs_the_best_instruction_sets(capability):
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
    with pytest.raises(RuntimeError, match="x must be contiguous float32 of the geometry's shape"):
        convnet_cpu.energy_and_score(packed, x, 0.0)


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
