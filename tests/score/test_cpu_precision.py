"""precision="bf16" and "fp16" on a CPU: what they are computed in on each kind of processor."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from conftest import forced
from support.error_bounds import UNIT
from torch import nn

import fastlangevin as fl
from fastlangevin.kernels import build, native
from fastlangevin.kernels.native import BFloat16Rate
from fastlangevin.score import cpu_precision

pytestmark = pytest.mark.skipif(native.load_cpu() is not None, reason="needs the native library")

OPTIONS = dict(n_steps=1, step_size=1.0, noise_std=0.0, precision="bf16", seed=1)
FASTER = [rate for rate in BFloat16Rate if rate > BFloat16Rate.OF_FLOAT32]
HAS_AVX512_BF16 = native.load_cpu() is None and native.cpu_has_bfloat16()


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 1))


def tower():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 2), nn.Flatten())


def residual():
    net = mlp()
    return lambda x: (net[0](x).tanh() + net[2](net[0](x).tanh())).square().sum(1)


def unknown():
    """Attributes that an evaluation changes keep it from being recorded."""

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.n = mlp(), 0

        def forward(self, x):
            self.n += 1
            return self.net(x).sum(1)

    return Counting()


POINTS, IMAGES = torch.linspace(-2, 2, 24).reshape(6, 4), torch.linspace(-1, 1, 96).reshape(6, 1, 4, 4)
# Each with its states, and (engine, precision) where bfloat16 has no advantage, and has one for large products.
ENERGIES = {
    "mlp": (mlp, POINTS, ("mlp", "fp32"), ("convnet", "bf16")),
    "tower": (tower, IMAGES, ("convnet", "fp32"), ("convnet", "bf16")),
    "graph": (residual, POINTS, ("graph", "fp32"), ("graph", "bf16")),
    "analytic": (lambda: fl.energies.DoubleWell(4), POINTS, ("analytic", "fp32"), ("analytic", "fp32")),
}


@pytest.fixture
def processor(monkeypatch):
    """Sets the processor's kind, without native kernels for AMX."""
    with forced("avx512") if native.cpu_capability() == "amx" else nullcontext():
        yield lambda rate: monkeypatch.setattr(native, "cpu_bfloat16_rate", lambda: rate)


def plan_after_a_call(energy, x, **options):
    sampler = fl.Langevin(energy, **{**OPTIONS, **options})
    sampler(x)
    return sampler.plan


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("rate", [BFloat16Rate.NONE, BFloat16Rate.OF_FLOAT32])
def test_in_float32_where_bfloat16_is_no_faster(processor, name, rate):
    processor(rate)
    make, x, expected, _ = ENERGIES[name]
    plan = plan_after_a_call(make(), x)
    assert (plan.engine, plan.precision) == expected
    words = {BFloat16Rate.NONE: "is not known to have products in bfloat16"}.get(
        rate, "multiplies bfloat16 no faster than float32"
    )
    reason = f"precision 'bf16' is computed in fp32: this processor {words}"
    assert reason in plan.reasons or name == "analytic"
    for engine in ("autograd", expected[0]):
        plan = plan_after_a_call(make(), x, engine=engine)
        assert (plan.engine, plan.precision) == (engine, "fp32")
    assert torch.equal(fl.Langevin(make(), **OPTIONS)(x), fl.Langevin(make(), **OPTIONS | {"precision": "fp32"})(x))


@pytest.mark.parametrize("rate", FASTER)
@pytest.mark.parametrize("name", ENERGIES)
def test_by_the_size_of_the_products_where_bfloat16_is_faster(processor, monkeypatch, name, rate):
    """Without native kernels in bfloat16."""
    processor(rate)
    monkeypatch.setattr(native, "cpu_has_bfloat16", lambda: False)
    make, x, small, large = ENERGIES[name]
    before = fl.Langevin(make(), **OPTIONS)
    assert before.plan_for("cpu", x.shape).precision == small[1]
    plan = plan_after_a_call(make(), x)
    assert (plan.engine, plan.precision) == small
    monkeypatch.setitem(cpu_precision._WORTHWHILE, rate, 1)
    monkeypatch.setattr(cpu_precision, "_MOSTLY_PRODUCTS", 1)
    assert before.plan_for("cpu", x.shape).precision == large[1]
    plan = plan_after_a_call(make(), x)
    assert (plan.engine, plan.precision) == large
    if name != "analytic":
        assert any("torch's operators are faster in bfloat16" in reason for reason in plan.reasons)
        assert plan_after_a_call(make(), x, engine="autograd").precision == "bf16"


@pytest.mark.parametrize(("rate", "precision"), [(BFloat16Rate.DOUBLE, "fp32"), (BFloat16Rate.AMX, "bf16")])
def test_products_must_be_larger_where_bfloat16_gains_less(processor, rate, precision):
    """Of 2.3e8 multiply-adds each, about as IGEBM's."""
    processor(rate)
    wide = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.Tanh(), nn.Conv2d(64, 64, 3, padding=1), nn.Flatten())
    plan = plan_after_a_call(lambda x: wide(x).square().sum(1), torch.zeros(11, 8, 32, 32))
    assert plan.precision == precision


def test_the_limits_are_those_of_the_measurements(processor):
    for rate, least in ((BFloat16Rate.DOUBLE, 4 * 10**8), (BFloat16Rate.AMX, 10**8)):
        processor(rate)
        assert cpu_precision.why_bfloat16(2 * least, 2) is not None
        assert cpu_precision.why_bfloat16(2 * least - 1, 2) is None
        assert cpu_precision.why_bfloat16(0, 0) is None


def test_the_number_of_chains_counts(processor, monkeypatch):
    """A step of the network has 4·8 and 8·8 multiply-adds a chain."""
    processor(BFloat16Rate.AMX)
    monkeypatch.setitem(cpu_precision._WORTHWHILE, BFloat16Rate.AMX, 48 * 6)
    sampler = fl.Langevin(mlp(), **OPTIONS)
    assert [sampler.plan_for("cpu", (n, 4)).engine for n in (5, 6)] == ["mlp", "convnet"]
    for n, precision in ((5, "fp32"), (6, "bf16")):
        sampler(POINTS[:n])
        assert sampler.plan.precision == precision


def test_other_operations_count(processor, monkeypatch):
    """The residual network has three products, each with its gradient, beside activations and sums."""
    processor(BFloat16Rate.AMX)
    monkeypatch.setitem(cpu_precision._WORTHWHILE, BFloat16Rate.AMX, 1)
    asked = []
    rule = cpu_precision.why_bfloat16
    monkeypatch.setattr(cpu_precision, "why_bfloat16", lambda *args: (asked.append(args), rule(*args))[1])
    assert plan_after_a_call(residual(), POINTS).precision == "fp32"
    (multiply_adds, n_products, others), *_ = asked
    assert (multiply_adds, n_products) == (6 * 2 * (2 * 4 * 8 + 8 * 8), 6) and 0 < others < multiply_adds
    monkeypatch.setattr(cpu_precision, "_MOSTLY_PRODUCTS", multiply_adds / others)
    assert plan_after_a_call(residual(), POINTS).precision == "bf16"


@pytest.mark.skipif(not HAS_AVX512_BF16, reason="needs AVX512_BF16")
def test_native_kernels_in_bfloat16_where_they_are_twice_as_fast(processor):
    processor(BFloat16Rate.DOUBLE)
    plan = plan_after_a_call(tower(), IMAGES)
    assert plan.precision == "bf16" and "the convnet engine computes with native kernels" in plan.reasons


def test_native_kernels_by_amx():
    """Of convnets, and of MLPs whose products have 2,048 weights or more on average."""
    with forced("amx"):
        for make, x, engine, precision in (
            (tower, IMAGES, "convnet", "bf16"),
            (mlp, POINTS, "mlp", "fp32"),
            (lambda: wide_mlp(64), POINTS, "mlp", "bf16"),
            (lambda: wide_mlp(60), POINTS, "mlp", "fp32"),
            (residual, POINTS, "graph", "fp32"),
            (lambda: fl.energies.DoubleWell(4), POINTS, "analytic", "fp32"),
        ):
            net = make()
            before = fl.Langevin(net, **OPTIONS).plan_for("cpu", x.shape)
            plan = plan_after_a_call(net, x)
            assert (plan.engine, plan.precision) == (before.engine, before.precision) == (engine, precision)
            kernels = {"convnet": "native kernels", "mlp": "native whole-chain kernels"}.get(engine)
            assert kernels is None or f"the {engine} engine computes with {kernels}" in plan.reasons
        assert any(
            "float32 is faster for 2 products of 96 weights in all" in reason
            for reason in plan_after_a_call(mlp(), POINTS).reasons
        )


@pytest.mark.parametrize("name", [*ENERGIES, "unknown"])
@pytest.mark.parametrize("rate", BFloat16Rate)
def test_float16_is_computed_in_float32(processor, name, rate):
    """On every CPU: torch's operators are slower in float16, with AVX512_FP16 too."""
    processor(rate)
    make, x, engine = unknown, POINTS, "autograd"
    if name in ENERGIES:
        make, x, (engine, _), _ = ENERGIES[name]
    half = fl.Langevin(make(), **OPTIONS | {"precision": "fp16"})
    assert torch.equal(half(x), fl.Langevin(make(), **OPTIONS | {"precision": "fp32"})(x))
    assert (half.plan.engine, half.plan.precision) == (engine, "fp32")
    reason = "precision 'fp16' is computed in fp32: on a CPU torch's operators are slower in float16"
    assert reason in half.plan.reasons or name == "analytic"


def wide_mlp(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))


def test_a_network_that_has_no_native_kernels(processor):
    """In bfloat16, if the processor is faster at that, and by the engine that was asked for."""
    for rate, precision in ((BFloat16Rate.AMX, "bf16"), (BFloat16Rate.DOUBLE, "bf16"), (BFloat16Rate.NONE, "fp32")):
        processor(rate)
        assert plan_after_a_call(unknown(), POINTS).precision == precision
        rolled = lambda x: x.cumsum(1).square().sum(1)
        plan = plan_after_a_call(rolled, POINTS)
        assert (plan.engine, plan.precision) == ("graph", precision)
        assert plan_after_a_call(mlp(), POINTS, engine="mlp").precision == "fp32"


def test_float64_networks_stay_float64(processor):
    for rate in BFloat16Rate:
        processor(rate)
        net, x = mlp().double(), POINTS.double()
        score = fl.Langevin(net, **OPTIONS).score(x)
        exact = fl.Langevin(net, **OPTIONS | {"engine": "autograd", "precision": "fp32"}).score(x)
        assert (score - exact).abs().max() <= 1e-12 * exact.abs().max()


@pytest.mark.parametrize("rate", BFloat16Rate)
def test_is_at_least_as_accurate_as_bfloat16(processor, rate):
    """Each of four products, two activations and two derivatives of the score rounds by 2^-8 of magnitudes below 4, and
    the two layers of weights, of a norm below 2, carry that on.
    """
    processor(rate)
    exact = fl.Langevin(mlp().double(), seed=1).score(POINTS.double())
    got = fl.Langevin(mlp(), **OPTIONS).score(POINTS)
    error = (got - exact).abs().max()
    assert error <= 8 * 4 * 4 * UNIT[torch.bfloat16]
    assert all(torch.linalg.matrix_norm(layer.weight, 2) < 2 for layer in mlp()[::2])
    if rate <= BFloat16Rate.OF_FLOAT32:
        assert torch.equal(got, fl.Langevin(mlp(), **OPTIONS | {"precision": "fp32"}).score(POINTS))


def test_this_processor_is_of_a_known_kind():
    flags = build.processor_flags() or set()
    rate = native.cpu_bfloat16_rate()
    assert (rate == BFloat16Rate.AMX) == ("amx_bf16" in flags)
    assert (rate >= BFloat16Rate.OF_FLOAT32) == bool(flags & {"amx_bf16", "avx512_bf16"})
