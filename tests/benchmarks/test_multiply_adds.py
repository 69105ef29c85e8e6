"""Counted products. With operands of ones, the sum of a layer's outputs is the number of its products."""

from __future__ import annotations

import multiply_adds
import pytest
import torch
import works
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d

import fastlangevin as fl


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"stride": 2, "padding": (4, 0)},
        {"padding": 3, "dilation": (3, 2)},
        {"padding": 2, "stride": (1, 3), "groups": 2},
    ],
)
@pytest.mark.parametrize("convolution", [conv2d, conv_transpose2d])
def test_products_of_padding_are_not_counted(convolution, options):
    x, weight = torch.ones(3, 4, 9, 7), torch.ones(4, 4 // options.get("groups", 1), 3, 5)
    function = lambda x: convolution(x, weight, **options)
    assert multiply_adds.of_each_product(function, x) == [function(x).sum().item()]


def test_matrix_products():
    linear, a = nn.Linear(5, 7), torch.ones(2, 3, 4)
    assert multiply_adds.of_each_product(lambda x: linear(x) @ torch.ones(7, 2), torch.ones(6, 5)) == [210, 84]
    assert multiply_adds.of_each_product(lambda a: torch.bmm(a, a.mT), a) == [2 * 3 * 4 * 3]


@pytest.mark.parametrize("image_size", [8, 16])
def test_the_last_layer_of_the_convnet_is_not_counted(image_size):
    net = fl.models.ConvNet(image_size, 3, 2)
    size, total = image_size, 0.0
    for layer in [m for m in net.net if isinstance(m, nn.Conv2d)][:-1]:
        x = torch.ones(1, layer.in_channels, size, size)
        y = conv2d(x, torch.ones_like(layer.weight), None, layer.stride, layer.padding)
        total, size = total + y.sum().item(), y.shape[-1]
    assert works.forward_multiply_adds(net) == total
