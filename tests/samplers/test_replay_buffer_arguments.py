"""The replay buffer refuses bad arguments, with an error that names them."""

from __future__ import annotations

import math

import pytest
import torch

import fastlangevin as fl

SEED = 2**63 + 5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"capacity": 0}, ValueError, "capacity must be an int of at least 1, got 0"),
        ({"shape": 3}, ValueError, "shape must be a sequence of non-negative ints"),
        ({"reinit": 1.5}, ValueError, "reinit must lie in 0 … 1, got 1.5"),
        ({"reinit": None}, ValueError, "reinit must lie in 0 … 1, got None"),
        ({"storage": "int8"}, ValueError, "storage must be one of .* got 'int8'; did you mean 'uint8'"),
        ({"storage": "uint8"}, ValueError, "storage='uint8' needs bounds"),
        ({"policy": "lifo"}, ValueError, "policy must be one of .* did you mean 'fifo'"),
        ({"per_class": 3}, ValueError, "per_class must divide capacity = 10, got 3"),
        ({"per_class": 0}, ValueError, "per_class must be an int of at least 1"),
        ({"init": "zeros"}, ValueError, "init must be one of"),
        ({"bounds": (0, math.inf)}, ValueError, "bounds must be finite"),
        ({"bounds": (1, 0)}, ValueError, "bounds must have lo < hi"),
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "mutually exclusive"),
    ],
)
def test_arguments_of_a_buffer(options, error, message):
    with pytest.raises(error, match=message):
        fl.ReplayBuffer(**{"capacity": 10, "shape": (2,), **options})


X = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("options", "arguments", "error", "message"),
    [
        ({}, (X.int(),), TypeError, "x must be a float32.*got torch.int32"),
        ({}, ([1.0],), TypeError, "x must be a float32.*got list"),
        ({}, (torch.zeros(3, 1),), ValueError, r"x must have the shape \(n, 2\), got \(3, 1\)"),
        ({}, (torch.tensor(1.0),), ValueError, r"x must have the shape \(n, 2\), got \(\)"),
        ({}, (torch.zeros(3, 2, device="meta"),), ValueError, "x is on meta and the buffer on cpu"),
        ({}, (torch.tensor([[0, 1], [math.nan, 0]]),), ValueError, "x must be finite, got NaN or infinity in 1 of 2"),
        ({}, (X, torch.arange(3)), ValueError, r"slots must be None, .*\(policy='fifo'\)"),
        ({}, (X, None, torch.arange(3)), ValueError, "y must be None: the buffer was created without per_class"),
        ({"policy": "indexed"}, (X,), ValueError, r"slots must be the slots that sample returned \(policy='indexed'\)"),
        ({"policy": "indexed"}, (X, torch.arange(2)), ValueError, r"slots must be an int64 tensor of shape \(3,\)"),
        ({"policy": "indexed"}, (X, torch.arange(8, 11)), ValueError, "slots must lie in 0 … 9, got 8 … 10"),
        (
            {"policy": "indexed", "per_class": 2},
            (X, torch.arange(3), torch.zeros(3).long()),
            ValueError,
            "y must be None",
        ),
        ({"per_class": 2}, (X,), ValueError, "y must be given to a buffer with per_class"),
        (
            {"per_class": 2},
            (X, None, torch.zeros(3)),
            ValueError,
            "y must be an int64 tensor of shape.*got torch.float32",
        ),
        ({"per_class": 2}, (X, None, torch.arange(3)), ValueError, "y must lie in 0 … 1, got 0 … 2"),
    ],
)
def test_arguments_of_store(options, arguments, error, message):
    buffer = fl.ReplayBuffer(10, (2,), seed=1, **options)
    before = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in buffer.state_dict().items()}
    with pytest.raises(error, match=message):
        buffer.store(*arguments)
    after = buffer.state_dict()
    assert all(torch.equal(v, after[k]) if isinstance(v, torch.Tensor) else v == after[k] for k, v in before.items())


def test_arguments_of_sample():
    buffer = fl.ReplayBuffer(10, (2,), seed=1)
    with pytest.raises(ValueError, match="n must be an int of at least 0, got -1"):
        buffer.sample(-1)
    with pytest.raises(ValueError, match="y must be None"):
        buffer.sample(2, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="y must lie in 0 … 4, got -1 … 0"):
        fl.ReplayBuffer(10, (2,), per_class=5).sample(2, torch.tensor([-1, 0]))
    buffer.load_state_dict({**buffer.state_dict(), "step": 2**32 - 1})
    buffer.sample(1)
    with pytest.raises(OverflowError, match="would exceed 2"):
        buffer.sample(1)
