"""How the weights of products of native programs are packed, against indices written out."""

from __future__ import annotations

import itertools

import pytest
import torch
from support.error_bounds import U
from torch import nn

from fastlangevin.kernels import native
from fastlangevin.kernels.cpu.program import _pack
from fastlangevin.network.inputs import Inputs
from fastlangevin.network.native.values import Packing
from fastlangevin.network.target import Target
from fastlangevin.score.graph import GraphEngine, NativeGraphScore

pytestmark = pytest.mark.skipif(native.load_cpu() is not None, reason="no cpu kernels here")

BEFORE, AFTER, POISON = 5, 7, -77.0
# By the size of the window: of weights to factors, and the order of the factors' places y.
TRANSFORMS = {
    2: (torch.tensor([[1, 0], [1, 1], [0, 1]], dtype=torch.float64), (1, 0, 2)),
    3: (torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64), (1, 2, 0, 3)),
}


def padded(n):
    return -(-n // 16) * 16


def tiles(n_out, widest):
    """(first output channel, how many, the width of the tile)."""
    done = 0
    while done < n_out:
        left = padded(n_out - done)
        tile = min(widest, 64 if left >= 64 else 32 if left >= 32 else 16)
        yield done, min(tile, n_out - done), tile
        done += tile


def blocks(taps, widest):
    """The tiles of taps (terms, input channels, output channels), one after the other, padded with zeros."""
    n_out = taps.shape[-1]
    return [nn.functional.pad(taps[..., at : at + n], (0, tile - n)).flatten() for at, n, tile in tiles(n_out, widest)]


def taps_of(packing, weight):
    """(window y, window x, input channel, output channel), in float64."""
    if packing.ys is None:
        return weight.double()[None, None]
    weight = weight.double() if weight.dim() == 4 else weight.double()[:, :, None]
    size = len(weight) // packing.groups
    rows = range(packing.group * size, (packing.group + 1) * size)
    in_order = [[weight[rows, :, y, x] for x in packing.xs] for y in packing.ys]
    stacked = torch.stack([torch.stack(row) for row in in_order])
    return stacked if packing.gathers else stacked.transpose(2, 3)


def packed(packing, weight):
    """Between numbers that must stay as they are."""
    weights, *flips = packing.taps(weight)
    extra = 1 if packing.winograd_width else 0
    places = (weights.shape[0] + extra) * (weights.shape[1] + extra)
    size = places * weights.shape[2] * padded(weights.shape[3])
    shared = torch.full((BEFORE + size + AFTER,), POISON)
    pack = torch.ops.fastlangevin.program_pack_cpu_.default
    pack(shared, weights, BEFORE, *flips, packing.tile, packing.winograd_width)
    assert torch.all(shared[:BEFORE] == POISON) and torch.all(shared[BEFORE + size :] == POISON)
    return shared[BEFORE : BEFORE + size]


def normals(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


PHASES = {
    "all": (range(3), range(4)),
    "gradient": (range(2, -1, -1), range(3, -1, -1)),
    "every other": (range(1, 3, 2), range(0, 4, 2)),
    "every other of a gradient": (range(0, 3, 2)[::-1], range(1, 4, 2)[::-1]),
    "one axis turned": (range(3), range(4)[::-1]),
}


@pytest.mark.parametrize("tile", [16, 64])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 70), (65, 17), (130, 100), (31, 48)])
@pytest.mark.parametrize("gathers", [False, True])
@pytest.mark.parametrize("phase", PHASES)
def test_windows(phase, gathers, n, m, tile):
    packing = Packing(*PHASES[phase], 0, 1, gathers, tile, 0)
    weight = normals(n, m, 3, 4)
    expected = torch.cat(blocks(taps_of(packing, weight).flatten(0, 1), tile))
    assert torch.equal(packed(packing, weight).double(), expected)


@pytest.mark.parametrize("gathers", [False, True])
def test_groups_and_one_dimension(gathers):
    weight = normals(6, 5, 3)
    for group in range(3):
        packing = Packing(range(1), range(2, -1, -1), group, 3, gathers, 64, 0)
        expected = torch.cat(blocks(taps_of(packing, weight).flatten(0, 1), 64))
        assert torch.equal(packed(packing, weight).double(), expected)


@pytest.mark.parametrize("tile", [16, 64])
@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (3, 200), (257, 31), (1000, 70)])
def test_matrices(n_in, n_out, is_transposed, tile):
    weight = normals(n_out, n_in).t() if is_transposed else normals(n_in, n_out)
    packing = Packing(None, None, 0, 1, False, tile, 0)
    assert torch.equal(packed(packing, weight).double(), torch.cat(blocks(taps_of(packing, weight)[0], tile)))


@pytest.mark.parametrize("window", TRANSFORMS)
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("tile", [16, 64])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 70), (65, 130), (140, 257)])
@pytest.mark.parametrize(("gathers", "turned"), [(False, False), (True, True), (False, True)])
def test_transformed(gathers, turned, n, m, tile, width, window):
    """Rounded once: a weight's sums in float64 may lead to the other of two neighbours only near their middle."""
    taps = range(window)[::-1] if turned else range(window)
    packing = Packing(taps, taps, 0, 1, gathers, tile, width)
    weight = normals(n, m, window, window)
    transform, order = TRANSFORMS[window]
    transformed = torch.einsum("py,qx,yxio->pqio", transform, transform, taps_of(packing, weight))
    groups = transformed.split(width, 3)
    expected = torch.cat([b for group in groups for y in order for b in blocks(group[y], tile)])
    error = (packed(packing, weight).double() - expected).abs()
    assert torch.all(error <= U * (1 + 2**-20) * expected.abs() + 2**-45)


@pytest.mark.parametrize("width", [0, 64])
def test_a_group_of_transformed_weights(width):
    packing = Packing(range(2), range(2), 1, 2, False, 64, width)
    weight = normals(6, 5, 2, 2)
    assert torch.equal(packed(packing, weight), packed(Packing(range(2), range(2), 0, 1, False, 64, width), weight[3:]))


@pytest.mark.parametrize("shape", [(3, 5, 1, 1), (0, 5, 3, 3), (3, 0, 3, 3)])
def test_nothing_to_pack(shape):
    """As of phases that read no place of the kernel."""
    assert packed(Packing(range(1, 1, 2)[::-1], range(1)[::-1], 0, 1, True, 64, 0), normals(*shape)).numel() == 0


def test_weights_that_are_used_again_are_packed_once():
    conv = nn.Conv2d(4, 4, 3, padding=1)

    def energy(x):
        return conv(conv(conv(x).tanh()).tanh()).square().sum((1, 2, 3))

    bound = GraphEngine(Target("energy", energy), "fp32").bind(torch.zeros(2, 4, 5, 5), Inputs(()))
    assert isinstance(bound, NativeGraphScore), bound.fusion
    constants = bound._recording.native.program.constants
    assert sum(isinstance(constant.make, Packing) for constant, _ in constants) == 2  # of the convolution and back


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_other_types(dtype):
    """They are converted before: float32 holds whole numbers of any type."""
    weight = torch.arange(-12, 12).reshape(2, 3, 2, 2).to(dtype)
    packing = Packing(range(2), range(2), 0, 1, False, 64, 0)
    shared = torch.zeros(4 * 3 * 16)
    _pack(shared, 0, packing, weight)
    assert torch.equal(shared, packed(packing, weight.float()))


def test_many_threads_and_one_write_the_same():
    """Parts of the input channels."""
    weight, threads = normals(64, 300, 3, 3), torch.get_num_threads()
    taken = []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            taken.append([packed(Packing(range(3), range(3), 0, 1, False, 64, width), weight) for width in (0, 64)])
    finally:
        torch.set_num_threads(threads)
    assert all(itertools.starmap(torch.equal, zip(*taken, strict=True)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"place": 1}, "shared is too short for the weights"),
        ({"place": -1}, "shared is too short for the weights"),
        ({"tile": 80}, "a tile has 16, 32, 48 or 64 channels"),
        ({"tile": 0}, "a tile has 16, 32, 48 or 64 channels"),
        ({"weights": torch.ones(2, 3, 1, 1), "width": 64}, "Winograd's filtering is of 2×2 and 3×3 windows"),
        ({"weights": torch.ones(2, 2, 1, 1), "width": 32}, "a group has whole tiles of channels"),
        ({"width": -64, "weights": torch.ones(2, 2, 1, 1)}, "a group has whole tiles of channels"),
        ({"weights": torch.ones(3, 3, 1, 1, dtype=torch.float64)}, "weights must be a float32 tensor"),
        ({"weights": torch.ones(3, 3, 1)}, "weights must be a float32 tensor"),
        ({"shared": torch.zeros(9 * 16, dtype=torch.float64)}, "shared must be contiguous float32"),
    ],
)
def test_errors(changes, message):
    given = {"shared": torch.zeros(9 * 16), "weights": torch.ones(3, 3, 1, 1), "place": 0, "tile": 16, "width": 0}
    given |= changes
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fastlangevin.program_pack_cpu_.default(
            given["shared"], given["weights"], given["place"], False, False, given["tile"], given["width"]
        )
