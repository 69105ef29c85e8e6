from __future__ import annotations

import pytest
import torch
from torch import nn

from fastlangevin.models import MLP, ConvNet


def test_the_paper_s_network():
    net = ConvNet(32, 3)
    assert sum(p.numel() for p in net.parameters()) == 2_763_393  # 2.76 M
    convolutions = [m for m in net.net if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions] == [
        (3, 64, 3, 1),
        (64, 128, 4, 2),
        (128, 256, 4, 2),
        (256, 512, 4, 2),
        (512, 1, 4, 1),
    ]
    assert [m.negative_slope for m in net.net if isinstance(m, nn.LeakyReLU)] == [0.2] * 4


@pytest.mark.parametrize("size", [*range(8, 18), 28, 31, 32, 33, 64, 100, 128, 200, 255, 256])
def test_one_number_per_image(size):
    """Of any size, and every pixel has an influence on it; the last convolution is 4×4 for powers of two."""
    net = ConvNet(size, 2, features=1)
    last = [m for m in net.net if isinstance(m, nn.Conv2d)][-1].kernel_size[0]
    assert last == 4 if size.bit_count() == 1 else 4 <= last <= 7
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.25)
    x = torch.ones(1, 2, size, size, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x).sum(), x)
    assert (gradient > 0).all()
    assert net(torch.zeros(3, 2, size, size)).shape == (3,)
    assert net(torch.zeros(1, 2, size, size)).shape == (1,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((257, 1), "image_size must be at most 256, got 257"),
        ((7, 1), "image_size must be an int of at least 8, got 7"),
        ((32, 0), "channels must be an int of at least 1, got 0"),
        ((32, 1, 2.5), "features must be an int of at least 1, got 2.5"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        ConvNet(*arguments)


def test_bad_input_names_both_shapes():
    with pytest.raises(ValueError, match=r"x must be \(B, 1, 8, 8\), got \(2, 3, 8, 8\): .*channels=1"):
        ConvNet(8, 1, 2)(torch.zeros(2, 3, 8, 8))


def test_mlp_s_layers_and_prior():
    net = MLP(3, (7, 5), activation="leaky_relu", prior=0.5)
    assert [type(m) for m in net.net] == [nn.Linear, nn.LeakyReLU] * 2 + [nn.Linear, nn.Flatten]
    assert [(m.in_features, m.out_features) for m in net.net if isinstance(m, nn.Linear)] == [(3, 7), (7, 5), (5, 1)]
    x = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 3.0]])
    assert torch.equal(net(x), net.net(x) - 0.25 * torch.tensor([6.0, 9.0]))
    assert net(x[:1]).shape == (1,)
    plain = MLP(3)
    assert torch.equal(plain(x), plain.net(x))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), "in_features must be an int of at least 1, got 0"),
        ((2, ()), "hidden must be a sequence of at least one width"),
        ((2, 64), "hidden must be a sequence of at least one width, got 64"),
        ((2, (3, 0)), "each of hidden must be an int of at least 1, got 0"),
        ((2, (3,), "silo"), "activation must be one of .* did you mean 'silu'"),
        ((2, (3,), "silu", -1.0), "prior must be finite and not negative, got -1.0"),
    ],
)
def test_mlp_s_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        MLP(*arguments)


def test_mlp_s_bad_input():
    with pytest.raises(ValueError, match=r"x must be \(B, 3\), got \(2, 4\)"):
        MLP(3)(torch.zeros(2, 4))
