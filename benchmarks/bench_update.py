"""The fused update alone, beside what an eager loop writes: `x.add_(g, alpha=a).add_(torch.randn_like(x), alpha=b)`.

Bytes an element, ours: read x and score, write x, 12. Eager: 12 + 4 (write noise) + 12 (read x, noise; write x), 28.
"""

from __future__ import annotations

import pytest
import torch

import fastlangevin as fl

BASELINE = "torch add_ + randn_like + add_"
SIZES = [2**12, 2**14, 2**16, 196_608, 2**20, 2**23, 2**26]


@pytest.fixture(params=[1, 2], ids=lambda n: f"{n}-thread{'s' * (n > 1)}")
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("n", SIZES)
def test_update(compare, threads, n):
    x, score = torch.zeros(n), torch.randn(n)
    y = torch.zeros(n)
    step = 0

    def ours():
        nonlocal step
        step += 1
        fl.langevin_update_(x, score, 0.0, 0.01, seed=1, step=step)

    def eager():
        y.add_(score, alpha=0.0).add_(torch.randn_like(y), alpha=0.01)

    ours(), eager()
    for state in (x, y):  # the same work: one step's standard deviation
        assert abs(state.std().item() / 0.01 - 1) < 5 / n**0.5 + 1e-3
    compare(ours, {BASELINE: eager}, rounds=max(5, min(300, 2**28 // n)))
