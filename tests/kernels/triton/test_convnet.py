"""The fused score of convnets, and its Langevin step, in Triton's interpreter: against float64, kernel by kernel.

What a kernel reads is known, so that only the float32 sums of its products, in whatever order NumPy adds them, and one
rounding to the type of the next products lie X
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import os
import subprocess
import sys

import pytest
import torch
from support import network_bounds
from support.error_bounds import Roundings, U, gamma
from support.network_bounds import finest_bit
from torch import Tensor
from torch.nn import functional

if importlib.util.find_spec("triton") is None or torch.cuda.is_available():
    pytest.skip("needs Triton's interpreter", allow_module_level=True)

from triton.runtime import interpreter

from fastlangevin.kernels import reference
from fastlangevin.kernels.arguments import UpdateArgs
from fastlangevin.kernels.triton import convnet
from fastlangevin.kernels.triton.convnet import launches as convnet_launches
from fastlangevin.kernels.triton.convnet import plan as convnet_plan
from fastlangevin.network import walk
from fastlangevin.network.layers import Activation, Conv, Linear

pytestmark = pytest.mark.usefixtures("poisoned")

CPU = torch.device("cpu")
HALF = {"fp16": 2.0**-11, "bf16": 2.0**-7, "tf32": 2.0**-11}  # of `kept`, relative


def packed_as(values: Tensor, precision: str) -> Tensor:
    """Rounded to what the products read, to even; TF32 with halves away from zero."""
    if precision == "tf32":
        return ((values.float().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32).double()
    return values.to(convnet.DTYPES[precision]).double()


def kept(values: Tensor, precision: str) -> Tensor:
    """As `packed_as`, by a kernel; the interpreter, unlike GPUs, cuts off what bfloat16 does not hold."""
    if precision == "bf16":
        return (values.float().view(torch.int32) & ~0xFFFF).view(torch.float32).double()
    return packed_as(values, precision)


@pytest.fixture(autouse=True)
def bfloat16_products(monkeypatch):
    """The interpreter would multiply the 16 bits as integers."""
    dot = interpreter.InterpreterBuilder.create_dot

    def widened(self, a, b, *rest):
        import triton.language as tl

        wide = [self.create_fp_to_fp(v, tl.float32, None) if v.dtype.scalar == tl.bfloat16 else v for v in (a, b)]
        return dot(self, *wide, *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", widened)


def tower(shape: tuple[int, ...], widths: tuple[int, ...], strides: tuple[int, ...], slope=0.2, bias=True):
    """Layers of pre-activations around 1, slopes from `slope` on, and a last gradient."""
    torch.manual_seed(7)
    (planes, height, width), layers = shape, []
    for i, (channels, stride) in enumerate(zip(widths, strides, strict=True)):
        side = stride + 2
        weight = torch.randn(channels, planes, side, side) * (2 / (planes * side * side)) ** 0.5
        vector = torch.randn(channels) * 0.5 if bias else None
        layers.append((Conv(weight, vector, (stride, stride), (1, 1), (1, 1), 1), slope + i / 10))
        planes, height, width = channels, height // stride, width // stride
    return layers, torch.randn(planes, height, width)


def whole_tower(shape: tuple[int, ...], widths: tuple[int, ...], strides: tuple[int, ...], slope=0.2, bias=True):
    """Of whole numbers, with slopes of quarters, so short that float32 adds them without an error."""
    layers, last = tower(shape, widths, strides, slope, bias)
    whole = []
    for conv, slope in layers:
        weight = (conv.weight * (conv.weight[0].numel() / 8) ** 0.5).round()
        vector = None if conv.bias is None else (4 * conv.bias).round()
        whole.append((Conv(weight, vector, conv.stride, conv.padding, (1, 1), 1), math.ceil(4 * slope) / 4))
    return whole, (2 * last).round()


def whole_images(batch: int, shape: tuple[int, ...]) -> Tensor:
    return (4 * torch.rand(batch, *shape, generator=torch.Generator().manual_seed(5)) - 2).mul(2).round()


def signs(mask: Tensor) -> Tensor:
    """(B, H, W, C / 32) words as (B, C, H, W) bools."""
    return ((mask[..., None] >> torch.arange(32)) & 1).bool().flatten(3).permute(0, 3, 1, 2)


def nchw(activation: Tensor) -> Tensor:
    return activation.permute(0, 3, 1, 2).double()


# image, channels, strides, batch, precision, other options
NETS = {
    "tail of a tile, one plane": ((1, 8, 8), (32, 96), (1, 2), 1, "fp16", {}),
    "two images a tile": ((3, 8, 8), (32, 64, 64), (1, 2, 1), 3, "fp16", {}),
    "96 channels are three tiles": ((2, 8, 8), (64, 96, 32), (1, 1, 2), 1, "fp16", {"slope": 0.0}),
    "three layers": ((3, 16, 16), (32, 64, 128), (1, 2, 2), 3, "tf32", {}),
    "bf16": ((3, 8, 8), (32, 64, 128), (1, 2, 2), 3, "bf16", {}),
    "not square, without bias": ((3, 8, 12), (32, 64), (1, 2), 1, "tf32", {"bias": False}),
    "halved at once": ((1, 12, 8), (32, 32), (2, 1), 3, "fp16", {"slope": 1.5}),
    "one layer": ((4, 8, 8), (64,), (1,), 3, "fp16", {}),
}


def assert_sums(got: Tensor, sums: Tensor, terms: Tensor, n: int, value, precision: str | None, whole: bool) -> None:
    """got is value(sums) of float32 sums of n products each, rounded to the precision, if any; terms: Σ|products|."""
    expected = value(sums)
    if whole:
        unit = min(finest_bit(sums), finest_bit(terms))
        assert (terms < 2**24 * unit).all() and torch.equal(got, kept(expected, precision) if precision else expected)
        return
    steepest = (value(torch.ones_like(sums)).abs()).clamp_min(value(-torch.ones_like(sums)).abs())
    off = gamma(n) * terms * steepest + (HALF[precision] + U if precision else 0) * expected.abs()
    assert ((got - expected).abs() <= off * (1 + 2**-7)).all()


ANY_NUMBERS = ["two images a tile", "bf16", "not square, without bias"]


@pytest.mark.parametrize(("net", "whole"), [*((n, True) for n in NETS), *((n, False) for n in ANY_NUMBERS)])
def test_every_kernel_against_float64(net, whole):
    shape, widths, strides, batch, precision, options = NETS[net]
    layers, last = (whole_tower if whole else tower)(shape, widths, strides, **options)
    assert convnet.unsupported(layers, shape, precision, CPU) is None or precision == "bf16"
    packed = convnet.pack(layers, last, shape, precision)
    x, n = whole_images(batch, shape) if whole else torch.randn(batch, *shape), len(layers)
    workspace, scaled = packed.workspace(batch), last.double() / packed.unscale
    weights = [packed_as(conv.weight, precision) for conv, _ in layers]

    a = kept(x, precision)
    for i, (conv, slope) in enumerate(layers):
        workspace.launches[i](*workspace.arguments(i, x))
        bias = 0 if conv.bias is None else conv.bias.double()[:, None, None]
        pre, terms = (functional.conv2d(f(a), f(weights[i]), None, conv.stride, 1) for f in (torch.clone, torch.abs))
        pre, terms, n_terms = pre + bias, terms + abs(bias), weights[i][0].numel() + 1
        sure = pre.abs() >= (0 if whole else gamma(n_terms) * terms)
        assert sure.double().mean() > 0.99
        got = nchw(workspace.activations[i])
        if i < n - 1:
            assert torch.equal(signs(workspace.masks[i])[sure], (pre > 0)[sure])
            leaky = functools.partial(functional.leaky_relu, negative_slope=slope)
            assert_sums(got, pre, terms, n_terms, leaky, precision, whole)
            a = got
        else:
            ends = torch.where(pre > 0, scaled, (scaled.float() * slope).double())
            assert torch.equal(got[sure], kept(ends, precision)[sure])

    for k in range(n, 2 * n):
        i = 2 * n - 1 - k
        (conv, _), gradient = layers[i], nchw(workspace.activations[i])
        like = torch.empty(batch, *(shape if i == 0 else workspace.activations[i - 1].permute(0, 3, 1, 2).shape[1:]))
        sums, terms = (
            walk.input_gradient(dataclasses.replace(conv, weight=f(weights[i])), f(gradient), like.double())
            for f in (torch.clone, torch.abs)
        )
        n_terms = len(conv.weight) * (conv.weight.shape[2] // conv.stride[0]) ** 2
        if i == 0:
            score = convnet.score(packed, x)
            assert score.is_contiguous() and score.dtype == torch.float32
            assert_sums(score.double() / packed.unscale, sums, terms, n_terms, torch.clone, None, whole)
        else:
            workspace.launches[k](*workspace.arguments(k, x))
            slopes = torch.where(signs(workspace.masks[i - 1]), 1.0, layers[i - 1][1]).double()
            got = nchw(workspace.activations[i - 1])
            assert_sums(got, sums, terms, n_terms, lambda v, slopes=slopes: v * slopes, precision, whole)


OFFSET = torch.tensor([0.75], dtype=torch.float64)


@pytest.mark.parametrize("net", ["tail of a tile, one plane", "two images a tile", "one layer"])
def test_energies_of_whole_numbers_are_exact(net, monkeypatch):
    """In one pass with the score, whose bits stay the same, and alone; nothing is written beyond their parts."""
    shape, widths, strides, batch, precision, options = NETS[net]
    layers, last = whole_tower(shape, widths, strides, **options)
    packed, x = convnet.pack(layers, last, shape, precision), whole_images(batch, shape)
    score = convnet.score(packed, x)
    like = packed.workspace(batch).new_parts()
    memory = torch.full((like.numel() + 4096,), 99.0)
    monkeypatch.setattr(convnet.Workspace, "new_parts", lambda self: memory[: like.numel()].view_as(like))
    with_score, same = convnet.energy_and_score(packed, x, OFFSET)
    alone = convnet.energy(packed, x, OFFSET)
    assert torch.equal(same, score) and torch.equal(alone, with_score) and (memory[like.numel() :] == 99).all()
    a = kept(x, precision)
    for i, (conv, slope) in enumerate(layers):
        bias = None if conv.bias is None else conv.bias.double()
        a = functional.leaky_relu(functional.conv2d(a, packed_as(conv.weight, precision), bias, conv.stride, 1), slope)
        a = kept(a, precision) if i < len(layers) - 1 else a
    terms = a * last.double()
    assert (terms.abs().sum(1) < 2**24 * finest_bit(terms)).all()  # of a pixel: the others are added in float64
    assert torch.equal(alone, -(terms.flatten(1).sum(1) + OFFSET).float()) and alone.count_nonzero() == batch


def test_energies_of_any_numbers_and_of_none():
    shape, (layers, last) = (3, 8, 8), tower((3, 8, 8), (64, 128), (1, 2))
    packed, x = convnet.pack(layers, last, shape, "fp16"), torch.randn(2, *shape)
    (conv, slope), energies = layers[1], convnet.energy(packed, x, OFFSET)
    workspace = packed.workspace(2)
    a, weight = nchw(workspace.activations[0]), packed_as(conv.weight, "fp16")
    pre, terms = (functional.conv2d(f(a), f(weight), None, (2, 2), 1) for f in (torch.clone, torch.abs))
    bias = conv.bias.double()[:, None, None]
    pre, terms = pre + bias, terms + bias.abs()
    n = weight[0].numel() + 1
    expected = -(functional.leaky_relu(pre, slope) * last.double()).flatten(1).sum(1) - OFFSET
    # Of each product: its sum, the gradient, the product, and the sums over a tile of at most 128 channels.
    off = (gamma(n + 131) * terms * last.double().abs()).flatten(1).sum(1) + U * expected.abs()
    assert ((energies.double() - expected).abs() <= off).all()
    assert convnet.energy(packed, x[:0], OFFSET).shape == (0,)
    energies, score = convnet.energy_and_score(packed, x[:0], OFFSET)
    assert energies.shape == (0,) and score.shape == (0, *shape)


@pytest.mark.parametrize("precision", convnet.DTYPES)
def test_score_is_autograd_s(precision):
    """Of whole numbers, with the roundings to 16 bits written out; the numbers are short enough that TF32 has none."""
    shape = (3, 8, 8)
    layers, last = whole_tower(shape, (32, 64), (1, 2))
    x = whole_images(2, shape)
    stack = [step for conv, slope in layers for step in (conv, Activation("leaky_relu", (slope,)))]
    stack += [torch.nn.Flatten(), Linear(last.flatten()[None], None)]
    dtype = torch.float64 if precision == "tf32" else convnet.DTYPES[precision]
    expected = network_bounds.score(Roundings(), stack, x.double(), network_bounds.Exact(dtype=dtype))
    assert torch.equal(convnet.score(convnet.pack(layers, last, shape, precision), x).double(), expected)


def test_a_second_call_gives_the_same_bits():
    """Locks are restored, whatever the buffers contain; another batch size has separate buffers."""
    shape = (3, 8, 8)
    packed = convnet.pack(*whole_tower(shape, (32, 64), (1, 2)), shape, "fp16")
    x = whole_images(3, shape)
    first = convnet.score(packed, x)
    assert packed.workspace(3).launches[1].constants["SPLIT"] > 1
    assert packed.workspace(3) is packed.workspace(3)
    assert torch.equal(convnet.score(packed, x), first)
    assert not packed.workspace(3).locks.any()
    assert torch.equal(convnet.score(packed, x[:1]), first[:1])
    assert convnet.score(packed, x[:0]).shape == (0, *shape)


def test_small_and_large_gradients_stay_in_the_range_of_fp16():
    shape = (1, 8, 8)
    layers, last = tower(shape, (32, 32), (1, 2))
    x = torch.randn(1, *shape)
    score = convnet.score(convnet.pack(layers, last, shape, "fp16"), x)
    for exponent in (-60, 40):
        scaled = convnet.score(convnet.pack(layers, last * 2.0**exponent, shape, "fp16"), x)
        assert torch.equal(scaled, score * 2.0**exponent)
    assert not convnet.score(convnet.pack(layers, last * 0, shape, "fp16"), x).any()


def test_tf32_operands_are_rounded_to_nearest():
    """Weights, states and activations are all 1 plus three quarters of TF32's last bit."""
    bit = 2.0**-10
    weight = torch.zeros(32, 2, 3, 3)
    weight[0, :, 1, 1], weight[1, 1, 1, 1] = 1.0, -1.0
    bias = torch.zeros(32).index_fill(0, torch.tensor(1), 0.75 * bit)
    layer = (Conv(weight, bias, (1, 1), (1, 1), (1, 1), 1), 1.0)
    second = (Conv(torch.zeros(32, 32, 3, 3), None, (1, 1), (1, 1), (1, 1), 1), 1.0)
    workspace = convnet.pack([layer, second], torch.ones(32, 2, 2), (2, 2, 2), "tf32").workspace(1)
    x = torch.stack((torch.full((2, 2), 1 + 0.75 * bit), torch.full((2, 2), -1.0)))[None]
    workspace.launches[0](*workspace.arguments(0, x))
    assert (workspace.activations[0][..., 0] == bit).all() and (workspace.activations[0][..., 1] == 1 + bit).all()
    weight = torch.full((32, 1, 3, 3), 1 + 0.75 * bit)
    packed = convnet.pack(
        [(Conv(weight, None, (1, 1), (1, 1), (1, 1), 1), 1.0)], torch.ones(32, 2, 2), (1, 2, 2), "tf32"
    )
    assert (packed.layers[0].forward[:, :9] == 1 + bit).all()
    assert torch.equal(convnet.score(packed, torch.ones(1, 1, 2, 2)), torch.full((1, 1, 2, 2), 32 * 4 * (1 + bit)))


def test_nan_of_any_bits_is_kept_in_tf32():
    """If rounded as a number, a NaN with all bits set would become zero."""
    nan = torch.tensor([-1, 0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    weight = torch.zeros(32, 1, 3, 3)
    weight[0, 0, 1, 1], weight[1, 0, 0, :2] = 1.0, nan
    layers = [(Conv(weight, None, (1, 1), (1, 1), (1, 1), 1), 0.2)]
    packed = convnet.pack(layers, torch.ones(32, 2, 2), (1, 2, 2), "tf32")
    assert packed.layers[0].forward[1, :2].isnan().all()
    layers, last = tower((1, 2, 2), (32, 32), (1, 1))
    workspace = convnet.pack(layers, last, (1, 2, 2), "tf32").workspace(1)
    workspace.launches[0](*workspace.arguments(0, nan.repeat(2).view(1, 1, 2, 2)))
    assert workspace.activations[0].isnan().all()


# planes, numbers (step_size, noise_std, seed, step, stream, offset, grad_clip, lo, hi)
STEPS = {
    "all": (3, (0.7, 0.3, 5, 16, 0, 0, 0.5, -1.0, 1.0)),
    "no noise": (3, (0.7, None, 0, 0, 0, 0, None, None, None)),
    "no limits, a later part of a batch": (1, (0.7, 0.3, -3, 1, 5, 8192, None, None, None)),
    "an offset within a group": (3, (0.7, 0.3, 5, 2**32 - 1, 0, 2**40 + 3, None, None, 0.25)),
    "two planes": (2, (1e-3, 1.0, 2**62, 3, 1, 2, 1e-3, -0.25, None)),
    "four planes": (4, (0.1, 1.0, 1, 3, 1, 64, None, None, None)),
}


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("as_tensors", [False, True], ids=["numbers", "tensors"])
@pytest.mark.parametrize("case", STEPS)
def test_a_step_is_the_score_and_the_update(case, as_tensors):
    planes, (step_size, noise_std, seed, step, *rest) = STEPS[case]
    shape = (planes, 6, 8)
    packed = convnet.pack(*tower(shape, (32,), (1,)), shape, "fp16")
    memory = torch.randn(5 * planes * 48)
    before = memory.clone()
    x = memory.view(5, *shape)[1:4]  # three states, 144 pixels: one tile and part of another, with memory around them
    x[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    expected, score = x.clone(), convnet.score(packed, x)
    reference.update(expected, score, UpdateArgs(step_size, noise_std, seed, step, *rest))
    numbers = (step_size, noise_std, seed, step)
    if as_tensors:
        types = (torch.float64, torch.float64, torch.int64, torch.int64)
        numbers = [None if v is None else torch.tensor(v, dtype=t) for v, t in zip(numbers, types, strict=True)]
    version = x._version
    convnet.step_(packed, x, UpdateArgs(*numbers, *rest))
    assert x._version > version
    assert torch.equal(x.isnan(), expected.isnan()) and x.isnan().any()
    assert torch.equal(x.nan_to_num(9.0, 8.0, -8.0), expected.nan_to_num(9.0, 8.0, -8.0))
    outside = torch.ones(5, dtype=torch.bool).index_fill(0, torch.arange(1, 4), False)
    assert torch.equal(memory.view(5, -1)[outside], before.view(5, -1)[outside])


def test_tall_tiles_fill_a_gpu_once_instead_of_twice(monkeypatch):
    """And give the same sums: these of whole numbers are exact."""
    shape, results = (1, 16, 16), []
    layers, gradient = whole_tower(shape, (64, 32), (1, 2)), whole_images(8, (8, 8, 32))
    for processors, tall in ((3, False), (4, True), (7, True), (8, False)):
        monkeypatch.setattr(convnet_launches, "gpu_of", lambda device, n=processors: convnet_plan.Gpu(9, n))
        workspace = convnet.pack(*layers, shape, "fp16").workspace(8)
        backward = workspace.launches[2]
        assert (backward.name, backward.constants["M"] == 512) == ("backward", tall)
        if processors in (7, 8):
            workspace.activations[1].copy_(gradient)
            workspace.masks[0].copy_(torch.arange(workspace.masks[0].numel()).view_as(workspace.masks[0]))
            backward(*workspace.arguments(2, gradient))
            results.append(workspace.activations[0])
    assert results[0].count_nonzero() > 1000 and torch.equal(*results)


def test_unsupported():
    shape = (3, 8, 8)
    layers, _ = tower(shape, (32, 64), (1, 2))
    assert convnet.unsupported(layers, shape, "fp16", CPU) is None

    def why(layers=layers, shape=shape, precision="fp16", device=CPU) -> str:
        return convnet.unsupported(layers, shape, precision, device) or ""

    def changed(**fields):
        return [layers[0], (Conv(**{**vars(layers[1][0]), **fields}), 0.2)]

    assert "not in fp32" in why(precision="fp32")
    assert "does not support bfloat16 products" in why(precision="bf16")
    assert "not on meta" in why(device=torch.device("meta"))
    assert "no convolution" in why([])
    assert "at most 4 planes" in why(shape=(5, 8, 8))
    assert "even height" in why(shape=(3, 8, 7))
    assert "input of odd size, 3×3" in why(tower((3, 6, 6), (32, 32), (2, 2))[0], (3, 6, 6))
    assert "slope -0.1" in why([(layers[0][0], -0.1)])
    assert "expected a multiple of 32" in why(tower(shape, (48,), (1,))[0])
    for fields in ({"padding": (0, 0)}, {"stride": (1, 1)}, {"dilation": (2, 2)}, {"groups": 2}):
        assert "neither 3×3" in why(changed(**fields)), fields
    packed = convnet.pack(*tower(shape, (32,), (1,)), shape, "fp16")
    for x in (torch.zeros(1, 3, 8, 6), torch.zeros(1, 3, 8, 8).double(), torch.zeros(1, 8, 8, 3).permute(0, 3, 1, 2)):
        with pytest.raises(ValueError, match="contiguous float32 of shape"):
            convnet.score(packed, x)


def test_no_number_specialises_a_kernel():
    """Neither a step of 1 nor one divisible by 16, for which Triton would compile again by default."""
    code = """
import json
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature
from fastlangevin.kernels.triton import update
from fastlangevin.kernels.triton.convnet import between, input as convnet_input
backend = make_backend(GPUTarget("cuda", 90, 32))
for kernel in (convnet_input.input_kernel, between.between_kernel, update.update_kernel, update.fill_kernel):
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    values = [name for name in update.VALUES if name in kernel.arg_names]
    variants = {str(bind(**dict.fromkeys(kernel.arg_names, 7) | dict.fromkeys(values, v))[1]) for v in (1, 3, 16)}
    print(len(values), len(variants))
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["9", "1", "9", "1", "10", "1", "4", "1"], done.stdout + done.stderr[-2000:]
