"""The input gradient of strided convolutions of few channels, in whole numbers, where no order of additions rounds."""

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
    layer = nn.Conv2d(channels, 8, kernel, stride, padding, **options).double()
    with torch.no_grad():
        layer.weight.copy_(whole_numbers(*layer.weight.shape))
        layer.bias.copy_(whole_numbers(*layer.bias.shape))
    return layer


def scores(energy, x):
    bound = [fl.Langevin(energy, engine=e, n_steps=1, seed=1)._score.bind(x, Inputs()) for e in ("graph", "autograd")]
    found, expected = (b(x) for b in bound)
    return found, expected, [call.name for call in bound[0]._recording.score._graph.calls]


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
