"""engine="auto": which engine is selected, and why others are not."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import fastlangevin as fl
from fastlangevin.network.graph_tracing import why_impure
from fastlangevin.network.target import Target
from fastlangevin.score import auto


def test_auto_selects_the_closed_form():
    sampler = fl.Langevin(log_density=fl.models.ConvNet(16, 3, 8), seed=1)
    assert sampler.plan.engine == "convnet"
    assert any("engine 'compiled' not used" in reason for reason in sampler.plan.reasons)


def test_plan_gives_the_operation_that_is_not_recognised():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1)).eval()
    sampler = fl.Langevin(net, n_steps=2, seed=1)
    assert sampler.plan.engine == "autograd"
    assert "engines 'mlp' and 'convnet' not used: batch_norm is not a supported operation" in sampler.plan.reasons
    assert any("not known before the first call" in reason for reason in sampler.plan.reasons)
    assert sampler.plan_for("cpu", (2, 1, 4, 4)).engine == "graph"
    sampler.sample((2, 1, 4, 4))
    assert sampler.plan.engine == "graph"


def test_auto_follows_the_mode():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.SiLU(), nn.Linear(4, 1))
    sampler = fl.Langevin(net, n_steps=2, seed=1)
    assert sampler.plan.engine == "autograd"
    net.eval()
    assert sampler.plan.engine == "mlp"
    assert torch.equal(sampler(torch.zeros(2, 3), step=0), sampler(torch.zeros(2, 3), step=0))


def test_auto_learns_the_shape_from_a_call():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9 * 15, 1))
    sampler = fl.Langevin(net, n_steps=2, seed=1)
    assert sampler.plan.engine == "autograd"  # no square image fits
    sampler.sample((2, 1, 11, 17))
    assert sampler.plan.engine == "convnet"


def test_auto_with_extra_arguments():
    net = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1))
    scaled = fl.Langevin(lambda x, factor: net(x) * factor, n_steps=2, seed=1)
    scaled(torch.zeros(2, 3), 2.0)
    tensor = fl.Langevin(lambda x, factor: net(x) * factor, n_steps=2, seed=1)
    tensor(torch.zeros(2, 3), torch.ones(2, 1))
    assert tensor.plan.engine == "graph" and any("not a finite number" in reason for reason in tensor.plan.reasons)
    assert scaled.plan.engine == "mlp"


def test_a_class_of_a_classifier_is_a_graph():
    classifier = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.SiLU(), nn.Flatten(), nn.Linear(1800, 10))
    sampler = fl.Langevin(log_density=lambda x: classifier(x)[:, 3], n_steps=2, seed=1)
    assert sampler.sample((2, 3, 32, 32)).shape == (2, 3, 32, 32) and sampler.plan.engine == "graph"


def test_a_plan_has_the_dtype_of_the_last_call():
    net = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1)).double()
    sampler = fl.Langevin(lambda x: net(x), n_steps=2, seed=1)
    sampler(torch.zeros(2, 3, dtype=torch.float64))
    assert sampler.plan.engine == "convnet"
    with pytest.raises(ValueError, match="precision='tf32' is a mode of NVIDIA GPUs"):
        fl.Langevin(net, precision="tf32", seed=1).plan  # noqa: B018


def test_an_explicit_engine_that_is_not_available():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.SiLU(), nn.Linear(4, 1)).eval()
    sampler = fl.Langevin(net, n_steps=2, engine="convnet", seed=1)
    with pytest.raises(fl.BackendUnavailable, match="engine='convnet' cannot be used for this energy: batch_norm"):
        sampler(torch.zeros(2, 3))
    with pytest.raises(
        fl.BackendUnavailable, match="engine='convnet' cannot be used for this score: a score was given"
    ):
        fl.Langevin(score=lambda x: -x, engine="convnet", seed=1)(torch.zeros(2, 3))


def test_numbers_that_are_new_at_each_call_are_not_recorded():
    sampler = fl.Langevin(lambda x, scale: (x**4).sum(1) / scale, n_steps=1, seed=1)
    x = torch.zeros(2, 3)
    engines = []
    for scale in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.0, 1.0):
        sampler(x, scale)
        engines.append(sampler.plan.engine)
    assert engines == ["graph"] * 4 + ["autograd"] * 2 + ["graph"] * 2


def test_a_plan_after_a_call_is_for_as_many_chains():
    observed = torch.ones(5, 3)
    sampler = fl.Langevin(lambda x: (x - observed).square().sum(1).exp(), n_steps=1, seed=1)
    sampler(torch.zeros(5, 3))
    assert sampler.plan.engine == "graph"


def test_the_device_of_a_partial_is_its_network_s():
    network = nn.Linear(3, 1).to("meta")
    assert Target("energy", functools.partial(functools.partial(network))).device() == torch.device("meta")


class Counted(nn.Module):
    """Declined by the code of its `forward` alone."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def forward(self, x):
        self.n += 1
        return x.square().sum(1).exp()


class Derived(Counted):
    """Declined by what its code calls."""

    def forward(self, x):
        return Counted.forward(self, x)


@pytest.mark.parametrize("energy", [Counted(), Derived(), lambda x, n=[]: n.append(1) or x.exp().sum(1)])
def test_the_code_of_an_energy_is_read_again_only_if_it_is_not_impure_itself(energy, monkeypatch):
    sampler = fl.Langevin(energy, n_steps=1, seed=1)
    sampler(torch.zeros(2, 3))
    reasons = sampler._score._last.explanation.reasons
    read = []
    monkeypatch.setattr(auto, "why_impure", lambda *args: (read.append(1), why_impure(*args))[1])
    sampler(torch.zeros(2, 3))
    assert sampler._score._last.explanation.engine == "autograd" and sampler._score._last.explanation.reasons == reasons
    assert bool(read) == isinstance(energy, Derived)


@pytest.mark.parametrize("change", ["forward", "class"])
def test_an_energy_that_is_no_longer_impure_is_recorded(change):
    energy = Counted()
    sampler = fl.Langevin(energy, n_steps=1, seed=1)
    for engine in ("autograd", "autograd", "graph"):
        if engine == "graph" and change == "forward":
            energy.forward = lambda x: x.square().sum(1).exp()
        elif engine == "graph":
            energy.__class__ = type("Pure", (nn.Module,), {"forward": lambda self, x: x.square().sum(1).exp()})
        sampler(torch.zeros(2, 3))
        assert sampler._score._last.explanation.engine == engine
