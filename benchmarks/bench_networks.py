"""Chains of the energies of public codes. Floor: the multiply-adds of `Work.lanes` at the peak of this machine.

One of them alone, by the name of its work in `works.NETWORKS`:

    python -m pytest benchmarks/bench_networks.py --benchmark-only -k "jem and not label"
"""

from __future__ import annotations

import comparison
import pytest
import rooflines
from contenders import NETWORK_CONTENDERS, OURS, ours
from works import NETWORKS

MOST_ROUNDS = 201  # calls of the smallest take a millisecond


@pytest.mark.parametrize("name", NETWORKS)
def test_network(compare, name):
    work = NETWORKS[name]()
    calls, rows = comparison.admit(work, NETWORK_CONTENDERS)

    def floor(contender: str) -> tuple[float, str]:
        return rooflines.chain_floor(work, NETWORK_CONTENDERS[contender].precision)

    title = f"{work.title}, {len(work.x0):,} chains, K = {work.n_steps}"
    compare("network", title, calls, rows, floor, MOST_ROUNDS, engine=ours.engine(work) if OURS in calls else None)
