"""Energies of which one recorded evaluation does not stand for all, and the reasons."""

from __future__ import annotations

import enum
import functools
import random
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastlangevin as fl
from fastlangevin.network.errors import NotRecognised
from fastlangevin.network.graph_tracing import dependencies_of, trace_graph
from fastlangevin.network.inputs import Inputs
from fastlangevin.network.target import Target
from fastlangevin.score import AutogradScore


def record(function, kind="energy"):
    target, inputs = Target(kind, function), Inputs()
    evaluate = AutogradScore(target, "fp32", inputs).energy_and_score
    return trace_graph(target, evaluate, torch.randn(4, 3), inputs, dependencies_of(target, inputs))


def why(function, kind="energy"):
    with pytest.raises(NotRecognised) as caught:
        record(function, kind)
    return str(caught.value)


class Computed(nn.Module):
    def __getattr__(self, name):
        return random.random() if name == "beta" else super().__getattr__(name)

    def forward(self, x):
        return (x**2).sum(1) * self.beta


class Noise:
    def __get__(self, owner, kind):
        return random.random()


class Described(nn.Module):
    beta = Noise()

    def forward(self, x):
        return (x**2).sum(1) * self.beta


class Table:
    def __getitem__(self, name):
        return random.random()


class Named(NamedTuple):
    beta: float

    def noisy(self):
        return self.beta * random.random()


class Config(dict):
    def __getattr__(self, name):
        return self[name] * random.random()


class Number(float):
    def noisy(self):
        return self * random.random()


class NoisyBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * random.random()


class CountingBackward(NoisyBackward):
    n = 0

    @staticmethod
    def backward(ctx, gradient):
        CountingBackward.n += 1
        return gradient


class Dotted(dict):
    __getattr__ = dict.__getitem__


class Sign(enum.Enum):
    MINUS = -1.0
    PLUS = 1.0


class NoisySign(enum.Enum):
    PLUS = 1.0

    @property
    def weight(self):
        return random.random()


class ComputedMembers(enum.EnumMeta):
    def __getattr__(cls, name):
        return random.random()


class ComputedSign(enum.Enum, metaclass=ComputedMembers):
    PLUS = 1.0


class Level(enum.IntEnum):
    ONE = 1


class Energy:
    """Not a module."""

    def __init__(self, sign=1.0):
        self.sign, self.linear, self.n_calls = sign, nn.Linear(3, 1), 0

    def __call__(self, x):
        return self.sign * self.linear(x)


class Counting(Energy):
    def __call__(self, x):
        self.n_calls += 1
        return super().__call__(x)


class Signed(nn.Module):
    def __init__(self, sign):
        super().__init__()
        self.sign = sign

    def forward(self, x):
        f = (x**2).sum(1)
        return f if self.sign is Sign.PLUS else -f


TABLE, NAMED, CONFIG, NUMBER = Table(), Named(1.0), Config(beta=1.0), Number(1.0)


@pytest.mark.parametrize(
    ("energy", "method"),
    [
        (Computed(), "__getattr__"),
        (Described(), "__get__"),
        (lambda x: (x**2).sum(1) * TABLE["beta"], "__getitem__"),
        (lambda x: (x**2).sum(1) * NAMED.noisy(), "noisy"),
        (lambda x: (x**2).sum(1) * CONFIG.beta, "__getattr__"),
        (lambda x: (x**2).sum(1) * NUMBER.noisy(), "noisy"),
    ],
    ids=["module", "descriptor", "index", "named tuple", "dict", "float"],
)
def test_methods_that_run_without_a_call_are_read(energy, method):
    assert why(energy).startswith(f"its Python code ({method}, line ")
    assert why(energy).endswith("draws random numbers with random")


def test_a_dict_whose_items_are_attributes():
    config = Dotted(beta=2.0)
    assert record(lambda x: (x**2).sum(1) * config.beta).energies is not None


@pytest.mark.parametrize(
    "energy",
    [
        Energy(),
        functools.partial(Energy()),
        functools.partial(lambda energy, x, *, scale: scale * energy(x), Energy(), scale=2.0),
        Signed(Sign.MINUS),
        lambda x: x.sum(1) * (2.0 if Level.ONE == 1 else 3.0) * Level.ONE,
    ],
    ids=["object", "partial", "partial with an object", "enumeration", "numbers"],
)
def test_callables_and_constants(energy):
    assert record(energy).energies is not None


def test_callables_and_constants_whose_code_is_not_pure():
    counting, reason = Counting(), "writes to n_calls, which is not a local variable"
    assert why(counting).endswith(reason)
    assert why(functools.partial(lambda energy, x: energy(x), counting)).endswith(reason)
    assert counting.n_calls == 0
    assert why(lambda x: x.sum(1) * NoisySign.PLUS.weight).endswith("draws random numbers with random")
    assert "ComputedSign, an enumeration, is a ComputedMembers" in why(lambda x: x.sum(1) * ComputedSign.PLUS.value)


def test_lists_that_are_changed_by_their_methods():
    values = [1.0, 2.0]

    def energy(x):
        values.reverse()
        return (x**2).sum(1) * values[0]

    assert why(energy).endswith("calls reverse, which modifies the object")
    fl.Langevin(energy, n_steps=2, seed=1)(torch.zeros(4, 3))
    assert values == [1.0, 2.0]


def test_methods_of_autograd_functions_are_read():
    assert why(lambda x: NoisyBackward.apply(x).sum(1)).endswith("draws random numbers with random")
    assert why(lambda x: CountingBackward.apply(x).sum(1)).endswith("writes to n, which is not a local variable")


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_torchscript_is_declined():
    net = torch.jit.trace(nn.Linear(3, 1), torch.zeros(4, 3), check_trace=False)
    assert why(net) == "the code of a TopLevelTracedModule cannot be checked"


def caught(x):
    try:
        x = F.dropout(x, 0.5)
    except Exception:
        x = 2 * x
    return (x**2).sum(1)


def caught_and_raised(x):
    try:
        return (x**2).sum(1) * float(x.detach().sum())
    except Exception as error:
        raise RuntimeError("no energy") from error


@pytest.mark.parametrize(("energy", "reason"), [(caught, "random numbers"), (caught_and_raised, "reads values")])
def test_energies_cannot_catch_the_refusal(energy, reason):
    assert reason in why(energy)


def test_python_values_that_an_evaluation_changes_are_restored():
    counts, log = [0], {"x": None}

    def counting(x):
        counts[0] += 1
        return (x**2).sum(1)

    def logging(x):
        log["x"] = x.detach()
        return (x**2).sum(1)

    assert why(counting) == "an evaluation of the energy changes a list that it reads" and counts == [0]
    for held in (None, torch.zeros(4, 3)):
        log["x"] = held
        assert why(logging) == "an evaluation of the energy changes a dict that it reads" and log["x"] is held


def test_gradients_that_an_evaluation_adds_are_removed():
    net = nn.Linear(3, 1)

    def score(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            net(x).square().sum().backward()
        return -x.grad

    assert why(score, "score").startswith("an evaluation adds to .grad")
    assert net.weight.grad is None
    net.weight.grad, net.bias.grad = torch.ones(1, 3), torch.ones(1)
    assert why(score, "score").startswith("an evaluation adds to .grad")
    assert torch.equal(net.weight.grad, torch.ones(1, 3))


def test_a_backward_to_the_state_alone_is_recorded():
    net = nn.Linear(3, 1)

    def score(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            net(x).square().sum().backward(inputs=[x])
        return -x.grad

    assert record(score, "score").energies is None and net.weight.grad is None


class Hooked(nn.Linear):
    def __init__(self, hook):
        super().__init__(3, 1)
        self.register_buffer("u", torch.ones(1))
        self.register_forward_pre_hook(hook)


def test_memory_that_an_evaluation_exchanges():
    with_data = Hooked(lambda module, inputs: setattr(module.u, "data", module.u * 2))
    moved = Hooked(lambda module, inputs: module.u.set_(module.u * 2))
    u = with_data.u, moved.u
    assert why(with_data) == "the energy assigns .data of a tensor: copy_ does the same"
    assert why(moved) == "the energy gives a tensor other memory with set_"
    assert all(torch.equal(v, torch.ones(1)) for v in u)


class Remembering(nn.Linear):
    def __init__(self, memory):
        super().__init__(3, 1)
        self.register_buffer("memory", memory)
        self.register_forward_hook(Remembering.remember)

    def remember(self, inputs, output, name="memory"):
        old = self.memory
        setattr(self, name, inputs[0].detach() if old is None else old * 0.5 + inputs[0].detach())
        return output if old is None else output * self.memory.sum()


def test_attributes_that_the_next_evaluation_finds_otherwise():
    assert why(Remembering(None)) == "an evaluation changes the attribute memory of a Remembering"
    reason = "an evaluation gives the attribute memory, which it reads, another shape or dtype"
    assert why(Remembering(torch.zeros(()))) == reason
    assert record(Remembering(torch.zeros(4, 3))).attributes[0].name == "memory"


def test_attention_draws_random_numbers_for_dropout_alone():
    def energy(x, p=0.0):
        h = x[:, None, :, None]
        return F.scaled_dot_product_attention(h, h, h, dropout_p=p).sum((1, 2, 3))

    assert record(energy).energies is not None
    assert why(lambda x: energy(x, 0.5)).startswith("the energy draws random numbers with ")


def test_an_energy_that_writes_to_its_argument():
    def clamping(x):
        with torch.no_grad():
            x.clamp_(-1, 1)
        return (x**2).sum(1)

    assert why(clamping) == "the energy writes to its argument"


def test_a_lazy_layer():
    net = nn.LazyLinear(1)
    assert why(net) == "a lazy layer has no weights before its first evaluation"
    assert isinstance(net.weight, nn.UninitializedParameter)
