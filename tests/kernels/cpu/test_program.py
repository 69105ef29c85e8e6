"""Native programs: every instruction on every instruction set, against float64; bits whatever the batch and threads.

Programs with energies differ from those without, so that each test runs both. What can be computed with samples side by
side is tested in both layouts.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import forced
from support.native_programs import Squares, computed, exact, native_score, whole
from support.perturbed import assert_within_bound, exact_and_bound
from torch import nn

import fastlangevin as fl
from fastlangevin.kernels import native
from fastlangevin.kernels.cpu import program, whole_chain
from fastlangevin.network.native import program as programs
from fastlangevin.network.native.lanes import LANES
from fastlangevin.network.native.values import View, dense_strides
from fastlangevin.score.graph import NativeGraphScore

pytestmark = pytest.mark.skipif(native.load_cpu() is not None, reason="no cpu kernels here")


LAYOUTS = {"together": 1, "in lanes": LANES}


@contextlib.contextmanager
def laid_out(layout):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "_is_small", lambda *_: layout == "in lanes")
        yield


@pytest.fixture(params=LAYOUTS)
def layout(request):
    """How the numbers of samples lie, whatever their size."""
    with laid_out(request.param):
        yield request.param


def n_lanes(bound):
    return bound._recording.native.program.lanes


def assert_within_bounds(got, expected):
    for found, bounds in zip(got, expected, strict=True):
        assert_within_bound(found, *bounds)


PRODUCTS = {
    "3x3": (nn.Conv2d(3, 5, 3, padding=1), (3, 7, 6)),
    "one pixel": (nn.Conv2d(1, 1, 1), (1, 1, 1)),
    "ragged": (nn.Conv2d(5, 33, (3, 2), (1, 2), (1, 0)), (5, 13, 17)),
    "wide": (nn.Conv2d(17, 130, 3, 2, 1, bias=False), (17, 5, 4)),
    "stride over kernel": (nn.Conv2d(3, 5, 2, 3), (3, 10, 11)),
    "padding over kernel": (nn.Conv2d(2, 3, 1, 2, 2), (2, 4, 5)),
    "kernel over image": (nn.Conv2d(2, 16, 5, 1, 2), (2, 1, 3)),
    "dilation": (nn.Conv2d(4, 6, 3, 1, 2, dilation=2), (4, 9, 5)),
    "long dilation": (nn.Conv2d(3, 4, (3, 1), 1, (4, 0), dilation=(4, 1)), (3, 5, 3)),
    "groups": (nn.Conv2d(6, 9, 3, 2, 1, groups=3), (6, 7, 7)),
    "depthwise": (nn.Conv2d(5, 5, 3, padding=1, groups=5), (5, 6, 6)),
    "few channels, stride": (nn.Conv2d(1, 16, 5, 2, 4), (1, 28, 28)),
    "one dimension": (nn.Conv1d(3, 7, 3, 2, 1), (3, 11)),
    "transposed": (nn.ConvTranspose2d(5, 6, 4, 2, 1), (5, 3, 4)),
    "transposed 1x1": (nn.ConvTranspose2d(20, 18, 4), (20, 1, 1)),
    "transposed groups": (nn.ConvTranspose2d(4, 6, 3, 3, 1, output_padding=1, groups=2), (4, 4, 3)),
    "transposed one dimension": (nn.ConvTranspose1d(3, 4, 5, 2, 2), (3, 6)),
    "linear": (nn.Linear(19, 37), (19,)),
    "linear to one": (nn.Linear(2, 1), (2,)),
    "linear of rows": (nn.Linear(5, 66), (3, 5)),
    "linear of many": (nn.Linear(131, 147, bias=False), (131,)),
    "mean over windows": (nn.AvgPool2d(2), (3, 4, 6)),
    "ragged mean": (nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=2), (5, 7, 9)),
    "maximum": (nn.MaxPool2d(2), (3, 5, 6)),
    "overlapping maximum": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (17, 6, 7)),
    "nearest": (nn.Upsample(scale_factor=2), (3, 2, 3)),
    "shuffle": (nn.PixelShuffle(2), (8, 3, 2)),
    "unshuffle": (nn.PixelUnshuffle(2), (2, 4, 6)),
    "padding": (nn.ConstantPad2d((1, 0, -1, 2), 3.0), (2, 4, 3)),
}


MATRICES = [name for name in PRODUCTS if name.startswith("linear")]


@functools.cache
def product(name, n, layout):
    layer, event = PRODUCTS[name]
    energy, x = Squares(copy.deepcopy(layer)), whole((n, *event), seed=9)
    with laid_out(layout):
        return native_score(energy, x), x, exact(energy, x)


@pytest.mark.parametrize(
    ("name", "n", "layout"),
    [(name, n, "together") for name in PRODUCTS for n in (1, 5)]
    + [(name, n, "in lanes") for name in MATRICES for n in (1, 33)],
)
def test_sums_of_whole_numbers_are_exact(capability, name, n, layout):
    """Float32 adds whole numbers, here quarters of quarters of them, without an error up to 2^24 of those."""
    bound, x, (energy, score) = product(name, n, layout)
    assert n_lanes(bound) == LAYOUTS[layout]
    assert 0 < score.abs().max() < 2**20 and torch.equal(16 * score, (16 * score).round())
    assert 0 < energy.abs().max() < 2**18 and torch.equal(32 * energy, (32 * energy).round())
    assert all(torch.equal(found.double(), e) for found, e in zip(computed(bound, x), (energy, score), strict=True))


POINTWISE = {
    "relu": F.relu,
    "leaky": lambda h: F.leaky_relu(h, 0.2),
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "swish by hand": lambda h: h * torch.sigmoid(h),
    "gelu": F.gelu,
    "gelu tanh": lambda h: F.gelu(h, approximate="tanh"),
    "tanh": torch.tanh,
    "softplus": lambda h: F.softplus(h, 1.3, 10),
    "elu": lambda h: F.elu(h, 0.7),
    "selu": F.selu,
    "mish": F.mish,
    "hardtanh": lambda h: F.hardtanh(h, -0.3, 0.4),
    "clamp": lambda h: h.clamp(max=0.5) + h.clamp(-0.2),
    "abs": lambda h: h.abs() * h,
    "exp": lambda h: torch.exp(-h) / (1 + h.square()),
    "log": lambda h: torch.log(h.square() + 1e-3),
    "log1p": lambda h: torch.log1p(h.exp()),
    "expm1": torch.expm1,
    "root": lambda h: torch.sqrt(h.square() + 0.1) + torch.rsqrt(h.square() + 0.3),
    "power": lambda h: h**3 - h**4 / 5 + (h + 9) ** -2 + (h.square() + 1) ** 0.5,
    "maximum": lambda h: torch.maximum(h, 0.3 - h) + torch.minimum(h.square(), h + 1),
    "where": lambda h: torch.where((h > 0.1) & ~(h >= 1.5), h, 0.3 * h * h),
    "rsub": lambda h: (1 - h) * torch.rsub(h, h.tanh(), alpha=2),
}
VECTORS = {
    "logsumexp": lambda h: h.logsumexp(1),
    "softmax": lambda h: (h.softmax(1) * h).sum(1),
    "log_softmax": lambda h: h.log_softmax(1)[:, 0],
    "norm": lambda h: h.norm(dim=1),
    "variance": lambda h: h.var(1) + h.var(1, correction=0).sqrt(),
    "layer norm": lambda h: F.layer_norm(h, h.shape[1:]).tanh(),
    "outer": lambda h: torch.einsum("bi,bj->bij", h, h.tanh()).square(),
    "cat": lambda h: torch.cat((h[:, ::2], h.flip(1), h[:, -1:]), 1).tanh() * 0.5,
    "rolled": lambda h: h.roll(1, -1) * h,
    "split": lambda h: torch.stack([p.sum(1) for p in h.split(2, 1)], 1).square(),
    "select": lambda h: h[:, 0] * h[:, -1],
}
IMAGES = {
    "group norm": nn.GroupNorm(2, 4),
    "instance norm": nn.InstanceNorm2d(4, affine=True),
    "batch norm": nn.BatchNorm2d(4).eval(),
    "layer norm": nn.LayerNorm((5, 3)),
    "mean over windows": nn.AvgPool2d(3, 2, 1),
    "mean without padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "adaptive": nn.AdaptiveAvgPool2d((5, 1)),
    "softmax over channels": nn.Softmax(1),
}


def smooth(energy, x, *args):
    """The bound program and x, and energies and scores in float64 with the bounds of what roundings do to them."""
    bounds = [exact_and_bound(lambda i=i: exact(energy, x, *args)[i], n) for i, n in enumerate((16, 4))]
    return native_score(energy, x, *args), x, bounds


@functools.cache
def pointwise(name, layout):
    function, weights = POINTWISE[name], torch.linspace(-1, 2, 37)
    x = torch.randn(7, 37, generator=torch.Generator().manual_seed(1)) * 3
    x[0, :3] = torch.tensor([30.0, -30.0, 0.7])
    with laid_out(layout):
        return smooth(lambda x: (function(x) * weights.to(x.dtype)).sum(1), x)


@functools.cache
def of_vectors(name, layout):
    function = VECTORS[name]
    x = torch.randn(3, 11, generator=torch.Generator().manual_seed(2)) * 2
    with laid_out(layout):
        return smooth(lambda x: function(x).reshape(len(x), -1).sum(1), x)


@functools.cache
def of_images(name, n):
    torch.manual_seed(2)
    layer = IMAGES[name]
    for p in layer.parameters():
        p.data = torch.randn(p.shape)
    weights = torch.randn(1, *layer(torch.zeros(2, 4, 5, 3)).shape[1:])
    return smooth(Weighted(nn.Sequential(nn.Conv2d(3, 4, 1), layer), weights), torch.randn(n, 3, 5, 3) + 0.5)


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise(capability, layout, name):
    bound, x, expected = pointwise(name, layout)
    assert n_lanes(bound) == LAYOUTS[layout]
    assert_within_bounds(computed(bound, x), expected)


def test_sigmoid_is_never_subnormal(capability, layout):
    """Processors are 10 to 100 times slower with subnormal numbers."""
    x = -torch.tensor([[87.0], [87.4], [88.0], [95.0], [1e4], [math.inf]])
    energies, _ = computed(native_score(lambda x: torch.sigmoid(x).sum(1), x), x)
    assert (energies >= torch.finfo(torch.float32).tiny).all() and (energies[1:] < 1.23e-38).all()


@pytest.mark.parametrize("name", VECTORS)
def test_functions_of_vectors(capability, layout, name):
    bound, x, expected = of_vectors(name, layout)
    assert n_lanes(bound) == LAYOUTS[layout]
    assert_within_bounds(computed(bound, x), expected)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", IMAGES)
def test_functions_of_images(capability, name, n):
    bound, x, expected = of_images(name, n)
    assert_within_bounds(computed(bound, x), expected)


class Weighted(nn.Module):
    def __init__(self, net, weights):
        super().__init__()
        self.net = net
        self.register_buffer("weights", weights)

    def forward(self, x):
        return (self.net(x) * self.weights).flatten(1).sum(1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.value = nn.Linear(6, 9), nn.Linear(6, 20)

    def forward(self, x):
        q = self.query(x)
        weights = torch.bmm(q, q.transpose(1, 2)).softmax(-1)
        return torch.bmm(weights, self.value(x)).square().flatten(1).sum(1)


@pytest.mark.parametrize("n", [1, 4])
def test_attention(capability, n):
    torch.manual_seed(3)
    bound, x, expected = smooth(Attention(), torch.randn(n, 17, 6))
    assert_within_bounds(computed(bound, x), expected)


@pytest.mark.parametrize("n", [6, 70])
def test_numbers_of_each_sample(capability, layout, n):
    """Arguments, labels and their embeddings."""
    torch.manual_seed(4)
    embedding = nn.Embedding(3, 7)

    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.net = embedding, nn.Linear(7, 5)

        def forward(self, x, y, t):
            logits = self.net(x * self.embedding(y)).tanh()
            picked = torch.gather(logits, 1, y[:, None])[:, 0]
            return picked * t + ((x - t[:, None]) ** 2).sum(1)

    energy, x = Conditional(), torch.randn(n, 7)
    y, t = torch.randint(3, (n,)), torch.rand(n)
    bound, x, expected = smooth(energy, x, y, t)
    assert n_lanes(bound) == LAYOUTS[layout]
    assert_within_bounds(computed(bound, x), expected)


class Net(nn.Module):
    def __init__(self, norm=False):
        super().__init__()
        torch.manual_seed(5)
        self.a, self.b = nn.Conv2d(2, 9, 3, 2, 1), nn.Conv2d(9, 5, 3, padding=1)
        self.norm = nn.GroupNorm(1, 5) if norm else nn.Identity()
        self.head = nn.Linear(5, 1)

    def forward(self, x):
        h = F.silu(self.a(x))
        return self.head(F.elu(self.norm(self.b(h))).mean((2, 3)) + h.mean((2, 3))[:, :5])


class Small(nn.Module):
    """Computed with samples side by side. Takes a number for each."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.net = nn.Sequential(nn.Linear(3, 19), nn.SiLU(), nn.Linear(19, 1))
        self.means = nn.Parameter(torch.randn(5, 3))

    def forward(self, x, t=1.5):
        near = -0.5 * (x[:, None] - self.means).square().sum(2)
        return self.net(x).flatten() * t - near.logsumexp(1)


CASES = {"convolutions": (Net(), (2, 9, 7)), "norm": (Net(True), (2, 9, 7)), "small": (Small(), (3,))}


@pytest.mark.parametrize("name", CASES)
def test_bits_do_not_depend_on_threads_or_batch(capability, threads, name):
    energy, event = CASES[name]
    x = torch.randn(65, *event)
    assert n_lanes(native_score(energy, x)) == (LANES if name == "small" else 1)
    expected = native_score(energy, x)(x)
    energies = native_score(energy, x).energy_and_score(x)[0]
    threads(3)
    assert torch.equal(native_score(energy, x)(x), expected)
    assert torch.equal(native_score(energy, x).energy_and_score(x)[0], energies)
    threads(1)
    for a, b in itertools.pairwise((0, 1, 3, 40, 65)):
        part = native_score(energy, x[a:b].clone())
        assert torch.equal(part(x[a:b]), expected[a:b])
        assert torch.equal(part.energy_and_score(x[a:b])[0], energies[a:b])


OPTIONS = [
    {},
    {"bounds": (-0.4, 0.5)},
    {"grad_clip": 0.02, "noise_first": True},
    {"bounds": (-0.4, 0.5), "noise_first": "clamp"},
    {"noise_std": [0.01 * k for k in range(6)], "step_size": [0.1 / (1 + k) for k in range(6)]},
]


@pytest.mark.parametrize("name", ["convolutions", "small"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_whole_chains_have_the_bits_of_single_steps(capability, monkeypatch, threads, options, name):
    """In one call, in several, and step by step with the backend's update; on any number of threads."""
    options = {"n_steps": 6, "step_size": 0.1, "noise_std": 0.05, "seed": 3, "engine": "graph", **options}
    energy, event = CASES[name]
    x = torch.rand(70 if name == "small" else 9, *event) - 0.5
    whole = fl.Langevin(energy, **options)(x, step=5)
    sampler = fl.Langevin(energy, **options)
    trace = sampler.trace(x, every=1, step=5)
    assert torch.equal(trace.x[-1], whole)
    monkeypatch.setattr(whole_chain, "_MOST_MULTIPLY_ADDS", 1)
    threads(3)
    assert torch.equal(fl.Langevin(energy, **options)(x, step=5), whole)
    monkeypatch.setattr(NativeGraphScore, "run_chain_", lambda self, x, args: False)
    assert torch.equal(fl.Langevin(energy, **options)(x, step=5), whole)


@pytest.mark.parametrize("name", ["convolutions", "small"])
def test_memory_around_the_state_is_unchanged(capability, name):
    energy, event = CASES[name]
    memory = torch.full((30, *event), 99.0)
    x = memory[3:20]
    x.fill_(0.1)
    bound = native_score(energy, x)
    sampler = fl.Langevin(energy, n_steps=3, step_size=0.1, noise_std=0.1, engine="graph", seed=1)
    chain = sampler(x)
    assert not torch.equal(chain, x) and bound(x).shape == x.shape
    assert (memory[:3] == 99).all() and (memory[20:] == 99).all() and (x == 0.1).all()


def test_what_needs_the_numbers_of_a_sample_side_by_side_keeps_them_so(layout):
    assert n_lanes(native_score(Squares(nn.Conv2d(1, 2, 2)), torch.randn(3, 1, 4, 4))) == 1
    assert n_lanes(native_score(Attention(), torch.randn(3, 2, 6))) == 1


@pytest.mark.parametrize(
    ("energy", "width", "lanes"),
    [
        (nn.Sequential(nn.Linear(120, 120), nn.Tanh(), nn.Linear(120, 1), nn.Flatten(0)), 120, LANES),
        (nn.Sequential(nn.Linear(120, 600), nn.Tanh(), nn.Linear(600, 1), nn.Flatten(0)), 120, 1),
        (lambda x: (x.tanh() * x).sum(1), 250, LANES),
        (lambda x: (x.tanh() * x).sum(1), 1000, 1),
    ],
)
def test_how_few_numbers_lie_side_by_side(energy, width, lanes):
    assert n_lanes(native_score(energy, torch.randn(2, width))) == lanes


def test_energies_without_a_kernel_are_torch_s():
    energy, x = lambda x: (x.tanh() + x.square()).sum(1), torch.randn(5, 4)
    bound = native_score(energy, x)
    bound._recording.native_with_energies = "there is no kernel"
    assert bound._program_with_energies is None
    energies, scores = bound.energy_and_score(x)
    torch.testing.assert_close(energies, energy(x))
    assert torch.equal(scores, bound(x))


def test_tiles_are_as_wide_as_the_registers_allow():
    for capability, width in (("portable", 16), ("avx512", 64), ("amx", 64)):
        with forced(capability):
            assert program.widest_tile() == width


def test_energies_are_torch_s_where_scores_beside_them_would_have_other_bits(monkeypatch):
    energy, x = lambda x: (x.tanh() * x).sum(1), torch.randn(5, 40)
    bound = native_score(energy, x)
    assert n_lanes(bound) == LANES
    monkeypatch.setattr(programs, "in_lanes", lambda *_: None)
    assert "side by side" in bound._recording.native_with_energies
    energies, scores = bound.energy_and_score(x)
    torch.testing.assert_close(energies, energy(x))
    assert torch.equal(scores, bound(x))


def test_code_of_scores_alone_is_not_run_for_energies():
    x = torch.randn(3, 2, 9, 7)
    bound = native_score(Net(), x)
    with pytest.raises(RuntimeError, match="the code computes no energies"):
        program.energy_and_score(bound._program, x)
    with pytest.raises(RuntimeError, match="x is not of the states that the code is for"):
        program.energy_and_score(bound._program_with_energies, x[:, :1].contiguous())
    arguments = dataclasses.astuple(bound._program_with_energies)[:3]
    torch.library.opcheck(torch.ops.fastlangevin.program_energy_and_score_cpu.default, (x, *arguments))


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 6, 1), (3, 1, 2), (4,), (2, 2, 3)])
def test_reshaped_views(shape):
    for source, order in (((2, 3), None), ((2, 3), (1, 0)), ((1, 2, 1, 3), None), ((2, 2, 3), (0, 2, 1))):
        n = math.prod(source)
        memory = torch.arange(n)
        view = View(None, source, dense_strides(source, order))
        tensor = memory.as_strided(source, view.strides)
        if math.prod(shape) != n:
            continue
        found = view.reshaped(shape)
        if found is None:
            with pytest.raises(RuntimeError):
                tensor.view(shape)
        else:
            assert torch.equal(memory.as_strided(shape, found.strides), tensor.reshape(shape))
