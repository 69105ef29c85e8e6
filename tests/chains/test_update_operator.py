"""The update under autograd, as an operator, and in torch.compile."""

from __future__ import annotations

import pytest
import torch
from support.updates import DTYPES, KEY, state
from torch._dynamo.testing import CompileCounterWithBackend

import fastlangevin as fl
from fastlangevin.kernels import BACKENDS


def test_leaf_that_requires_grad_gives_torch_s_error(backend):
    x = torch.zeros(3, requires_grad=True)
    with pytest.raises(RuntimeError) as ours:
        fl.langevin_update_(x, torch.zeros(3), 1.0, 1.0, backend=backend, **KEY)
    with pytest.raises(RuntimeError) as theirs:
        x.add_(1.0)
    assert str(ours.value) == str(theirs.value)
    with torch.no_grad():
        fl.langevin_update_(x, torch.zeros(3), 1.0, 1.0, backend=backend, **KEY)
    assert (x != 0).all()


def test_a_gradient_that_would_be_lost_is_an_error(backend):
    w = torch.zeros(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="x requires grad"):
        fl.langevin_update_(w * 2, torch.zeros(3), 1.0, 1.0, backend=backend, **KEY)
    with pytest.raises(RuntimeError, match="score requires grad"):
        fl.langevin_update_(torch.zeros(3), w * 2, 1.0, 1.0, backend=backend, **KEY)


def test_autograd_notices_the_write(backend):
    w = torch.ones(3, requires_grad=True)
    x = torch.ones(3)
    loss = (w * x).sum()
    fl.langevin_update_(x, None, None, 1.0, backend=backend, **KEY)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


needs_cpu = pytest.mark.skipif(BACKENDS["cpu"].unsupported() is not None, reason="no cpu kernels here")


@needs_cpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(dtype):
    x, score = state((3, 5), dtype)
    tail = (0, 0, 0.5, -1.0, 1.0)
    ops = torch.ops.fastlangevin
    torch.library.opcheck(ops.langevin_update_cpu_.default, (x.clone(), score, 0.1, 0.2, 3, 4, *tail))
    torch.library.opcheck(
        ops.langevin_update_cpu_.default, (x.t().clone(), None, None, 0.2, 3, 4, 0, 0, None, None, None)
    )
    numbers = (*(torch.tensor(v, dtype=torch.float64) for v in (0.1, 0.2)), torch.tensor(3), torch.tensor(4))
    torch.library.opcheck(ops.langevin_update_cpu_.tensor, (x.clone(), score, *numbers, *tail))
    torch.library.opcheck(ops.noise_cpu_.default, (torch.empty(7), 3, 4, 0, 0, False))
    torch.library.opcheck(ops.noise_cpu_.tensor, (torch.empty(7), torch.tensor(3), torch.tensor(4), 0, 0, False))


@pytest.mark.compiled
@needs_cpu
def test_compiles_once_for_all_steps():
    def step(x, score, eta, sigma, k):
        return fl.langevin_update_(x, score, eta, sigma, seed=1, step=k, bounds=(-3, 3))

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(step, backend=counter, fullgraph=True)
    x, score = state((4, 33))
    y = x.clone()
    seen = []
    for k in range(12):
        eta, sigma = 0.1 + 0.01 * k, 0.2 + 0.01 * k
        compiled(x, score, eta, sigma, k)
        step(y, score, eta, sigma, k)
        seen.append(counter.frame_count)
    assert torch.equal(x, y)
    assert seen[-1] == seen[4] <= 4, f"still compiling at step 12: {seen}"


@pytest.mark.compiled
@needs_cpu
def test_inside_inductor():
    def step(x, score):
        y = x * 2
        fl.langevin_update_(y, score, 0.1, 0.2, seed=1, step=3)
        return y + 1

    x, score = state((4, 33))
    torch._dynamo.reset()
    assert torch.equal(torch.compile(step, fullgraph=True)(x, score), step(x, score))
