"""The fused update alone. Floor: 12 bytes per element (read x and score, write x), or its vector instructions."""

from __future__ import annotations

import functools

import checks
import pytest
import rooflines
import torch
from contenders import UPDATES
from timing import once, spread
from works import DEVICE

SIZES = [2**12, 2**14, 2**16, 196_608, 2**20, 2**23, 2**26]
STEP_SIZE, NOISE_STD = 1e-3, 1e-2


@pytest.fixture(params=[1, 2], ids=lambda n: f"{n}-thread{'s' * (n > 1)}")
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.skipif(DEVICE == "cuda", reason="gpu/figures.py measures updates on a GPU")
@pytest.mark.parametrize("n", SIZES)
def test_update(compare, threads, n):
    calls, rows = {}, []
    repeats = max(1, min(50, 2**18 // n))  # one call of 4,096 is shorter than the noise of the clock
    for name, module in UPDATES.items():
        why, status = module.MISSING, "missing"
        if why is None and name == "JAX" and threads == 1:
            why, status = "JAX's threads cannot be limited within a process", "unsupported"
        if why is None:
            torch.compiler.reset()
            update = module.make_update(n, DEVICE)
            why, status = checks.update_disagreement(n, update, STEP_SIZE, NOISE_STD), "failed"
        if why is None:
            calls[name] = functools.partial(_repeat, repeats, functools.partial(update, STEP_SIZE, NOISE_STD))
        else:
            rows.append({"contender": name, "status": status, "reason": why})
    x, y = torch.ones(n), torch.empty(n)
    copy = functools.partial(_repeat, repeats, functools.partial(y.copy_, x))

    def floor(_: str) -> tuple[float, str]:
        seconds, _ = spread([once(copy) for _ in range(11)])
        least, what = rooflines.update_floor(n, seconds / repeats, DEVICE)
        return least * repeats, what

    title = f"update of {n:,} elements, {threads} thread{'s' * (threads > 1)}"
    compare("update", title, calls, rows, floor)


def _repeat(n: int, call) -> None:
    for _ in range(n):
        call()
