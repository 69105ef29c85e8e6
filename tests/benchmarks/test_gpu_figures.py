"""The code of benchmarks/gpu around the measurements, which need a GPU."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import works
from gpu import chains as gpu_chains
from gpu import densities, figures, networks, timing


def test_a_second_call_measures_the_missing_figures(tmp_path, monkeypatch):
    calls = []

    def figure(name, fail):
        def measure():
            calls.append(name)
            if fail(calls.count(name)):
                raise RuntimeError("first line\nsecond")
            return [{"what": name, "value": 1.0, "unit": "s"}]

        return name, measure

    made = dict([figure("a", lambda n: False), figure("b", lambda n: n == 1), figure("c", lambda n: False)])
    monkeypatch.setattr(figures, "FIGURES", made)
    path = tmp_path / "figures.json"
    assert figures.main(path, 100.0) == 1
    assert json.loads(path.read_text())["b"] == [{"what": "b", "failure": "RuntimeError: first line"}]
    assert figures.main(path, 0.0) == 1 and calls == ["a", "b", "c"]
    assert figures.main(path, 100.0) == 0 and calls == ["a", "b", "c", "b"]


def test_the_host_s_share_is_timed_without_waiting_for_the_gpu(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: seen.append("wait"))
    seconds = timing.host_times(lambda: seen.append("call"), rounds=2, calls=3, warmup=1)
    assert seen == ["call", *["wait", *["call"] * 3] * 2] and len(seconds) == 2


def test_spread():
    assert figures.spread([5.0, 1.0, 3.0, 2.0, 4.0]) == (3.0, (2.0, 4.0))
    assert figures.spread([7.0]) == (7.0, (7.0, 7.0))


def test_a_sampler_has_a_row_for_each_peer(monkeypatch):
    taken = {"eager fp32": [1.0, 2.0, 3.0], "eager fp16": [0.5, 0.5, 0.5], "auto fp16": [0.125, 0.125, 0.125]}
    monkeypatch.setattr(gpu_chains, "times", lambda calls, rounds, warmup: {name: taken[name] for name in calls})
    calls = dict.fromkeys(taken, lambda: None)
    rows = gpu_chains._step_rows("chain n_f=64 32×32 batch 64", calls, {"auto fp16": "its plan"}, rounds=3)
    assert [(row["what"].split(", ")[1], row.get("ratio_to")) for row in rows] == [
        ("eager fp32", None),
        ("eager fp16", None),
        ("auto fp16", "eager fp32"),
        ("auto fp16", "eager fp16"),
    ]
    assert (rows[2]["value"], rows[2]["ratio"]) == (1250.0, 16.0)
    assert rows[2]["wanted"] == "7×, at most 95 µs" and rows[2]["plan"] == "its plan"


@pytest.mark.parametrize("engine", ["autograd", "auto"])
def test_a_sampler_that_disagrees_is_not_timed(monkeypatch, engine):
    """With CPU tensors instead of CUDA tensors: the check without noise, and samplers that fail it."""
    problem = on_cpu(monkeypatch, engine)
    sampler, calls, plans, rows = problem.sampler, {}, {}, []
    problem.sampler = lambda *a: _without_graph(sampler(*a))
    gpu_chains._add(calls, plans, rows, "work", problem)
    assert list(calls) == list(plans) == [f"{engine} fp32"] and rows == []
    problem.sampler = lambda *a: _without_graph(sampler(*a), step_size=1.1)
    gpu_chains._add({}, {}, rows, "work", problem)
    assert rows[0]["what"] == f"work, {engine} fp32" and "away from the eager loop's in float64" in rows[0]["failure"]


def test_a_handwritten_loop_that_disagrees_is_not_timed_either(monkeypatch):
    problem, calls, rows = on_cpu(monkeypatch, "autograd"), {}, []
    gpu_chains._add_eager(calls, rows, "work", problem)
    assert list(calls) == ["eager fp32"] and rows == []
    loop = problem.eager
    problem.eager = lambda *a: loop(*a) * 1.1
    gpu_chains._add_eager({}, rows, "work", problem)
    assert rows[0]["what"] == "work, eager fp32" and "away from the eager loop's in float64" in rows[0]["failure"]


def test_densities_are_timed_if_they_agree(monkeypatch):
    """On the CPU, with a chain that is wrong beside the others."""
    monkeypatch.setattr(works, "N_CHAINS", 200)
    monkeypatch.setattr(densities, "times", lambda calls, rounds: {name: [2.0, 2.0] for name in calls})
    make = densities.by_engine
    wrong = lambda work, engine: make(work if engine == "analytic" else works.double_well("cpu"), engine)
    monkeypatch.setattr(densities, "by_engine", wrong)
    rows = densities.chain(works.mixture("cpu"))
    assert [row["what"].split(", ")[-1] for row in rows] == ["autograd", "eager", "analytic"]
    assert "steps without noise" in rows[0]["failure"] and rows[2]["ratio"] == 1.0 and rows[2]["value"] == 2e6


def on_cpu(monkeypatch, engine):
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)
    monkeypatch.setattr(gpu_chains.Problem, "device", "cpu")
    return gpu_chains.Problem(4, "fp32", image_size=8, batch=2, engine=engine)


def _without_graph(sampler, **changes):
    return sampler.replace(graph=False, **changes)


def test_networks_that_disagree_are_not_timed(monkeypatch):
    """With CPU tensors, on which nothing is fused, and four chains of the smallest network."""
    small = works.network("swish-cnn", "cpu")
    small = dataclasses.replace(small, x0=small.x0[:4], n_steps=3)
    monkeypatch.setattr(networks.works, "network", lambda name, device: small)
    monkeypatch.setattr(networks, "times", lambda calls, rounds, warmup: {run: [0.5, 0.5] for run in calls})
    rows = networks.network("swish-cnn", "cpu")
    assert [(row["what"], row.get("ratio_to")) for row in rows if row["what"] == "swish-cnn, fused"] == [
        ("swish-cnn, fused", "eager"),
        ("swish-cnn, fused", "operators"),
    ]
    assert not any("failure" in row for row in rows) and len(rows) == 4 + 2 + 3
    make = networks.NETWORK_CONTENDERS["fastlangevin"].module.make
    wrong = lambda work, **options: make(dataclasses.replace(work, step_size=1.1 * work.step_size), **options)
    monkeypatch.setattr(networks.NETWORK_CONTENDERS["fastlangevin"].module, "make", wrong)
    failures = [row["what"] for row in networks.network("swish-cnn", "cpu") if "failure" in row]
    assert failures == ["swish-cnn, operators", "swish-cnn, fused"]
