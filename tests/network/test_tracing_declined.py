"""Energies that are not recognised as sequences of supported layers, and the reasons."""

from __future__ import annotations

import functools
import math
import operator
import random

import pytest
import torch
import torch.nn.functional as F
from support.traced_energies import MODEL, Energy, Lambda, Scaled, body, net, read, why
from torch import nn
from torch.nn.utils import parametrize

from fastlangevin.network.errors import NotRecognised


class Stateful(Energy):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls


class Scheduled(Energy):
    @property
    def scale(self):
        return 1 + random.random()

    def forward(self, x):
        return super().forward(x) * self.scale


class Residual(Energy):
    def forward(self, x):
        h = self.layers[0](x)
        return self.out((h + self.layers[1](h)).flatten(1))


class DropConnect(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.weight, self.how = nn.Parameter(torch.ones(1, 72)), how

    def forward(self, x):
        return F.linear(x.flatten(1), self.how(self.weight))


class Derived(Scheduled):
    @property
    def scale(self):
        return 2.0

    def other(self):
        return super().scale

    def forward(self, x):
        return super().forward(x) * self.other()


class Counting(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.register_buffer("t", torch.zeros(()))
        self.net, self.count = net(), count

    def forward(self, x):
        return self.count(self, x)


def counted(module, x):
    t = module.t
    torch.add(t, 1, out=t)
    return module.net(x) * float(t)


def registered(module, x):
    module.register_buffer("t", module.t + 1)
    return module.net(x)


def scaled(function, scale):
    return lambda x: function(x) * scale()


def generator_of(draw):
    def energy(x):
        def inner():
            return draw()

        return MODEL(x) * inner()

    return energy


def nonlocal_counter():
    calls = 0

    def energy(x):
        nonlocal calls
        calls = calls + 1
        return MODEL(x)

    return energy


def listed(x, history=[]):  # noqa: B006
    h = history
    h += [1]
    return MODEL(x)


def by_default(x, generator=random.Random(1)):  # noqa: B008
    return MODEL(x) * generator.choice([1, -1])


def tied():
    linear = parametrize.register_parametrization(nn.Linear(72, 1), "weight", Scaled())
    return lambda x: F.linear(x.flatten(1), linear.weight)


def hooked_identity():
    identity = nn.Identity()
    identity.register_forward_hook(lambda *_: None)
    return nn.Sequential(net(), identity)


HISTORY: list[object] = []
GIVEN = {"a": random.Random(1)}


def hooked(register):
    model = net()
    getattr(model[0], register)(lambda *_: None)
    return model


def with_autocast(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return MODEL(x)


@torch.no_grad()
def without_gradient(x):
    return MODEL(x)


def one_of_two(x):
    return MODEL(x) * random.choice([1, -1])


def with_number(draw, x):
    return MODEL(x) * draw()


class Partial(functools.partial):
    pass


def noisy(x):
    return MODEL(x) * torch.randn(()).item()


def recorded(x):
    HISTORY.append(x)
    return MODEL(x)


def branching(x):
    return MODEL(x) if x.sum() > 0 else -MODEL(x)


class Drawing:
    def __init__(self):
        self.generator = random.Random(1)

    def energy(self, x):
        return MODEL(x) * self.generator.choice([1, -1])


DECLINED = {
    "batch norm": (net(nn.BatchNorm2d(4)).eval(), "batch_norm is not a supported operation"),
    "batch norm in train": (
        net(nn.BatchNorm2d(4)),
        "writes to a tensor with add_|batch_norm is not a supported operation",
    ),
    "group norm": (net(nn.GroupNorm(2, 4)), "group_norm is not a supported operation"),
    "max pool": (nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 1)), "max_pool2d"),
    "dropout in train": (net(nn.Dropout(0.5)).train(), "dropout is in train mode"),
    "prelu": (net(nn.PReLU()), "prelu is not a supported operation"),
    "rrelu in train": (net(nn.RReLU()).train(), "rrelu is not a supported operation"),
    "circular padding": (
        net(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")),
        "pad is not a supported operation",
    ),
    "even kernel, same padding": (net(nn.Conv2d(4, 4, 2, padding="same")), "padding on one side only"),
    "transposed": (net(nn.ConvTranspose2d(4, 4, 1)), "conv_transpose2d"),
    "residual": (Residual(), "conv2d is not a supported operation|other than a multiple of"),
    "used twice": (lambda x: (MODEL[0](x), MODEL(x))[1], "conv2d is applied to a value that was used before"),
    "product with x": (lambda x: MODEL(x).squeeze(1) * x.flatten(1)[:, 0], "selects a part of shape"),
    "product with a view": (lambda x: F.linear(x.flatten(1), torch.ones(72, 72)) * x.flatten(1), "not a finite number"),
    "a layer after another use of the state": (lambda x: (MODEL[0](x), MODEL(x))[1], "conv2d is applied to a value"),
    "log-sum-exp over chains": (lambda x: x.flatten(1).logsumexp(0), "logsumexp over dimensions \\(0,\\)"),
    "log-sum-exp over pixels": (lambda x: x.logsumexp((2, 3)), "logsumexp over dimensions"),
    "log-sum-exp of a third axis": (lambda x: x.flatten(2).logsumexp(1), "not over classes"),
    "layer after a factor": (lambda x: (2 * x.flatten(1)).logsumexp(1), "a layer follows a multiplication"),
    "two labels": (lambda x: x.flatten(1).gather(1, torch.zeros(3, 2, dtype=torch.int64)), "one class for each"),
    "gather over chains": (
        lambda x: x.flatten(1).gather(0, torch.zeros(3, 1, dtype=torch.int64)),
        "one class for each",
    ),
    "gather by the state": (lambda x: x.flatten(1).gather(1, x.flatten(1)[:, :1].long()), "."),
    "other rows": (lambda x: MODEL(x)[torch.tensor([0, 2, 1]), torch.zeros(3, dtype=torch.int64)], "other than slices"),
    "labels of other chains": (lambda x: MODEL(x)[torch.arange(3), torch.zeros(1, dtype=torch.int64)], "other than"),
    "labels that are masks": (lambda x: MODEL(x)[torch.arange(3), torch.zeros(3, dtype=torch.bool)], "other than"),
    "element of the state": (lambda x: x.view(3, -1)[torch.arange(3), torch.zeros(3, dtype=torch.int64)], "other than"),
    "product with a tensor": (lambda x: MODEL(x) * torch.ones(1), "Tensor that is not a finite number"),
    "quadratic alone": (lambda x: (x**2).flatten(1).sum(1), "does not return the result of its last operation"),
    "another power": (lambda x: MODEL(x)[:, 0] + (x**4).flatten(1).sum(1), "pow is not a supported operation"),
    "square of a layer": (
        lambda x: MODEL(x)[:, 0] + MODEL[0](x).square().flatten(1).sum(1),
        "was used before|square",
    ),
    "square over chains": (
        lambda x: MODEL(x)[:, 0] + x.square().sum((0, 2, 3)).sum(),
        "sum is not a supported operation",
    ),
    "square broadcast": (lambda x: MODEL(x) + x.square().flatten(1).sum(1), r"shapes \(3, 1\) and \(3,\) are added"),
    "square not summed": (lambda x: MODEL(x) + x.square(), "other than a multiple of"),
    "square weighted": (
        lambda x: MODEL(x)[:, 0] + (x.square() * torch.ones(6)).flatten(1).sum(1),
        "mul is applied|not a finite number",
    ),
    "layer after a number": (lambda x: MODEL[1:](2 * MODEL[0](x)), "a layer follows a multiplication"),
    "sum of another type": (
        lambda x: MODEL(x)[:, 0] + x.square().flatten(1).sum(1, dtype=torch.float64),
        "sum is not a supported operation",
    ),
    "rounded square": (
        lambda x: MODEL(x)[:, 0] - torch.div(x.square().flatten(1).sum(1), 2, rounding_mode="floor"),
        "div is applied to a value|is not a supported operation|raised TypeError",
    ),
    "rounded output": (lambda x: torch.div(MODEL(x), 2, rounding_mode="floor"), "raised TypeError"),
    "infinite factor": (
        lambda x: MODEL(x)[:, 0] - math.inf * x.square().flatten(1).sum(1),
        "mul is applied|not a finite number",
    ),
    "random comprehension": (lambda x: MODEL(x) * sum([random.random() for _ in range(1)]), "draws random numbers"),
    "random inner function": (generator_of(random.random), "reads draw|draws random"),
    "second closure": (scaled(scaled(MODEL, lambda: 1.0), random.random), "reads scale"),
    "second module": (nn.Sequential(Lambda(lambda h: h), net(), Lambda(recorded)), "calls append"),
    "dropped weights": (DropConnect(F.dropout), "draws random numbers"),
    "dropped weights by a module": (DropConnect(nn.Dropout(0.5).train()), "draws random numbers"),
    "distribution": (lambda x: MODEL(x) * torch.distributions.Normal(0.0, 1.0).sample().item(), "draws random"),
    "written tensor": (Counting(counted), "writes to a tensor with add"),
    "registered buffer": (Counting(registered), "calls register_buffer"),
    "appended in place": (listed, "writes in place"),
    "nonlocal": (nonlocal_counter(), "writes to calls"),
    "random default": (by_default, "reads generator, a Random"),
    "dictionary of objects": (lambda x, given=GIVEN: MODEL(x) * given["a"].gauss(0, 1), "a Random"),
    "large list": (lambda x, table=tuple(range(1001)): MODEL(x) * table[1], "a tuple of 1001 values"),
    "tied to a parametrization": (tied(), "unsupported parametrization"),
    "hooked identity": (hooked_identity(), "has hooks"),
    "super's": (Derived(), "draws random numbers"),
    "part of the output": (
        lambda x: nn.functional.linear(x.flatten(1), torch.ones(10, 72))[:, 3],
        "selects a part of shape",
    ),
    "part of the state": (lambda x: F.linear(x[:, :1].flatten(1), torch.ones(1, 36)), "selects a part of shape"),
    "reads requires_grad": (lambda x: MODEL(x) * (2.0 if x.requires_grad else 1.0), "requires_grad is not"),
    "reads the layout": (lambda x: MODEL(x) * (2.0 if x.is_contiguous() else 1.0), "is_contiguous is not"),
    "random property": (Scheduled(), "draws random numbers with random"),
    "layer after a square": (lambda x: torch.tanh(MODEL(x)[:, 0] + x.square().flatten(1).sum(1)), "or a sum"),
    "tensor added": (lambda x: MODEL(x)[:, 0] + torch.ones(3), "other than a multiple of"),
    "number added": (lambda x: MODEL(x)[:, 0] + 1.0, "other than a multiple of"),
    "sum": (lambda x: MODEL(x).sum(), "sum is not a supported operation"),
    "two numbers": (
        nn.Sequential(nn.Flatten(), nn.Linear(72, 2)),
        "ends in shape \\(3, 2\\), not in one number per chain",
    ),
    "mixing chains": (lambda x: MODEL[:2](x).reshape(-1, 8), "whose first dimension is not that of the chains"),
    "transposing": (lambda x: MODEL(x.transpose(2, 3)), "transpose is not a supported operation"),
    "permuting columns": (lambda x: MODEL(x)[:, torch.tensor([0])], "indexed by something other than"),
    "another type": (lambda x: MODEL(x).view(torch.int32), "reinterprets the elements as another dtype"),
    "half a network": (net().requires_grad_(False).bfloat16()[:2], "ends in shape"),
    "mixed types": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 1).double()), "torch.float64"),
    "wrong channels": (
        nn.Sequential(nn.Conv2d(3, 1, 6), nn.Flatten(0)),
        "a convolution expects 3 input channels, got 2",
    ),
    "wrong width": (nn.Sequential(nn.Flatten(), nn.Linear(71, 1)), "a linear layer expects 71 input features, got 72"),
    "in place on the state": (
        nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(72, 1)),
        "overwrites the state",
    ),
    "own parametrization": (
        nn.Sequential(parametrize.register_parametrization(nn.Conv2d(2, 4, 3), "weight", Scaled()), *body()[1:]),
        "unsupported parametrization, Scaled",
    ),
    "old weight norm": (nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(2, 4, 3)), *body()[1:]), "has hooks"),
    "forward hook": (hooked("register_forward_hook"), "a Conv2d has hooks"),
    "forward pre-hook": (hooked("register_forward_pre_hook"), "a Conv2d has hooks"),
    "backward hook": (hooked("register_full_backward_hook"), "a Conv2d has hooks"),
    "stateful": (Stateful(), "writes to calls"),
    "recording": (recorded, "calls append"),
    "random": (one_of_two, "reads random, the module random"),
    "random number": (lambda x: MODEL(x) * random.random(), "draws random numbers with random"),
    "random tensor": (noisy, "draws random numbers with randn"),
    "random object": (Drawing().energy, "reads generator, a Random"),
    "autocast": (with_autocast, "switches gradients or autocast"),
    "no_grad": (without_gradient, "."),
    "branching on a value": (branching, "sum is not a supported operation"),
    "partial of a built-in": (functools.partial(operator.mul, 2.0), "reads func, a builtin_function"),
    "partial with a built-in": (functools.partial(with_number, random.random), r"reads args\[0\], a builtin_function"),
    "own partial": (Partial(MODEL), "the energy is a Partial"),
    "something else returned": (lambda x: torch.zeros(3), "does not return the result of its last operation"),
    "raises": (lambda x: MODEL(x).nonsense, "raised AttributeError"),
    "print": (lambda x: print(x) or MODEL(x), "reads print"),
}


@pytest.mark.parametrize("name", DECLINED)
def test_declined(name):
    function, words = DECLINED[name]
    with pytest.raises(NotRecognised, match=words):
        read(function)


def test_declined_code_is_not_run():
    with pytest.raises(NotRecognised):
        read(recorded)
    assert HISTORY == []
    model = Stateful()
    with pytest.raises(NotRecognised):
        read(model)
    assert model.calls == 0


def test_scores_and_states_without_event():
    assert "a score was given" in why(MODEL, kind="score")
    assert "shape \\(B, \\*event\\)".replace("\\", "") in why(MODEL, shape=(3,))


def test_a_square_that_is_summed_over_chains():
    linear = nn.Linear(3, 1)
    assert "sum is not a supported operation" in why(lambda x: linear(x)[:, 0] + x.square().sum(0), shape=(3, 3))
    assert read(lambda x: linear(x)[:, 0] + x.square().sum(1), shape=(3, 3)).quadratic == 1.0


def test_a_square_that_is_viewed_as_another_dtype():
    linear = nn.Linear(3, 1)
    bits = lambda x: linear(x)[:, 0] + x.square().view(torch.int32).sum(1)
    assert why(bits, shape=(4, 3))


def test_global_hooks():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert "has hooks" in why(MODEL)
    finally:
        handle.remove()
    read(MODEL)
