"""Chains that are not finite raise an error with the step and the number of chains."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import pytest
import torch

import fastlangevin as fl
from fastlangevin.chains import divergence


def test_divergence_names_step_and_chains():
    """U = -x⁴ from 1, η = 1, no noise: 1 → 5 → 505 → 5.2e8 → 5.5e26 → overflow at step 4. The chain at 0 stays."""
    sampler = fl.Langevin(lambda x: -(x**4).sum(1), n_steps=9, step_size=1.0, noise_std=0.0, seed=1)
    x0 = torch.tensor([[1.0], [0.0], [1.0]])
    with pytest.raises(fl.ChainDiverged, match="2 of 3 chains are not finite, first at step 4 ") as caught:
        sampler(x0)
    assert caught.value.step == 4 and caught.value.n_chains == 2
    with pytest.raises(fl.ChainDiverged, match="first at step 4 "):
        sampler.trace(x0)
    assert torch.equal(x0, torch.tensor([[1.0], [0.0], [1.0]]))
    sampler.check()


def test_bounds_do_not_hide_nan():
    sampler = fl.Langevin(score=lambda x: torch.full_like(x, math.nan), n_steps=2, bounds=(-1, 1), seed=1)
    with pytest.raises(fl.ChainDiverged, match="first at step 0"):
        sampler(torch.zeros(2, 2))


def test_one_bad_element_is_a_bad_chain():
    x0 = torch.zeros(3, 4)
    x0[1, 2] = 1.0
    sampler = fl.Langevin(lambda x: -(x**4).sum(1), n_steps=9, step_size=1.0, noise_std=0.0, seed=1)
    with pytest.raises(fl.ChainDiverged, match=r"1 of 3 chains.*first at step 4 of the call \(noise step 11\)"):
        sampler(x0, step=7)


class Later:
    """Numbers that arrive when they are told to; `waited` counts those that were waited for."""

    all: ClassVar[list[Later]] = []
    waited: ClassVar[int] = 0

    def __init__(self, x):
        self._x, self.here = x, False
        Later.all.append(self)

    def arrived(self):
        return self.here

    def value(self):
        Later.waited += not self.here
        return self._x


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.setattr(divergence, "ToHost", Later)
    Later.all, Later.waited = [], 0
    return divergence.PendingChecks()


BAD, GOOD = torch.tensor([[1.0], [math.nan]]), torch.zeros(2, 1)


def test_a_call_does_not_wait_for_the_check_of_those_before(checks):
    for step, x in enumerate((GOOD, BAD, GOOD)):
        checks.add(x, step)
        checks.raise_arrived()
    Later.all[1].here = True  # the numbers arrive in order, so not yet
    checks.raise_arrived()
    Later.all[0].here = True
    with pytest.raises(fl.ChainDiverged, match="1 of 2 chains are not finite, by the end of the call"):
        checks.raise_arrived()
    checks.raise_arrived()
    assert Later.waited == 0
    checks.raise_all()
    assert Later.waited == 1


def test_check_waits_for_all_calls_and_forgets_them(checks):
    for x in (GOOD, BAD, BAD):
        checks.add(x, 0)
    with pytest.raises(fl.ChainDiverged):
        checks.raise_all()
    checks.raise_all()
    assert Later.waited == 2


def test_the_queue_of_checks_is_bounded(checks):
    for step in range(100):
        checks.add(BAD if step == 0 else GOOD, step)
        if step < 64:
            checks.raise_arrived()
    with pytest.raises(fl.ChainDiverged):
        checks.raise_arrived()


def test_a_replaced_sampler_does_not_raise_for_the_other(monkeypatch):
    sampler = fl.Langevin(lambda x: x.sum(1), n_steps=1, seed=1)
    monkeypatch.setattr(divergence, "ToHost", Later)
    sampler._pending.add(BAD, 0)
    sampler.replace(n_steps=2).check()
    copy.deepcopy(sampler).check()
    with pytest.raises(fl.ChainDiverged):
        sampler.check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.filterwarnings("error")
def test_is_finite(dtype):
    """Whatever the sum of the elements: it overflows for finite ones, and is finite for none that is not."""
    largest, inf, nan = torch.finfo(dtype).max, math.inf, math.nan
    finite = ([], [0.0], [largest] * 5, [-largest] * 5 + [1.0], [largest, -largest] * 3)
    others = ([nan], [inf], [1.0, -inf], [inf, -inf], [largest, largest, nan, 0.0], [0.0] * 40 + [inf] + [0.0] * 40)
    for values, expected in [(v, True) for v in finite] + [(v, False) for v in others]:
        x = torch.tensor(values, dtype=dtype, requires_grad=True)
        assert divergence.is_finite(x) is expected
        assert divergence.is_finite(torch.stack([x, x])[:, ::2]) is divergence.is_finite(x[::2])
