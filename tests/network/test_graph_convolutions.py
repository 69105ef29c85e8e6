"""Convolutions that other operators stand for, in whole numbers, where no order of additions rounds."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import fastlangevin as fl
from fastlangevin.network.inputs import Inputs

KERNELS = ((1, 1), (2, 3), (5, 4), (3, 3))
GEOMETRIES = [
    (channels, kernel, stride, padding)
    for (kernel, stride), channels, padding in itertools.product(
        itertools.product(KERNELS, (2, 3)), (1, 4), ((0, 0), (1, 2), (4, 3))
    )
]


def whole_numbers(*shape, dtype=torch.float64):
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def convolution(channels, kernel, stride, padding, **options):
    return in_whole_numbers(nn.Conv2d(channels, 8, kernel, stride, padding, **options))


def in_whole_numbers(layer):
    layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(whole_numbers(*parameter.shape))
    return layer


def scores(energy, x):
    bound = [fl.Langevin(energy, engine=e, n_steps=1, seed=1)._score.bind(x, Inputs()) for e in ("graph", "autograd")]
    found, expected = (b(x) for b in bound)
    return found, expected, [call.name for call in bound[0]._recording.score.graph.calls]


@pytest.mark.parametrize("size", [(9, 8), (7, 12)])
@pytest.mark.parametrize("last", [False, True], ids=["alone", "followed"])
def test_strided_convolutions_of_few_channels(size, last):
    for geometry in GEOMETRIES:
        net = nn.Sequential(convolution(*geometry), *([convolution(8, 1, 1, 0)] if last else []))
        x = whole_numbers(2, geometry[0], *size)
        found, expected, calls = scores(lambda x, net=net: net(x).square().flatten(1).sum(1), x)
        assert torch.equal(found, expected), geometry
        assert calls.count("convolution_backward") == last and "pixel_shuffle" in calls


@pytest.mark.parametrize(
    ("channels", "options"), [(5, {}), (4, {"groups": 2}), (2, {"dilation": 2}), (2, {"stride": (2, 1)})]
)
def test_other_convolutions_are_torch_s(channels, options):
    layer = convolution(channels, 3, **{"stride": 2, "padding": 1, **options})
    x = whole_numbers(2, channels, 9, 8)
    found, expected, calls = scores(lambda x: layer(x).square().flatten(1).sum(1), x)
    assert torch.equal(found, expected) and "convolution_backward" in calls


TRANSPOSED = [
    {"stride": stride, "padding": padding, "output_padding": out_padding, "bias": bias}
    for stride, padding, out_padding in ((2, 0, 0), (2, 1, 1), (3, (2, 1), (1, 2)), (1, 1, 0))
    for bias in (True, False)
]


@pytest.mark.parametrize("kernel", [(4, 4), (2, 5), (3, 1)])
@pytest.mark.parametrize("channels", [1, 4, 5])
def test_transposed_convolutions(kernel, channels):
    for options in TRANSPOSED:
        layer = in_whole_numbers(nn.ConvTranspose2d(3, channels, kernel, **options))
        x = whole_numbers(2, 3, 4, 5)
        found, expected, calls = scores(lambda x, layer=layer: layer(x).square().flatten(1).sum(1), x)
        assert torch.equal(found, expected), options
        is_phased = channels <= 4 and options["stride"] != 1
        assert calls.count("convolution") == 2 and ("pixel_shuffle" in calls) == is_phased


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose1d(3, 2, 3, stride=2),
        nn.ConvTranspose3d(3, 2, 2, padding=1),
        nn.ConvTranspose2d(6, 4, 3, 2, groups=2),
        nn.ConvTranspose2d(3, 2, 3, dilation=2),
        nn.ConvTranspose2d(3, 2, 3, dilation=2, output_padding=1),
    ],
    ids=["1-d", "3-d", "groups", "dilation", "output padding"],
)
def test_other_transposed_convolutions(layer):
    in_whole_numbers(layer)
    x = whole_numbers(2, layer.in_channels, *([4] * (layer.weight.dim() - 2)))
    found, expected, calls = scores(lambda x: layer(x).square().flatten(1).sum(1), x)
    assert torch.equal(found, expected) and "pixel_shuffle" not in calls
    assert ("convolution_backward" in calls) == (layer.output_padding[0] >= layer.stride[0])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("last", [False, True], ids=["alone", "between"])
def test_convolutions_of_one_pixel_are_products(bias, last):
    options = {"stride": (1, 2), "bias": bias}
    up = in_whole_numbers(nn.ConvTranspose2d(3, 6, (4, 3), **options))
    down = in_whole_numbers(nn.Conv2d(6, 5, (4, 3), **options))
    between = [in_whole_numbers(nn.Conv2d(6, 6, 3, padding=1))] if last else []
    net = nn.Sequential(up, nn.ReLU(), *between, down)
    for x in (whole_numbers(2, 3, 1, 1), whole_numbers(2, 1, 1, 3).transpose(1, 3)):
        found, expected, calls = scores(lambda x: net(x).square().flatten(1).sum(1), x)
        assert torch.equal(found, expected)
        assert sum(name in ("mm", "addmm") for name in calls) == 4
        assert sum(name.startswith("convolution") for name in calls) == 2 * last


@pytest.mark.parametrize("options", [{"padding": 1}, {"groups": 2}, {"kernel_size": (4, 2)}, {"dilation": (1, 2)}])
def test_convolutions_of_more_pixels_are_none(options):
    layer = in_whole_numbers(nn.Conv2d(6, 4, **{"kernel_size": (4, 3), **options}))
    x = whole_numbers(2, 6, 4, 5 if "dilation" in options else 3)
    found, expected, calls = scores(lambda x: layer(x).square().flatten(1).sum(1), x)
    assert torch.equal(found, expected)
    assert "mm" not in calls and "addmm" not in calls and "convolution" in calls


@pytest.mark.parametrize("options", [{"dilation": (1, 2)}, {"stride": 2, "output_padding": 1}, {"padding": 1}])
def test_transposed_convolutions_with_gaps_are_none(options):
    layer = in_whole_numbers(nn.ConvTranspose2d(3, 5, 4, **options))
    found, expected, calls = scores(lambda x: layer(x).square().flatten(1).sum(1), whole_numbers(2, 3, 1, 1))
    assert torch.equal(found, expected) and "mm" not in calls and "addmm" not in calls


def test_weights_are_read_at_each_call():
    layer = convolution(1, 3, 2, 1)
    sampler = fl.Langevin(lambda x: layer(x).square().flatten(1).sum(1), engine="graph", n_steps=1, seed=1)
    x = whole_numbers(2, 1, 9, 8)
    before = sampler.score(x)
    with torch.no_grad():
        layer.weight.neg_()
        layer.bias.neg_()
    assert torch.equal(sampler.score(x), before)
    with torch.no_grad():
        layer.weight.zero_()
    assert not sampler.score(x).any()
