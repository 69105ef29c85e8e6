"""One kernel from a step's last gradient to the next one's first activations: its chains have the bits of separate
steps, and are float64's. Torch's convolutions compute the layers between, in cuDNN's place.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch.nn import functional

import fastlangevin as fl
from fastlangevin.kernels import BACKENDS
from fastlangevin.kernels import triton as backend
from fastlangevin.kernels.arguments import ChainArgs, UpdateArgs
from fastlangevin.network.layers import Conv

if importlib.util.find_spec("triton") is None or backend.unsupported() or backend.DEVICE != "cpu":
    pytest.skip("needs Triton's interpreter", allow_module_level=True)

from fastlangevin.kernels.triton import convnet
from fastlangevin.kernels.triton.convnet import plan
from fastlangevin.kernels.triton.convnet.measured import CUDNN, Measured, Tile

pytestmark = pytest.mark.usefixtures("own")


def tower(shape: tuple[int, ...], channels: int, stride: int):
    """Two layers of whole weights."""
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    layers, planes = [], shape[0]
    for width, side, step in ((channels, stride + 2, stride), (32, 3, 1)):
        weight = draw(width, planes, side, side).div(2).round().sign()
        layers.append((Conv(weight, draw(width).round(), (step, step), (1, 1), (1, 1), 1), 0.5))
        planes = width
    return layers, draw(32, shape[1] // stride, shape[2] // stride).sign()


def planned(own: Measured, packed, batch: int, tile: Tile | None) -> None:
    """Measures, as it were, that cuDNN is fastest, and a kernel between steps if there is a tile."""
    workspace = packed.workspace(batch)
    own.choices = {la.key: CUDNN for la in workspace.launches if la.name in ("forward", "backward")}
    if tile is not None:
        layer, itemsize = packed.layers[0].geometry, packed.dtype.itemsize
        own.choices[plan.between_key(layer, batch, itemsize)] = tile
    packed.forget_workspace()


# image, channels, stride, batch, tile (rows of the product, columns, depth, warps, stages, bands), precision
NETS = {
    "one band, two planes": ((2, 2, 4), 32, 1, 1, Tile(16, 64, 128, 4, 2, split=1), "tf32"),
    "uneven bands, rows of six": ((3, 8, 6), 64, 1, 2, Tile(16, 32, 64, 4, 2, split=3), "fp16"),
    "halved at once, one plane": ((1, 12, 4), 32, 2, 1, Tile(32, 32, 128, 4, 2, split=2), "tf32"),
    "four planes, a row a band": ((4, 4, 4), 32, 1, 1, Tile(16, 32, 64, 4, 2, split=9), "fp16"),
}
# K, has_noise, offset, grad_clip, lo, hi, noise_first
CHAINS = {
    "all": (2, True, 0, 40.0, -1.5, 1.5, False),
    "no noise": (2, False, 0, None, -2.0, None, False),
    "an offset within a group": (3, True, 2**40 + 3, None, None, None, False),
    "noise first": (2, True, 4, 40.0, -1.5, 1.5, True),
    "noise first, clamped": (2, True, 8192, None, -1.5, 1.5, "clamp"),
}
CASES = [(net, "all", False) for net in NETS] + [("one band, two planes", chain, True) for chain in CHAINS]


def separate_steps(packed, x, args: ChainArgs) -> None:
    """As `LangevinChain` does them."""
    update = BACKENDS["reference"].update
    for eta, sigma, step in zip(args.step_sizes, args.noise_stds, args.steps, strict=True):
        limits = (args.grad_clip, args.lo, args.hi)
        if not args.noise_first:
            sigma = sigma if args.has_noise else None
            convnet.step_(packed, x, UpdateArgs(eta, sigma, args.seed, step, 0, args.offset, *limits))
            continue
        bounds = limits[1:] if args.noise_first == "clamp" else (None, None)
        update(x, None, UpdateArgs(None, sigma, args.seed, step, 0, args.offset, None, *bounds))
        score = convnet.score(packed, x)
        update(x, score, UpdateArgs(eta, None, args.seed, step, 0, args.offset, *limits))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("net", "chain", "as_tensors"), CASES)
def test_chains_have_the_bits_of_separate_steps(own, net, chain, as_tensors):
    shape, channels, stride, batch, tile, precision = NETS[net]
    n_steps, has_noise, offset, *limits, noise_first = CHAINS[chain]
    packed = convnet.pack(*tower(shape, channels, stride), shape, precision)
    seed, steps = 5, list(range(2**32 - n_steps, 2**32))
    etas, sigmas = ([base / (k + 1) for k in range(n_steps)] for base in (0.01, 0.3))
    if as_tensors:
        etas, sigmas = ([torch.tensor(v, dtype=torch.float64) for v in column] for column in (etas, sigmas))
        seed, steps = torch.tensor(seed), [torch.tensor(v) for v in steps]
    args = ChainArgs(etas, sigmas, has_noise, seed, steps, offset, *limits, noise_first)
    memory = torch.randn((batch + 2) * shape[0] * shape[1] * shape[2], generator=torch.Generator().manual_seed(1))
    before, around = memory.clone(), memory.view(batch + 2, *shape)
    x, expected = around[1:-1], around[1:-1].clone()

    planned(own, packed, batch, None)
    assert not convnet.run_chain_(packed, x, args) and torch.equal(memory, before)
    separate_steps(packed, expected, args)
    planned(own, packed, batch, tile)
    version = x._version
    assert convnet.run_chain_(packed, x, args)
    assert torch.equal(x, expected)
    assert x._version > version and x.isfinite().all() and not torch.equal(x, before.view_as(around)[1:-1])
    assert torch.equal(around[:: batch + 1], before.view_as(around)[:: batch + 1])


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("net", ["four planes, a row a band", "halved at once, one plane"])
def test_a_chain_of_whole_numbers_is_float64_s(own, net):
    """The bounds keep states of whole numbers so small that no sum is rounded."""
    shape, channels, stride, batch, tile, precision = NETS[net]
    layers, last = tower(shape, channels, stride)
    packed = convnet.pack(layers, last, shape, precision)
    planned(own, packed, batch, tile)
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(3)).round().clamp(-2, 2)
    expected = x.double()
    n_steps, zeros = 3, [0.0] * 3
    for _ in range(n_steps):
        with torch.enable_grad():
            leaf = h = expected.requires_grad_()
            for conv, slope in layers:
                h = functional.conv2d(h, conv.weight.double(), conv.bias.double(), conv.stride, 1)
                h = functional.leaky_relu(h, slope)
            score = torch.autograd.grad((h * last.double()).sum(), leaf)[0]
        assert (h.abs().max() < 1024) and (score.abs().max() < 1024)
        expected = (leaf.detach() + score.clamp(-1, 1)).clamp(-2, 2)
    args = ChainArgs([1.0] * n_steps, zeros, False, 0, range(n_steps), 0, 1.0, -2.0, 2.0, False)
    assert convnet.run_chain_(packed, x, args)
    assert torch.equal(x.double(), expected) and len(x.unique()) > 4


def test_without_a_measurement_steps_are_apart(own):
    """Or with that of another batch, size of numbers or GPU, or of a net of one layer."""
    layers = [plan.Geometry(3, 8, 8, 32, 1), plan.Geometry(32, 8, 8, 64, 2)]
    tile = Tile(64, 64, 64, 4, 2, split=3)
    own.choices[plan.between_key(layers[0], 2, 2)] = tile
    gpu = plan.Gpu(9, 132)
    launch = plan.plan_between(layers, 2, 2, gpu)
    assert launch is not None and (launch.grid, launch.constants["ROWS"]) == ((3, 2, 1), 3)
    assert launch.band == 3 * 2 * 3 * 5 * 8
    another = plan.Gpu(9, 132, "another")
    for other in ((layers, 3, 2, gpu), (layers, 2, 4, gpu), (layers, 2, 2, another), (layers[:1], 2, 2, gpu)):
        assert plan.plan_between(*other) is None
    own.dependent_launch = True
    launch = plan.plan_between(layers, 2, 2, gpu)
    assert launch is not None and launch.constants["PDL"] and launch.options["launch_pdl"]


def test_samplers_use_it(own, precision_as_asked, monkeypatch):
    """Calls and traces; a single step and states in channels last have separate kernels."""
    shape, channels, stride, _, tile, _ = NETS["one band, two planes"]
    layers, last = tower(shape, channels, stride)
    modules: list[torch.nn.Module] = []
    for conv, slope in layers:
        module = torch.nn.Conv2d(conv.weight.shape[1], len(conv.weight), conv.weight.shape[2], 1, 1)
        module.weight.data, module.bias.data = conv.weight, conv.bias
        modules += [module, torch.nn.LeakyReLU(slope)]
    head = torch.nn.Linear(last.numel(), 1)
    head.weight.data = last.flatten()[None]
    net = torch.nn.Sequential(*modules, torch.nn.Flatten(), head, torch.nn.Flatten(0))
    options = {"log_density": net, "n_steps": 3, "step_size": 0.01, "noise_std": 0.1, "precision": "fp16", "seed": 1}
    sampler = fl.Langevin(**options, bounds=(-1, 1))
    x0 = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1))
    planned(own, convnet.pack(layers, last, shape, "fp16"), 1, None)
    apart = sampler(x0, step=0)
    trace = sampler.trace(x0, every=2, step=0)
    own.choices[plan.between_key(plan.Geometry(*shape, channels, stride), 1, 2)] = tile
    ran = []
    kernel = convnet.Workspace.update_and_run_first
    counted = lambda *args: ran.append(1) or kernel(*args)
    monkeypatch.setattr(convnet.Workspace, "update_and_run_first", counted)
    for x, n_steps, times in ((x0, 3, 2), (x0, 1, 0), (x0.contiguous(memory_format=torch.channels_last), 3, 0)):
        ran.clear()
        assert torch.equal(sampler(x, n_steps=n_steps, step=0), apart) or n_steps == 1
        assert len(ran) == times
    again = sampler.trace(x0, every=2, step=0)
    assert torch.equal(again.x, trace.x) and torch.equal(again.energy, trace.energy) and ran == [1]
