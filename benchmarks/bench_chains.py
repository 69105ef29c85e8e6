"""Chains of K steps. Floor: the multiply-adds or vector instructions of `Work.lanes` at the peak of this machine."""

from __future__ import annotations

import comparison
import pytest
import rooflines
import torch
from contenders import CONTENDERS
from works import GPU_WORKS, WORKS


def check_work(compare, work) -> None:
    calls, rows = comparison.admit(work)

    def floor(name: str) -> tuple[float, str]:
        return rooflines.chain_floor(work, CONTENDERS[name].precision)

    compare("chain", f"{work.title}, {len(work.x0):,} chains, K = {work.n_steps}", calls, rows, floor)


@pytest.mark.parametrize("name", WORKS)
def test_chain(compare, name):
    check_work(compare, WORKS[name]())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="too large for a CPU")
@pytest.mark.parametrize("name", GPU_WORKS)
def test_large_chain(compare, name):
    check_work(compare, GPU_WORKS[name]())
