"""Residual networks by the fused kernels, in Triton's interpreter."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from support import residual_networks

if importlib.util.find_spec("triton") is None or torch.cuda.is_available():
    pytest.skip("needs Triton's interpreter", allow_module_level=True)

import fastlangevin as fl
from fastlangevin.kernels import native
from fastlangevin.kernels.triton import fused
from fastlangevin.kernels.triton.fused.plan import supports
from fastlangevin.score import cpu_precision

OPTIONS = {"n_steps": 2, "step_size": 0.1, "noise_std": 0.01, "seed": 1}


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Run on CPU tensors, the memory of whose results is poisoned."""
    monkeypatch.setattr(fused, "unsupported", lambda device: None)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: _poisoned(empty(*a, **k)))


def _poisoned(memory):
    return memory.fill_(float("nan")) if memory.is_floating_point() else memory


@pytest.fixture
def launched(monkeypatch):
    """How many calls each launch stands for, and whether it has a product."""
    found, call = [], fused.Launch.__call__

    def counted(self, *args):
        found.append((self._operator.n_calls, self._operator.product is not None))
        return call(self, *args)

    monkeypatch.setattr(fused.Launch, "__call__", counted)
    return found


@pytest.mark.parametrize("products", [False, True], ids=["pointwise", "with products"])
@pytest.mark.parametrize("name", residual_networks.NAMES)
def test_scores_are_autograd_s(name, products, monkeypatch, launched):
    """In float64, where results that differ in the order of additions agree to some 1e-14 of their scale: γ_n for the
    sums of at most 288 products of a dozen layers, one after another.
    """
    monkeypatch.setattr(fused, "computes", lambda product, dtype: products and supports(product))
    energy, x, args = residual_networks.seeded(name, 16, (4, 4) if products else (8, 12), 1 if products else 3)
    ours, reference = (fl.Langevin(energy, engine=engine, **OPTIONS) for engine in ("auto", "autograd"))
    got, expected = ours.score(x, *args), reference.score(x, *args)
    assert (got - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert {has_product for _, has_product in launched} == {False, products}
    assert sum(n for n, _ in launched) > len(launched)
    if products:
        return
    traces = [sampler.trace(x, *args, step=0, n_steps=1) for sampler in (ours, reference)]
    for a, b in ((traces[0].energy, traces[1].energy), (traces[0].x - x, traces[1].x - x)):
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()


@pytest.mark.usefixtures("precision_as_asked")
def test_half_precision_has_products(launched):
    """By themselves, and near autograd's: an element whose pre-activation is within rounding of a kink may have the
    other slope, so that only the directions agree.
    """
    energy, x, _ = residual_networks.seeded("wide", 16, (4, 4), 2, torch.float32)
    ours = fl.Langevin(energy, engine="graph", precision="fp16", **OPTIONS)
    got, exact = ours.score(x), fl.Langevin(energy.double(), engine="autograd", **OPTIONS).score(x.double())
    assert got.dtype == torch.float32 and sum(has_product for _, has_product in launched) == 12
    assert torch.cosine_similarity(got.double().flatten(), exact.flatten(), 0) > 0.99
    (reason,) = (reason for reason in ours.plan.reasons if "the graph engine runs" in reason)
    assert "12 of them with a convolution" in reason


def test_plans_say_what_is_not_fused(monkeypatch):
    energy, x, args = residual_networks.seeded("labelled", 16, (4, 4), 2, torch.float32)
    sampler = fl.Langevin(lambda x: energy(x, args[0]), **OPTIONS)
    sampler.score(x)
    assert any(
        "fused Triton kernels, 0 of them with a convolution: in fp16 and bf16" in r for r in sampler.plan.reasons
    )
    rows = fl.Langevin(lambda x: x.cumsum(1).square().sum(1), **OPTIONS)
    rows.score(torch.ones(3, 4))
    assert "the graph engine's operators are not fused: its images are not channels last" in rows.plan.reasons
    monkeypatch.undo()
    monkeypatch.setattr(cpu_precision, "ways", lambda precision, device: (precision,))
    for precision, reason in (
        ("fp32", "the graph engine computes with a native program: "),
        ("fp16", "with torch's operators, not with a native program: native programs compute in fp32, not in fp16"),
    ):
        for engine in ("graph", "auto"):
            sampler = fl.Langevin(lambda x: energy(x, args[0]), engine=engine, precision=precision, **OPTIONS)
            sampler.score(x)
            assert native.load_cpu() or any(reason in r for r in sampler.plan.reasons)
