"""Which energies are recognised as stacks of known layers, and which are declined, and why."""

from __future__ import annotations

import functools
import gc
import math
import random
import threading

import pytest
import torch
import torch.nn.functional as F
from error_bounds import gamma
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import fastlangevin as fl
from fastlangevin.score.target import Target
from fastlangevin.score.tracing import NotRecognised, _Traced, _uncompiled, trace

CPU = torch.device("cpu")


def read(function, shape=(3, 2, 6, 6), kind="log_density", dtype=torch.float32, args=()):
    return trace(Target(kind, function), shape, dtype, CPU, args)


def why(function, shape=(3, 2, 6, 6), **options):
    with pytest.raises(NotRecognised) as caught:
        read(function, shape, **options)
    return str(caught.value)


def body(*more):
    return [nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.2), *more, nn.Flatten(), nn.Linear(64, 1)]


def net(*more):
    return nn.Sequential(*body(*more))


class Energy(nn.Module):
    """As most people write it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1)])
        self.out = nn.Linear(64, 1)
        self.activation = F.silu
        self.name = "energy"

    def features(self, x):
        if x.dim() != 4:
            raise ValueError(self.name)
        for layer in self.layers:
            x = self.activation(layer(x))
        return x

    def forward(self, x):
        h = self.features(x)
        return self.out(h.view(x.size(0), -1)).squeeze(-1)


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


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


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


MODEL = net()
HISTORY: list[object] = []
GIVEN = {"a": random.Random(1)}


def method_owner():
    class Owner:
        def __init__(self):
            self.net = net()
            self.sign = -1.0

        def energy(self, x):
            return self.sign * self.net(x)

    return Owner()


RECOGNISED = {
    "sequential": net(),
    "nested": nn.Sequential(nn.Sequential(*body()[:2]), nn.Sequential(nn.Sequential(nn.Identity()), *body()[2:])),
    "in place": nn.Sequential(nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.2, inplace=True), nn.Flatten(), nn.Linear(64, 1)),
    "dropout in eval": net(nn.Dropout(0.5), nn.Dropout2d(0.5)).eval(),
    "dropout of 0": net(nn.Dropout(0.0)).train(),
    "average pool": nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 1)),
    "same padding": nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1)),
    "valid padding": nn.Sequential(nn.Conv2d(2, 4, 3, padding="valid"), nn.ReLU(), nn.Flatten(), nn.Linear(64, 1)),
    "spectral norm": nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(2, 4, 3)), *body()[1:]).eval(),
    "weight norm": nn.Sequential(parametrizations.weight_norm(nn.Conv2d(2, 4, 3)), *body()[1:]),
    "own module": Energy(),
    "lambda": lambda x: -MODEL(x),
    "lambda of a scale": lambda x: 0.5 * MODEL(x).squeeze(1) / 2,
    "column": lambda x: MODEL(x)[:, 0],
    "closure": (lambda model: lambda x: -model(x))(net()),
    "method": method_owner().energy,
    "square root": lambda x: MODEL(x) / math.sqrt(2),
    "functional": lambda x: F.linear(F.relu(x.flatten(1)), torch.ones(1, 72)),
    "compiled": torch.compile(net(), backend="eager"),
    "asks where it is": lambda x: MODEL(x) * (1.0 if x.device.type == "cpu" and not x.is_cuda else 2.0),
    "small list": lambda x, table=(1.0, 2.0): MODEL(x) * table[1],
    "lambda modules": nn.Sequential(Lambda(lambda h: h), net(), Lambda(lambda h: -h)),
    "prior": lambda x: MODEL(x).squeeze(1) - 0.5 * x.square().sum(dim=(1, 2, 3)),
    "prior first": lambda x: -((x**2).flatten(1).sum(-1) / 2 - MODEL(x)[:, 0]),
    "prior, keepdim": lambda x: 3 * (MODEL(x) + -(x * x).reshape(3, -1).sum(1, keepdim=True) * 0.5),
    "two priors": lambda x: x.square().sum((1, 2, 3)) - (MODEL(x)[:, 0] + 3 * x.square().flatten(1).sum(1)),
    "prior before": lambda x: x.square().flatten(1).sum(1) + MODEL(x)[:, 0],
}


def assert_same(a, b, x):
    """Both in float32, of the same weights and some 10 operations: sums of at most 144 terms, whose absolute values add
    up to some 10 in the networks and to 5 times |x|² at most in the quadratic terms.
    """
    most = gamma(144 + 10) * (10 + 5 * x.detach().square().flatten(1).sum(1).max())
    assert a.shape == b.shape and (a - b).abs().max() <= most < 1e-3


@pytest.mark.parametrize("name", RECOGNISED)
def test_recognised(name):
    function = RECOGNISED[name]
    stack = read(function)
    x = 0.25 * torch.randn(3, 2, 6, 6)
    assert_same(stack(x), function(x).reshape(3), x)
    assert stack.shapes[0] == (2, 6, 6)


def test_the_sign_of_an_energy():
    x = 0.25 * torch.randn(3, 2, 6, 6)
    assert_same(read(MODEL, kind="energy")(x), -MODEL(x).reshape(3), x)


def test_models_of_the_library():
    for size in (8, 32):
        model = fl.models.ConvNet(size, 3, 8).double()
        x = torch.randn(2, 3, size, size, dtype=torch.float64)
        torch.testing.assert_close(read(model, x.shape, dtype=torch.float64)(x), model(x), rtol=1e-12, atol=1e-12)


def test_weights_are_those_of_the_moment():
    model = net()
    before = read(model)
    with torch.no_grad():
        model[0].weight.mul_(2)
    x = 0.25 * torch.randn(3, 2, 6, 6)
    assert_same(before(x), model(x)[:, 0], x)  # the very tensors
    model[0].weight = nn.Parameter(torch.randn(4, 2, 3, 3))
    assert_same(read(model)(x), model(x)[:, 0], x)


class Scaled(nn.Module):
    def forward(self, weight):
        return weight * 2


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
    "batch norm": (net(nn.BatchNorm2d(4)).eval(), "batch_norm is not an operation"),
    "batch norm in train": (net(nn.BatchNorm2d(4)), "writes to a tensor by add_|batch_norm is not an operation"),
    "group norm": (net(nn.GroupNorm(2, 4)), "group_norm is not an operation"),
    "max pool": (nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 1)), "max_pool2d"),
    "dropout in train": (net(nn.Dropout(0.5)).train(), "dropout is in train mode"),
    "prelu": (net(nn.PReLU()), "prelu is not an operation"),
    "rrelu in train": (net(nn.RReLU()).train(), "rrelu is not an operation"),
    "circular padding": (net(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")), "pad is not an operation"),
    "even kernel, same padding": (net(nn.Conv2d(4, 4, 2, padding="same")), "padded on one side only"),
    "transposed": (net(nn.ConvTranspose2d(4, 4, 1)), "conv_transpose2d"),
    "residual": (Residual(), "conv2d is not an operation|other than a multiple of"),
    "used twice": (lambda x: (MODEL[0](x), MODEL(x))[1], "conv2d is applied to a value that something else was"),
    "product with x": (lambda x: MODEL(x).squeeze(1) * x.flatten(1)[:, 0], "something else was applied to|no plain"),
    "product with a tensor": (lambda x: MODEL(x) * torch.ones(1), "Tensor that is no plain number"),
    "quadratic alone": (lambda x: (x**2).flatten(1).sum(1), "does not return what its last operation gave"),
    "another power": (lambda x: MODEL(x)[:, 0] + (x**4).flatten(1).sum(1), "pow is not an operation"),
    "square of a layer": (
        lambda x: MODEL(x)[:, 0] + MODEL[0](x).square().flatten(1).sum(1),
        "something else was|square",
    ),
    "square over chains": (lambda x: MODEL(x)[:, 0] + x.square().sum((0, 2, 3)).sum(), "sum is not an operation"),
    "square broadcast": (lambda x: MODEL(x) + x.square().flatten(1).sum(1), r"shapes \(3, 1\) and \(3,\) are added"),
    "square not summed": (lambda x: MODEL(x) + x.square(), "other than a multiple of"),
    "square weighed": (
        lambda x: MODEL(x)[:, 0] + (x.square() * torch.ones(6)).flatten(1).sum(1),
        "mul is applied|plain",
    ),
    "layer after a number": (lambda x: MODEL[1:](2 * MODEL[0](x)), "a layer follows a multiplication"),
    "sum of another type": (
        lambda x: MODEL(x)[:, 0] + x.square().flatten(1).sum(1, dtype=torch.float64),
        "sum is not an operation",
    ),
    "rounded square": (
        lambda x: MODEL(x)[:, 0] - torch.div(x.square().flatten(1).sum(1), 2, rounding_mode="floor"),
        "div is applied to a value|is not an operation|raised TypeError",
    ),
    "rounded output": (lambda x: torch.div(MODEL(x), 2, rounding_mode="floor"), "raised TypeError"),
    "infinite factor": (lambda x: MODEL(x)[:, 0] - math.inf * x.square().flatten(1).sum(1), "mul is applied|no plain"),
    "random comprehension": (lambda x: MODEL(x) * sum([random.random() for _ in range(1)]), "draws random numbers"),
    "random inner function": (generator_of(random.random), "reads draw|draws random"),
    "second closure": (scaled(scaled(MODEL, lambda: 1.0), random.random), "reads scale"),
    "second module": (nn.Sequential(Lambda(lambda h: h), net(), Lambda(recorded)), "calls append"),
    "dropped weights": (DropConnect(F.dropout), "draws random numbers"),
    "dropped weights by a module": (DropConnect(nn.Dropout(0.5).train()), "draws random numbers"),
    "distribution": (lambda x: MODEL(x) * torch.distributions.Normal(0.0, 1.0).sample().item(), "draws random"),
    "written tensor": (Counting(counted), "writes to a tensor by add"),
    "registered buffer": (Counting(registered), "calls register_buffer"),
    "appended in place": (listed, "writes to something"),
    "nonlocal": (nonlocal_counter(), "writes to something"),
    "random default": (by_default, "reads generator, a Random"),
    "dictionary of objects": (lambda x, given=GIVEN: MODEL(x) * given["a"].gauss(0, 1), "a Random"),
    "large list": (lambda x, table=tuple(range(1001)): MODEL(x) * table[1], "a tuple of 1001 values"),
    "tied to a parametrization": (tied(), "parametrization that it does not know"),
    "hooked identity": (hooked_identity(), "has hooks"),
    "super's": (Derived(), "draws random numbers"),
    "part of the output": (
        lambda x: nn.functional.linear(x.flatten(1), torch.ones(10, 72))[:, 3],
        "takes a part of shape",
    ),
    "part of the state": (lambda x: F.linear(x[:, :1].flatten(1), torch.ones(1, 36)), "takes a part of shape"),
    "asks what needs a gradient": (lambda x: MODEL(x) * (2.0 if x.requires_grad else 1.0), "requires_grad is not"),
    "asks for the layout": (lambda x: MODEL(x) * (2.0 if x.is_contiguous() else 1.0), "is_contiguous is not"),
    "random property": (Scheduled(), "draws random numbers by random"),
    "layer after a square": (lambda x: torch.tanh(MODEL(x)[:, 0] + x.square().flatten(1).sum(1)), "or a sum"),
    "tensor added": (lambda x: MODEL(x)[:, 0] + torch.ones(3), "other than a multiple of"),
    "number added": (lambda x: MODEL(x)[:, 0] + 1.0, "other than a multiple of"),
    "sum": (lambda x: MODEL(x).sum(), "sum is not an operation"),
    "two numbers": (nn.Sequential(nn.Flatten(), nn.Linear(72, 2)), "ends in shape \\(3, 2\\), not in one number"),
    "mixing chains": (lambda x: MODEL[:2](x).reshape(-1, 8), "no dimension of chains in front"),
    "transposing": (lambda x: MODEL(x.transpose(2, 3)), "transpose is not an operation"),
    "permuting columns": (lambda x: MODEL(x)[:, torch.tensor([0])], "indexed by more than"),
    "another type": (lambda x: MODEL(x).view(torch.int32), "reads the elements as another type"),
    "half a network": (net().requires_grad_(False).bfloat16()[:2], "ends in shape"),
    "mixed types": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 1).double()), "torch.float64"),
    "wrong channels": (nn.Sequential(nn.Conv2d(3, 1, 6), nn.Flatten(0)), "of 3 channels is given 2"),
    "wrong width": (nn.Sequential(nn.Flatten(), nn.Linear(71, 1)), "of 71 inputs is given 72"),
    "in place on the state": (
        nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(72, 1)),
        "overwrites the state",
    ),
    "own parametrization": (
        nn.Sequential(parametrize.register_parametrization(nn.Conv2d(2, 4, 3), "weight", Scaled()), *body()[1:]),
        "parametrization that it does not know, Scaled",
    ),
    "old weight norm": (nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(2, 4, 3)), *body()[1:]), "has hooks"),
    "forward hook": (hooked("register_forward_hook"), "a Conv2d has hooks"),
    "forward pre-hook": (hooked("register_forward_pre_hook"), "a Conv2d has hooks"),
    "backward hook": (hooked("register_full_backward_hook"), "a Conv2d has hooks"),
    "stateful": (Stateful(), "writes to something other than its own variables"),
    "recording": (recorded, "calls append"),
    "random": (one_of_two, "reads random, the module random"),
    "random number": (lambda x: MODEL(x) * random.random(), "draws random numbers by random"),
    "random tensor": (noisy, "draws random numbers by randn"),
    "random object": (Drawing().energy, "reads generator, a Random"),
    "autocast": (with_autocast, "switches gradients or autocast"),
    "no_grad": (without_gradient, "."),
    "branching on a value": (branching, "sum is not an operation"),
    "partial": (functools.partial(MODEL), "a partial"),
    "something else returned": (lambda x: torch.zeros(3), "does not return what its last operation gave"),
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
    assert "sum is not an operation" in why(lambda x: linear(x)[:, 0] + x.square().sum(0), shape=(3, 3))
    assert read(lambda x: linear(x)[:, 0] + x.square().sum(1), shape=(3, 3)).quadratic == 1.0


def test_no_chains():
    """A shape of -1 cannot be told from nothing, and one chain stands for none."""
    assert read(Energy(), shape=(0, 2, 6, 6)).shapes == read(Energy(), shape=(1, 2, 6, 6)).shapes


def test_global_hooks():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert "has hooks" in why(MODEL)
    finally:
        handle.remove()
    read(MODEL)


def test_further_inputs_are_given():
    def conditional(x, scale):
        return MODEL(x) * scale

    assert read(conditional, args=(2.0,)).factor == 2.0
    assert "no plain number" in why(conditional, args=(torch.ones(1),))
    assert "further input 0 is a Random" in why(lambda x, r: MODEL(x) * r.gauss(0, 1), args=(random.Random(0),))


def test_state_without_weights_keeps_its_type():
    stack = read(lambda x: F.silu(x[:, 0]), shape=(4, 1), dtype=torch.float64)
    x = torch.randn(4, 1, dtype=torch.float64)
    assert stack.dtype == torch.float64 and torch.equal(stack(x), F.silu(x[:, 0]))


def test_threads_that_read_at_once_leave_torch_compile_on():
    """Each leaves while another is inside."""
    inside, leave = threading.Barrier(2), [threading.Event(), threading.Event()]

    def slow(number):
        with _uncompiled:
            inside.wait()
            leave[number].wait()

    RECOGNISED["compiled"](torch.zeros(1, 2, 6, 6))  # loads the compiler
    threads = [threading.Thread(target=slow, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    runs = []

    def backend(graph, inputs):
        runs.append(1)
        return graph.forward

    compiled = torch.compile(lambda x: x + 1, backend=backend)
    for number, thread in enumerate(threads):
        leave[number].set()
        thread.join()
        compiled(torch.zeros(2))
        assert len(runs) == number  # as it was written while the second thread is inside


def test_nothing_is_held_afterwards():
    gc.collect()
    gc.disable()
    try:
        read(MODEL)
        assert not [o for o in gc.get_objects() if type(o) is _Traced]
    finally:
        gc.enable()
