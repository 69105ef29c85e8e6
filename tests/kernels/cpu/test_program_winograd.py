"""Convolutions of native programs by Winograd's filtering, on every instruction set, against float64."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from support.error_bounds import assert_within, gamma
from support.native_programs import Squares, computed, exact, native_score, whole
from support.winograd_tiles import gradient_weight, terms
from torch import nn

from fastlangevin.kernels import native
from fastlangevin.kernels.cpu import program
from fastlangevin.network.native import winograd

pytestmark = pytest.mark.skipif(native.load_cpu() is not None, reason="no cpu kernels here")


def score_in_tiles(energy, x, n_tiles, widest_tile=64):
    """A native score, and with energies, that takes it for n_tiles products, also where direct arithmetic is faster.
    The code for any instruction set runs on all.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_GAIN", 0.0)
        patch.setattr(program, "widest_tile", lambda: widest_tile)
        bound = native_score(energy, x)
        assert n_in_tiles(bound._program) == n_in_tiles(bound._program_with_energies) == n_tiles
    return bound


def n_in_tiles(bound_program):
    """The products that are computed so."""
    code, at, n = bound_program.code.tolist(), 12, 0
    while at < len(code):
        opcode, length = code[at : at + 2]
        n += opcode == 1 and code[at + 1 + length] > 0
        at += 2 + length
    return n


# Of the forward pass and the input gradient how many products are computed so, where they can be.
LAYERS = {
    "even": (nn.Conv2d(32, 48, 3, padding=1), (32, 8, 6), 2),
    "odd": (nn.Conv2d(33, 40, 3, padding=1), (33, 7, 9), 2),
    "few channels": (nn.Conv2d(3, 5, 3, padding=1), (3, 7, 6), 2),
    "one pixel": (nn.Conv2d(5, 3, 3, padding=1), (5, 1, 1), 2),
    "one line": (nn.Conv2d(2, 17, 3, padding=1, bias=False), (2, 1, 29), 2),
    "no padding": (nn.Conv2d(20, 31, 3), (20, 6, 5), 2),
    "wide padding": (nn.Conv2d(9, 18, 3, padding=(2, 0)), (9, 3, 8), 2),
    "dilation": (nn.Conv2d(5, 33, 3, padding=(2, 4), dilation=(2, 3)), (5, 9, 13), 2),
    "dilation over image": (nn.Conv2d(2, 3, 3, padding=6, dilation=5), (2, 4, 3), 2),
    "groups": (nn.Conv2d(34, 38, 3, padding=1, groups=2), (34, 5, 4), 4),
    "many channels": (nn.Conv2d(130, 147, 3, padding=1), (130, 4, 3), 2),
    "transposed": (nn.ConvTranspose2d(18, 7, 3, padding=1), (18, 4, 5), 2),
    "phases": (nn.Conv2d(6, 20, 6, 2, 2), (6, 9, 12), 4),
    "2×2, even": (nn.Conv2d(32, 48, 2, padding=1), (32, 7, 5), 2),
    "2×2, odd": (nn.Conv2d(33, 40, 2), (33, 6, 8), 2),
    "2×2, one pixel": (nn.Conv2d(5, 3, 2, padding=1), (5, 1, 1), 2),
    "2×2, wide padding": (nn.Conv2d(9, 18, 2, padding=(2, 0)), (9, 3, 8), 2),
    "2×2, dilation": (nn.Conv2d(5, 33, 2, padding=(2, 3), dilation=(3, 2)), (5, 9, 13), 2),
    "2×2, groups": (nn.Conv2d(34, 38, 2, groups=2), (34, 5, 4), 4),
    "2×2, many channels": (nn.Conv2d(130, 147, 2), (130, 4, 3), 2),
    "2×2, phases": (nn.Conv2d(6, 20, 4, 2, 1), (6, 10, 12), 4),
    "2×2, phases of odd images": (nn.Conv2d(17, 70, 4, 2, 1), (17, 9, 7), 4),
    "2×2, transposed phases": (nn.ConvTranspose2d(18, 7, 4, 2, 1), (18, 4, 5), 4),
}


def sparse(layer, event, n):
    """½ ‖f(x)‖² of weights and states of -1, 0 and 1, so few that float32 holds all sums exactly."""
    energy = Squares(layer)
    for i, p in enumerate(layer.parameters()):
        p.data = whole(p.shape, 1, i) * (torch.rand(p.shape, generator=torch.Generator().manual_seed(i)) < 0.3)
    return energy, whole((n, *event), 1, seed=9)


@functools.cache
def layer_case(name, n, widest_tile):
    layer, event, n_tiles = LAYERS[name]
    energy, x = sparse(layer, event, n)
    return score_in_tiles(energy, x, n_tiles, widest_tile), x, exact(energy, x)


@pytest.mark.parametrize(("n", "widest_tile"), [(1, 64), (5, 64), (5, 16)])
@pytest.mark.parametrize("name", LAYERS)
def test_sums_of_whole_numbers_are_exact(capability, name, n, widest_tile):
    """Transformed weights are quarters of whole numbers."""
    bound, x, (energy, score) = layer_case(name, n, widest_tile)
    assert 0 < score.abs().max() < 2**18 and torch.equal(score, score.round())
    assert 0 < energy.abs().max() < 2**22 and torch.equal(2 * energy, (2 * energy).round())
    assert all(torch.equal(found.double(), e) for found, e in zip(computed(bound, x), (energy, score), strict=True))


ANY_NUMBERS = {
    "even": (nn.Conv2d(32, 48, 3, padding=1), (32, 8, 6)),
    "odd": (nn.Conv2d(33, 20, 3, padding=1), (33, 7, 9)),
    "no padding, dilation": (nn.Conv2d(20, 31, 3, padding=(0, 2), dilation=(1, 2)), (20, 6, 9)),
    "2×2": (nn.Conv2d(33, 20, 2, padding=1), (33, 7, 8)),
    "2×2, dilation": (nn.Conv2d(20, 31, 2, padding=(0, 1), dilation=(1, 2)), (20, 6, 9)),
}


@functools.cache
def bounded(name):
    """The program of ½ ‖conv(x)‖² and x; score and energy in float64, each with its bound.

    A term has a rounding of its weight and two of its input, passes the sum over the channels, which begins with the
    bias, and at most four more on its way from sixteen sums to an output: γ_n with n = channels + 8 of all terms.
    """
    layer, event = ANY_NUMBERS[name]
    torch.manual_seed(4)
    energy = Squares(layer)
    for p in layer.parameters():
        p.data = torch.randn(p.shape) / 8
    x = torch.randn(3, *event)
    bound = score_in_tiles(energy, x, 2)
    weight, bias = (p.detach().double() for p in layer.parameters())
    back, geometry = gradient_weight(weight), (layer.padding, layer.dilation)
    padding = tuple((layer.kernel_size[0] - 1) * d - p for p, d in zip(*geometry, strict=True))
    f = F.conv2d(x.double(), weight, bias, 1, *geometry)
    error = gamma(layer.in_channels + 8) * terms(x.double().abs(), weight.abs(), bias.abs(), *geometry)
    most = f.abs() + error
    back_terms = terms(most, back.abs(), None, padding, layer.dilation)
    score_error = (
        F.conv2d(error, back.abs(), None, 1, padding, layer.dilation) + gamma(layer.out_channels + 8) * back_terms
    )
    energies, score = exact(energy, x)
    sums = (most.square() * gamma(f[0].numel() + 2) / 2 + f.abs() * error + error.square()).flatten(1).sum(1)
    return bound, x, ((energies, sums[:, None], 1e-3), (score, score_error, 2e-3))


@pytest.mark.parametrize("name", ANY_NUMBERS)
def test_against_float64(capability, name):
    bound, x, expected = bounded(name)
    for got, (value, error, tight) in zip(computed(bound, x), expected, strict=True):
        assert_within(got, value, error, tight=tight)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.a, self.b = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 70, 3, padding=1)

    def forward(self, x):
        return F.elu(self.b(F.silu(self.a(x)))).square().mean((1, 2, 3))


def test_bits_do_not_depend_on_threads_or_batch(capability, threads):
    energy, x = Net(), torch.randn(21, 3, 8, 6)
    bound = native_score(energy, x)
    assert n_in_tiles(bound._program) == 2
    expected, energies = bound(x), bound.energy_and_score(x)[0]
    threads(3)
    assert torch.equal(bound(x), expected) and torch.equal(bound.energy_and_score(x)[0], energies)
    threads(1)
    for a, b in itertools.pairwise((0, 1, 3, 10, 21)):
        part = native_score(energy, x[a:b].clone())
        assert n_in_tiles(part._program) == 2
        assert torch.equal(part(x[a:b]), expected[a:b])
        assert torch.equal(part.energy_and_score(x[a:b])[0], energies[a:b])


@pytest.mark.parametrize(
    ("layer", "event", "n_tiles"),
    [
        (nn.Conv2d(32, 32, 3, padding=1), (32, 8, 8), 2),
        (nn.Conv2d(32, 32, 3, padding=1), (32, 7, 7), 0),
        (nn.Conv2d(64, 64, 3, padding=1), (64, 4, 4), 2),
        (nn.Conv2d(64, 64, 3, padding=1), (64, 3, 3), 0),
        (nn.Conv2d(3, 64, 3, padding=1), (3, 16, 16), 0),
        (nn.Conv2d(32, 32, 3, 2, 1), (32, 16, 16), 0),
        (nn.Conv2d(32, 32, 3, padding=4, dilation=4), (32, 32, 32), 2),
        (nn.Conv2d(32, 32, 3, padding=1, groups=4), (32, 16, 16), 0),
        (nn.Conv2d(32, 32, 5, padding=2), (32, 16, 16), 0),
        (nn.Conv1d(32, 32, 3, padding=1), (32, 64), 0),
        (nn.ConvTranspose2d(64, 64, 4, 2, 1), (64, 8, 8), 4),
        (nn.Conv2d(64, 64, 4, 2, 1), (64, 16, 16), 4),
        (nn.Conv2d(64, 64, 4, 2, 1), (64, 8, 8), 0),
        (nn.Conv2d(64, 64, 2), (64, 9, 9), 1),
        (nn.Conv2d(64, 64, (2, 3)), (64, 9, 10), 0),
    ],
    ids=str,
)
def test_which_layers(layer, event, n_tiles):
    """By their geometry alone: whatever the batch."""
    for n in (1, 7):
        bound = native_score(Squares(layer), torch.zeros(n, *event))
        assert n_in_tiles(bound._program) == n_in_tiles(bound._program_with_energies) == n_tiles


def test_a_wide_layer_has_weights_that_are_read_in_groups():
    """1 MiB of them at a time, and at least 64 channels'."""
    axis = winograd.Axis(8, -1, 1, 3, 8)
    widths = [winograd.group_width(axis, axis, n, n) for n in (64, 128, 200, 1000)]
    assert widths == [256, 128, 64, 64] and math.prod(widths) > 0
