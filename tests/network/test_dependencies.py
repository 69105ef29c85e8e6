"""What an energy reads besides its arguments, and when this has changed."""

from __future__ import annotations

import functools
import types

import numpy as np
import pytest
import torch
from torch import nn

import fastlangevin as fl
from fastlangevin.network.dependencies import Dependencies
from fastlangevin.score import graph

BETA = 1.0
NET = nn.Linear(3, 1)


class Holder:
    def __init__(self):
        self.net, self.beta, self.calls, self.offset = nn.Linear(3, 1), 1.0, 0, torch.zeros(1)

    def energy(self, x):
        self.calls_made = self.calls
        return self.scaled(x).sum(1)

    def scaled(self, x):
        return self.beta * self.net(x) + self.offset


class Own(nn.Module):
    shift = torch.zeros(1)

    def __init__(self):
        super().__init__()
        self.net, self.scale, self.unread = nn.Linear(3, 1), 2.0, 0

    def forward(self, x):
        return self.scale * self.net(x) + self.shift


def fingerprint(function):
    return Dependencies(function).fingerprint()


def test_closures_globals_defaults_partials_and_attributes_are_found(monkeypatch):
    net, own, holder = nn.Linear(3, 1), Own(), Holder()
    scale = [1.0]
    for function, expected in (
        (net, [net.weight, net.bias]),
        (own, [own.net.weight, own.net.bias, Own.shift]),
        (lambda x: net(x) * scale[0], [net.weight, net.bias]),
        (lambda x: BETA * NET(x), [NET.weight, NET.bias]),
        (lambda x, net=net: net(x), [net.weight, net.bias]),
        (functools.partial(lambda net, x: net(x), net), [net.weight, net.bias]),
        (holder.energy, [holder.net.weight, holder.net.bias, holder.offset]),
        (NET.weight.matmul, [NET.weight]),
        (own.forward, [own.net.weight, own.net.bias, Own.shift]),
    ):
        found = Dependencies(function).tensors
        assert {id(t) for t in found} == {id(t) for t in expected}
    before = fingerprint(lambda x: net(x) * scale[0])
    scale[0] = 2.0
    assert fingerprint(lambda x: net(x) * scale[0]) != before
    use_beta = lambda x: BETA * NET(x)
    before = fingerprint(use_beta)
    assert fingerprint(use_beta) == before
    monkeypatch.setitem(globals(), "BETA", 2.0)
    assert fingerprint(use_beta) != before


def test_attributes_that_the_energy_reads_count_and_others_do_not():
    holder, own = Holder(), Own()
    before = fingerprint(holder.energy), fingerprint(own)
    own.unread += 1
    assert fingerprint(own) == before[1]
    own.scale = 3.0
    holder.beta = 2.0
    assert fingerprint(holder.energy) != before[0] and fingerprint(own) != before[1]


def test_a_global_of_the_name_of_an_attribute_is_not_read(monkeypatch):
    """But one that a function within the energy names is."""
    holder, stranger = Holder(), nn.Linear(7, 7)
    before = Dependencies(holder.energy).structure()
    monkeypatch.setitem(globals(), "beta", stranger)
    found = Dependencies(holder.energy)
    assert found.structure() == before and stranger not in found.modules
    assert stranger in Dependencies(lambda x: [beta for _ in x]).modules  # noqa: F821


def test_settings_of_a_torch_module_count():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU(0.2), nn.Dropout(0.1))
    before = fingerprint(net)
    assert fingerprint(net) == before and hash(before) is not None
    for change in (
        lambda: setattr(net[1], "negative_slope", 0.3),
        lambda: setattr(net[0], "padding", (1, 1)),
        lambda: setattr(net[2], "p", 0.5),
        net.eval,
    ):
        change()
        assert fingerprint(net) != before
        before = fingerprint(net)


class Config:
    beta = 1.0

    def __init__(self):
        self.inner = {"t": 1.0}


CONFIG = Config()
SCALE = np.float64(1.0)


@pytest.mark.parametrize(
    ("energy", "change"),
    [
        (lambda x: x * Config.beta, lambda patch: patch.setattr(Config, "beta", 2.0)),
        (lambda x: x * CONFIG.inner["t"], lambda patch: patch.setitem(CONFIG.inner, "t", 2.0)),
        (lambda x: x * SCALE, lambda patch: patch.setitem(globals(), "SCALE", np.float64(2.0))),
    ],
    ids=["class", "nested", "numpy"],
)
def test_values_of_classes_objects_and_numpy_count(monkeypatch, energy, change):
    before = fingerprint(energy)
    assert fingerprint(energy) == before
    change(monkeypatch)
    assert fingerprint(energy) != before


class Celsius(float):
    pass


@pytest.mark.parametrize(
    ("first", "second"),
    [(slice(0, 2), slice(0, 3)), (slice(None, None, 1), slice(None, None, 2)), (Celsius(1.0), Celsius(2.0))],
    ids=["slice", "step", "subclass"],
)
def test_plain_values_of_every_kind_count(first, second):
    holder = {"value": first}
    energy = lambda x: x * holder["value"]
    before = fingerprint(energy)
    assert fingerprint(energy) == before and hash(before) is not None
    holder["value"] = second
    assert fingerprint(energy) != before


def test_hooks_of_all_modules_count():
    found = Dependencies(nn.Sequential(nn.Linear(3, 1)))
    assert found.hooks() is None
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert found.hooks() == "Sequential"
    finally:
        handle.remove()


def test_the_same_objects_under_other_names_count():
    first, second = nn.Linear(3, 1), nn.Linear(3, 1)
    chosen = {"networks": (first, second), "z": first}
    energy = lambda x: chosen["z"](x)
    before = fingerprint(energy)
    assert fingerprint(energy) == before
    chosen["z"] = second
    assert fingerprint(energy) != before


def test_functions_count():
    holder = {"activation": torch.relu}
    energy = lambda x: holder["activation"](x).sum(1)
    seen = [fingerprint(energy)]
    for activation in (torch.tanh, nn.functional.silu, nn.functional.gelu, lambda x: x, lambda x: -x):
        holder["activation"] = activation
        assert fingerprint(energy) == fingerprint(energy) and hash(fingerprint(energy)) is not None
        assert fingerprint(energy) not in seen
        seen.append(fingerprint(energy))


def test_masked_arrays_count_with_their_masks():
    """Also numpy's constant `masked`, which refuses `tobytes`, as in the globals of numpy's functions."""
    structures = [
        Dependencies(lambda x, array=array: x).structure()
        for array in (np.ma.masked, *(np.ma.array([1.0, 2.0], mask=mask) for mask in ([0, 1], [1, 0], [0, 1])))
    ]
    assert structures[1] == structures[3] and structures[1] != structures[2]


def test_an_object_that_pretends_to_be_a_class():
    class Proxy:
        __class__ = property(lambda self: type)

    proxy = Proxy()
    energy = lambda x: x.sum(1) if proxy is not None else x
    assert isinstance(proxy, type) and fingerprint(energy) == fingerprint(energy)
    fl.Langevin(energy, n_steps=1, seed=1)(torch.zeros(2, 3))


class Refusing:
    """An object of another library that may not be looked at before it is ready."""

    def __getattr__(self, name):
        raise RuntimeError(f"{name} of an object that is not ready")

    __class__ = property(lambda self: self.nothing)
    __dict__ = property(lambda self: self.nothing)

    def __bool__(self):
        raise RuntimeError("the truth of an object that is not ready")


REFUSING = Refusing()


@pytest.mark.parametrize("engine", ["auto", "autograd"])
def test_objects_that_refuse_to_be_read(engine):
    net, holder = nn.Bilinear(3, 3, 1), types.SimpleNamespace(logger=REFUSING)

    def energy(x, held=(REFUSING, {"logger": REFUSING})):
        return net(x, x) if held is not None and REFUSING is holder.logger else x.sum(1)

    assert hash(fingerprint(energy)) == hash(fingerprint(energy))
    sampler = fl.Langevin(energy, n_steps=1, seed=1, engine=engine)
    assert sampler(torch.zeros(2, 3)).isfinite().all()
    assert sampler.plan_for("cpu", (3,)).engine == "autograd"


def test_code_that_may_not_be_recorded_is_not_followed_into_libraries(monkeypatch):
    """What it reads may lead through all that is installed, at every call."""
    walks = []
    monkeypatch.setattr(graph, "dependencies_of", lambda *args: walks.append(args))
    net = nn.Bilinear(3, 3, 1)
    sampler = fl.Langevin(lambda x: net(x, x) if pytest.approx(1.0) == 1.0 else x, n_steps=1, seed=1)
    sampler(torch.zeros(2, 3))
    assert not walks
    with pytest.raises(fl.BackendUnavailable, match="reads pytest, the module pytest"):
        sampler.replace(engine="graph")(torch.zeros(2, 3))
    assert not walks
