"""The kernel called directly and the operator are one update, and the operator is called where it must be."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastlangevin.kernels import native
from fastlangevin.kernels.arguments import UpdateArgs
from fastlangevin.kernels.cpu import update as cpu

pytestmark = pytest.mark.skipif(native.load_cpu() is not None, reason="no CPU library")
ARGS = UpdateArgs(0.5, 0.25, 7, 3, 1, 5, None, None, None)


def states(n, seed=1):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(operator.overloadpacket.__name__)
        return operator(*args, **(kwargs or {}))


@pytest.fixture
def operator_calls(monkeypatch):
    """The number of calls of the operator."""
    calls, call = [], cpu.operators.update
    monkeypatch.setattr(cpu.operators, "update", lambda *args: calls.append(args) or call(*args))
    return calls


@pytest.mark.parametrize("n", [1, 33, 40_000])
def test_the_two_ways_agree_bit_for_bit(n, operator_calls):
    x, score = states(n), states(n, 2)
    for step_size, noise_std, clip, lo, hi in itertools.product(
        (0.5, 1), (None, 0, 0.25), (None, 0.5), (None, -1.0), (None, 1.5)
    ):
        args = ARGS._replace(step_size=step_size, noise_std=noise_std, grad_clip=clip, lo=lo, hi=hi)
        direct, expected = x.clone(), x.clone()
        version = direct._version
        cpu.update(direct, score, args)
        assert not operator_calls and direct._version == version + 1
        torch.ops.fastlangevin.langevin_update_cpu_.default(expected, score, *args)
        assert torch.equal(direct, expected), args


def test_noise_alone(operator_calls):
    direct, expected = states(33), states(33)
    args = ARGS._replace(step_size=None, seed=-(2**63), step=2**32 - 1, offset=2**62)
    cpu.update(direct, None, args)
    assert not operator_calls
    torch.ops.fastlangevin.langevin_update_cpu_.default(expected, None, *args)
    assert torch.equal(direct, expected)


def of_strides():
    return states(66)[::2], states(33)


def of_a_strided_score():
    return states(33), states(66)[::2]


def of_a_lazily_negated_score():
    negated = torch._neg_view(states(33))
    assert negated.is_neg() and negated.is_contiguous()
    return states(33), negated


def of_zeros_without_memory():
    zeros = torch._efficientzerotensor(33)
    assert zeros.data_ptr() == 0
    return states(33), zeros


def of_nothing():
    return states(0), states(0)


def of_float64():
    return states(33).double(), states(33).double()


def of_memory_that_overlaps():
    both = states(34)
    return both[1:], both[:-1]


@pytest.mark.parametrize(
    "case",
    [
        *(of_strides, of_a_strided_score, of_a_lazily_negated_score, of_zeros_without_memory),
        *(of_nothing, of_float64, of_memory_that_overlaps),
    ],
    ids=lambda case: case.__name__,
)
def test_other_tensors_take_the_operator(case, operator_calls):
    x, score = case()
    expected = x.clone()
    torch.ops.fastlangevin.langevin_update_cpu_.default(expected, torch.zeros_like(x) + score, *ARGS)
    cpu.update(x, score, ARGS)
    assert len(operator_calls) == 1 and torch.equal(x, expected)


def test_a_lazily_negated_state_is_not_updated_as_if_it_were_not(operator_calls):
    """torch refuses it for operators that return nothing."""
    memory = states(33)
    with pytest.raises(RuntimeError):
        cpu.update(torch._neg_view(memory), states(33, 2), ARGS)
    assert len(operator_calls) == 1 and torch.equal(memory, states(33))


def test_tensors_as_numbers_take_the_operator(operator_calls):
    x, expected = states(33), states(33)
    cpu.update(x, states(33, 2), ARGS._replace(step_size=torch.tensor(0.5, dtype=torch.float64)))
    cpu.update(expected, states(33, 2), ARGS)
    assert len(operator_calls) == 1 and torch.equal(x, expected)


def test_a_dispatch_mode_sees_the_operator():
    with Seen() as seen:
        cpu.update(states(33), states(33), ARGS)
    assert "langevin_update_cpu_" in seen.names


def test_a_score_that_is_the_state(operator_calls):
    x, expected = states(33), states(33)
    cpu.update(x, x, ARGS)
    cpu.update(expected, states(33), ARGS)
    assert not operator_calls and torch.equal(x, expected)
