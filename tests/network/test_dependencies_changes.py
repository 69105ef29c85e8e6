"""Changes of what an energy reads, each of which makes a recording invalid."""

from __future__ import annotations

import enum
import functools
from typing import NamedTuple

import pytest
import torch
from torch import nn

from fastlangevin.network.dependencies import Dependencies

OFFSET = 1.0


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.scale = nn.Linear(3, 1), 2.0

    def forward(self, x):
        return self.net(x) * self.scale


class Derived(Scaled):
    def forward(self, x):
        return super().forward(x) + 1


class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.temperature = nn.Linear(3, 1), 2.0

    def forward(self, x):
        return self.net(x)

    def energy(self, x):
        return self.net(x) / self.temperature


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Features()

    def forward(self, x):
        return self.inner.energy(x)


class Called(Features):
    def __call__(self, x):
        return super().__call__(x) / self.temperature


class Unit(enum.Enum):
    ONE = 1
    TWO = 2


class Tempered:
    temperature = 2.0

    def __call__(self, x):
        return x / self.temperature


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * self.a + self.b


class Prior:
    weight = 1.0

    def energy(self, x):
        return x**2 * OFFSET

    def __getitem__(self, name):
        return OFFSET


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * OFFSET


class Slotted:
    __slots__ = ("beta",)


class Settings(Slotted):
    pass


class Point(NamedTuple):
    beta: float

    def energy(self, x):
        return x * self.beta * OFFSET


def attribute(energy, owner, name):
    return energy, lambda patch: patch.setattr(owner, name, -1.0)


def offset(energy):
    return energy, lambda patch: patch.setitem(globals(), "OFFSET", 2.0)


def of_a_base_class():
    net = Derived()
    return attribute(net, net, "scale")


def of_another_method():
    net = Features()
    return attribute(lambda x: net.energy(x), net, "temperature")


def of_a_method_of_a_part():
    net = Outer()
    return attribute(net, net.inner, "temperature")


def of_a_call():
    net = Called()
    return attribute(net, net, "temperature")


def of_a_class():
    prior = Prior()
    return attribute(lambda x: x * prior.weight, Prior, "weight")


def of_an_enumeration():
    net = Features()
    net.temperature = Unit.ONE
    return net.energy, lambda patch: patch.setattr(net, "temperature", Unit.TWO)


def of_an_object_with_a_call():
    energy = Tempered()
    return attribute(functools.partial(energy), energy, "temperature")


def of_a_slot():
    settings = Settings()
    settings.beta = 1.0
    return attribute(lambda x: x * settings.beta, settings, "beta")


def of_a_torch_layer():
    layer = nn.TransformerEncoderLayer(4, 2, 8)
    return layer, lambda patch: patch.setattr(layer, "activation", torch.tanh)


def of_an_instance():
    net = Features()
    return net, lambda patch: patch.setattr(net, "forward", net.energy)


def of_a_function():
    energy = lambda x: x * energy.beta
    energy.beta = 1.0
    return attribute(energy, energy, "beta")


def global_of_a_method():
    prior = Prior()
    return offset(lambda x: prior.energy(x))


def global_of_a_backward():
    return offset(lambda x: Scale.apply(x))


def global_of_an_index():
    prior = Prior()
    return offset(lambda x: x * prior["offset"])


def global_of_a_named_tuple():
    point = Point(1.0)
    return offset(lambda x: point.energy(x))


def grouping():
    first, second = [1.0, 2.0], [3.0]
    return lambda x: x * first[-1] + second[0], lambda patch: second.insert(0, first.pop())


def kind_of_number():
    values = {"n": 1}
    return lambda x: x * torch.full((3,), values["n"]), lambda patch: patch.setitem(values, "n", 1.0)


def kind_of_layer():
    layers = {"activation": nn.Tanh}
    return lambda x: layers["activation"]()(x), lambda patch: patch.setitem(layers, "activation", nn.Sigmoid)


def kind_of_hook():
    net, hook = nn.Linear(3, 1), lambda module, inputs, output=None: None
    net.register_forward_hook(hook)

    def change(patch):
        net._forward_hooks.clear()
        net.register_forward_pre_hook(hook)

    return net, change


def order_of_parameters():
    net = Pair()

    def change(patch):
        a = net.a
        del net.a
        net.a = a

    return net, change


@pytest.mark.parametrize(
    "case",
    [
        *(of_a_base_class, of_another_method, of_a_method_of_a_part, of_a_call, of_a_class, of_a_slot),
        *(of_an_enumeration, of_an_object_with_a_call, of_a_torch_layer, of_an_instance, of_a_function),
        *(global_of_a_method, global_of_a_backward, global_of_an_index, global_of_a_named_tuple),
        *(grouping, kind_of_number, kind_of_layer, kind_of_hook, order_of_parameters),
    ],
    ids=lambda case: case.__name__,
)
def test_a_change_is_found(case, monkeypatch):
    energy, change = case()
    before = Dependencies(energy).structure()
    assert Dependencies(energy).structure() == before and hash(before) is not None
    change(monkeypatch)
    assert Dependencies(energy).structure() != before


def test_a_counter_that_nothing_reads_is_no_change():
    prior = Prior()
    prior.iteration = 0
    energy = prior.energy
    before = Dependencies(energy).structure()
    prior.iteration += 1
    assert Dependencies(energy).structure() == before


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_lazy_and_sparse_tensors_have_a_structure():
    lazy, sparse = nn.LazyLinear(2), torch.eye(2).to_sparse_csr()
    assert hash(Dependencies(lazy).structure()) != hash(Dependencies(lambda x: sparse @ x).structure())
