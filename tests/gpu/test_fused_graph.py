"""On a GPU: recorded graphs whose calls are fused, against float64, and captured."""

from __future__ import annotations

import copy

import pytest
import torch
from support import fused_reference, residual_networks
from support.error_bounds import UNIT, U, gamma

import fastlangevin as fl
from fastlangevin.kernels.triton import fused
from fastlangevin.network.pointwise import Instruction, Op, Pointwise, Section
from fastlangevin.network.products import Product

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def on_gpu(name, dtype=torch.float64, width=32, batch=7):
    energy, x, args = residual_networks.seeded(name, width, (16, 24), batch, dtype)
    return energy.cuda(), x.cuda(), [a.cuda() for a in args]


@pytest.mark.parametrize("name", residual_networks.NAMES)
def test_scores_are_autograd_s(name):
    """In float64: sums of some 600 products in a dozen layers, 1e-13 of their scale each."""
    energy, x, args = on_gpu(name)
    ours = fl.Langevin(energy, engine="graph", n_steps=1, seed=1)
    expected = fl.Langevin(energy, engine="autograd", n_steps=1, seed=1).score(x, *args)
    assert (ours.score(x, *args) - expected).abs().max() <= 1e-11 * expected.abs().max()
    assert any("fused Triton kernels" in reason for reason in ours.plan.reasons)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize(
    ("kernel", "stride", "is_gradient"), [(3, 1, False), (4, 2, False), (3, 2, True), (1, 1, True)]
)
def test_products(kernel, stride, is_gradient, batch, dtype):
    """Sums in float32 in any order, and one rounding; a mean over 2×2 pixels of the convolutions'."""
    padding = (kernel - 1) // 2
    small = tuple((n + 2 * padding - kernel) // stride + 1 for n in (16, 24))
    before, after = (batch, 48, 16, 24), (batch, 64, *small)
    image, result = (after, before) if is_gradient else (before, after)
    product = Product(is_gradient, image, result, (64, 48, kernel, kernel), stride, padding)
    b, c, h, w = result
    section = Section(result, (Instruction(Op.LEAKY_RELU, 0, 0, 0.2),), ((1, 0),))
    operator = Pointwise(section, None, 0, product, (dtype,), torch.float32, 2)
    if not is_gradient:
        main = Section((b, c, h // 2, w // 2), section.instructions, section.stores)
        operator = Pointwise(main, Section(result, (), ()), 0, product, (dtype,), torch.float32, 2)
    torch.manual_seed(0)
    factors = [
        torch.randn(s, device="cuda").to(dtype).to(memory_format=torch.channels_last) for s in (image, product.weight)
    ]
    assert fused.computes(product, dtype)
    launch = fused.Launch(operator)
    got = launch(*factors).double()
    assert all(torch.equal(launch(*factors).double(), got) for _ in range(5))
    expected = fused_reference.evaluated(operator, *(f.double() for f in factors))
    terms = fused_reference.multiplied(product, *(f.double().abs() for f in factors))
    if not is_gradient:
        terms = torch.nn.functional.avg_pool2d(terms, 2)
    bound = (gamma(64 * kernel**2) + 5 * U) * terms + UNIT[dtype] * expected.abs() + 2.0**-25
    assert ((got - expected).abs() <= 1.01 * bound).all()


@pytest.mark.parametrize("unroll", [1, 4])
@pytest.mark.parametrize("name", residual_networks.NAMES)
def test_captured_chains_fold_the_weights_of_their_time(name, unroll):
    """In float64, as libraries may choose other algorithms: four steps after an optimizer's step."""
    energy, x, args = on_gpu(name)
    options = {"engine": "graph", "n_steps": 4, "step_size": 0.01, "noise_std": 0.01, "seed": 3}
    eager = fl.Langevin(energy, graph=False, **options)
    replayed = fl.Langevin(copy.deepcopy(energy), graph=True, unroll=unroll, **options)
    for change in (0.0, 0.05):
        for sampler in (eager, replayed):
            for parameter in sampler.target.function.parameters():
                parameter.data.mul_(1 + change)
        ours, expected = replayed(x, *args, step=0), eager(x, *args, step=0)
        assert torch.allclose(ours, expected, rtol=1e-9, atol=1e-9)
    assert len(replayed._graphs.captured) == 1


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision(precision):
    energy, x, args = on_gpu("wide", torch.float32, batch=64)
    ours = fl.Langevin(energy, precision=precision, n_steps=1, seed=1)
    got = ours.score(x, *args)
    wide = copy.deepcopy(energy).double()
    exact = fl.Langevin(wide, engine="autograd", n_steps=1, seed=1).score(x.double(), *args)
    assert torch.cosine_similarity(got.double().flatten(), exact.flatten(), 0) > (
        0.999 if precision == "fp16" else 0.99
    )
    assert ours.plan.engine == "graph" and any("12 of them with a convolution" in r for r in ours.plan.reasons)
