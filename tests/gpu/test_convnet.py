"""On a GPU: the fused convnet score against float64, concurrent splits, the bits of a step, and its capture."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import fastlangevin as fl
from fastlangevin.kernels import reference
from fastlangevin.kernels.arguments import UpdateArgs
from fastlangevin.models import ConvNet
from fastlangevin.network.layers import Conv

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
DEVICE = torch.device("cuda")
SHAPE = (3, 32, 32)


def paper(precision: str):
    """The paper's network, and its weights packed for the kernels."""
    convnet = pytest.importorskip("fastlangevin.kernels.triton.convnet")
    torch.manual_seed(3)
    network = ConvNet(32, 3, 64).to(DEVICE)
    *convs, last = (m for m in network.net if isinstance(m, torch.nn.Conv2d))
    layers = [(Conv(c.weight, c.bias, c.stride, c.padding, c.dilation, c.groups), 0.2) for c in convs]
    assert convnet.unsupported(layers, SHAPE, precision, DEVICE) is None
    return network, convnet, convnet.pack(layers, last.weight[0], SHAPE, precision)


@pytest.mark.parametrize("batch", [1, 7, 64, 300])
@pytest.mark.parametrize(("precision", "cosine"), [("fp16", 0.999), ("tf32", 0.999), ("bf16", 0.99)])
def test_score_equals_autograd(precision, cosine, batch):
    network, convnet, packed = paper(precision)
    x = torch.rand(batch, *SHAPE, device=DEVICE) * 2 - 1
    score = convnet.score(packed, x)
    wide = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(network.double()(wide).sum(), wide)
    assert torch.cosine_similarity(score.double().flatten(), expected.flatten(), 0) > cosine
    assert 0.97 < score.norm() / expected.norm() < 1.03
    for _ in range(20):  # in any order of the splits
        assert torch.equal(convnet.score(packed, x), score)


@pytest.mark.parametrize(("precision", "off"), [("fp16", 0.01), ("tf32", 0.01), ("bf16", 0.05)])
def test_energies_come_with_the_score(precision, off):
    """To the roundings of the layers, which add up at random over the terms of the last product."""
    network, convnet, packed = paper(precision)
    x = torch.rand(64, *SHAPE, device=DEVICE) * 2 - 1
    offset = network.net[8].bias.detach().double()
    energies, score = convnet.energy_and_score(packed, x, offset)
    assert torch.equal(score, convnet.score(packed, x)) and torch.equal(energies, convnet.energy(packed, x, offset))
    wide = network.double()
    size = (wide.net[:8](x.double()) * wide.net[8].weight).flatten(1).abs().sum(1)
    assert ((energies + wide(x.double()).flatten()).abs() <= off * size).all()


@pytest.mark.parametrize("kind", [fl.MALA, fl.HMC])
def test_captured_transitions_have_the_bits_of_eager_ones(kind):
    options = {"step_size": 0.02, "n_steps": 5, "precision": "fp16", "seed": 1}
    network, x0 = paper("fp16")[0], torch.rand(16, *SHAPE, device=DEVICE) * 2 - 1
    eager = kind(log_density=network, graph=False, **options)
    captured = kind(log_density=network, graph=True, **options)
    for _ in range(2):
        assert torch.equal(captured(x0), eager(x0))


def test_a_step_is_the_score_and_the_update():
    _, convnet, packed = paper("fp16")
    x = torch.rand(7, *SHAPE, device=DEVICE) * 2 - 1
    for rest in ((0, 3 * 32 * 32 * 5, None, None, None), (5, 3, 1e-3, -0.9, 0.9)):
        expected, got = x.cpu(), x.clone()
        args = UpdateArgs(1.0, 0.01, 5, 16, *rest)
        reference.update(expected, convnet.score(packed, x).cpu(), args)
        convnet.step_(packed, got, args)
        assert torch.equal(got.cpu(), expected)


def test_a_captured_chain_packs_the_weights_again():
    _, convnet, _ = paper("fp16")
    x0 = torch.rand(64, *SHAPE, device=DEVICE) * 2 - 1
    x = x0.clone()
    numbers = [torch.tensor(v, dtype=torch.float64, device=DEVICE) for v in (1.0, 0.01)]
    numbers += [torch.tensor(v, device=DEVICE) for v in (5, 16)]
    network = ConvNet(32, 3, 64).to(DEVICE)
    *convs, last = (m for m in network.net if isinstance(m, torch.nn.Conv2d))

    def chain() -> None:
        layers = [(Conv(c.weight, c.bias, c.stride, c.padding, c.dilation, c.groups), 0.2) for c in convs]
        packed = convnet.pack(layers, last.weight[0], SHAPE, "fp16")
        for _ in range(3):
            convnet.step_(packed, x, UpdateArgs(*numbers, 0, 0, None, None, None))

    chain()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        chain()
    for change in (0.0, 0.01):
        with torch.no_grad():
            convs[0].weight.add_(change)
        x.copy_(x0)
        graph.replay()
        replayed = x.clone()
        x.copy_(x0)
        chain()
        assert torch.equal(x, replayed)


@pytest.mark.parametrize("graph", [False, True])
def test_dependent_launches_give_the_same_bits(monkeypatch, graph):
    from fastlangevin.kernels.triton.convnet import measured

    properties = torch.cuda.get_device_properties(0)
    if properties.major < 9:
        pytest.skip("dependent launch needs compute capability 9.0")
    net = fl.models.ConvNet(32, 3, 32).cuda()
    x0 = torch.rand(16, 3, 32, 32, device="cuda")
    results = []
    for dependent in (False, True):
        monkeypatch.setitem(measured.BY_GPU, properties.name, measured.Measured(dependent))
        sampler = fl.Langevin(log_density=net, precision="fp16", n_steps=20, graph=graph, seed=1)
        results.append(sampler(x0))
        sampler.check()
    assert torch.equal(*results)


@pytest.mark.parametrize(("precision", "cosine"), [("fp16", 0.999), ("tf32", 0.999), ("bf16", 0.99)])
def test_products_by_cudnn(monkeypatch, precision, cosine):
    from fastlangevin.kernels.triton.convnet import measured
    from fastlangevin.score.precision import Running

    network, convnet, packed = paper(precision)
    own = measured.Measured()
    monkeypatch.setitem(measured.BY_GPU, torch.cuda.get_device_properties(0).name, own)
    x = torch.rand(16, *SHAPE, device=DEVICE) * 2 - 1
    keys = [launch.key for launch in packed.workspace(16).launches if launch.name in ("forward", "backward")]
    own.choices = dict.fromkeys(keys, measured.CUDNN)
    packed.forget_workspace()
    with Running(precision, DEVICE):
        score = convnet.score(packed, x)
        assert len(keys) == 6 and all(torch.equal(convnet.score(packed, x), score) for _ in range(20))
    wide = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(network.double()(wide).sum(), wide)
    assert torch.cosine_similarity(score.double().flatten(), expected.flatten(), 0) > cosine
    assert 0.97 < score.norm() / expected.norm() < 1.03


@pytest.mark.parametrize("dependent", [False, True])
@pytest.mark.parametrize("graph", [False, True])
def test_one_kernel_between_steps_gives_the_same_bits(monkeypatch, graph, dependent):
    from fastlangevin.kernels.triton.convnet import measured, plan, tune

    properties = torch.cuda.get_device_properties(0)
    if dependent and properties.major < 9:
        pytest.skip("dependent launch needs compute capability 9.0")
    net = fl.models.ConvNet(32, 3, 64).cuda()
    x0 = torch.rand(16, 3, 32, 32, device="cuda")
    key = plan.between_key(plan.Geometry(3, 32, 32, 64, 1), 16, 2)
    tiles = [measured.Tile(rows, 64, 64, warps, 3, bands) for rows, warps in tune.BETWEEN for bands in (1, 3, 8)]
    results = []
    for choices in ({}, *({key: tile} for tile in tiles)):
        monkeypatch.setitem(measured.BY_GPU, properties.name, measured.Measured(dependent, choices))
        sampler = fl.Langevin(log_density=net, precision="fp16", n_steps=20, graph=graph, bounds=(0, 1), seed=1)
        results.append(sampler(x0))
        sampler.check()
    assert all(torch.equal(result, results[0]) for result in results[1:])


def test_weights_through_descriptors_give_the_same_bits(monkeypatch):
    from fastlangevin.kernels.triton.convnet import measured

    properties = torch.cuda.get_device_properties(0)
    if properties.major not in (9, 10):
        pytest.skip("tensor descriptors are used on 9.0 and 10.0")
    for precision in ("fp16", "bf16", "tf32"):
        _, convnet, packed = paper(precision)
        x = torch.rand(16, *SHAPE, device=DEVICE) * 2 - 1
        expected = convnet.score(packed, x)
        products = [la for la in packed.workspace(16).launches if la.name in ("forward", "backward")]
        choices = {la.key: dataclasses.replace(la.choice, descriptor=True) for la in products}
        monkeypatch.setitem(measured.BY_GPU, properties.name, measured.Measured(choices=choices))
        packed.forget_workspace()
        assert torch.equal(convnet.score(packed, x), expected)
        monkeypatch.delitem(measured.BY_GPU, properties.name)
