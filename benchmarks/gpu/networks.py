"""Chains of networks of public codes on one GPU: recorded graphs with fused calls and without, beside the loop."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from unittest import mock

import checks
import works
from contenders import NETWORK_CONTENDERS, eager
from timing import spread

from fastlangevin.kernels.triton import fused
from gpu.timing import Row, failed, ratio, times

# By name: the contender, and whether its graphs may be fused.
RUNS = {
    "eager": ("eager", False),
    "eager bf16": ("eager bf16", False),
    "operators": ("fastlangevin", False),
    "fused": ("fastlangevin", True),
    "operators bf16": ("fastlangevin bf16", False),
    "fused bf16": ("fastlangevin bf16", True),
}
PEERS = {"fused": ("eager", "operators"), "fused bf16": ("eager", "eager bf16", "operators bf16")}


def network(name: str, device: str = "cuda") -> list[Row]:
    """A step of each run in a chain of the code's length; those that disagree with float64 are not timed."""
    work = works.network(name, device)
    wide = dataclasses.replace(work.in_float64(), n_steps=3)
    exact = eager.make(wide)(wide.x0, 3, 0.0)
    calls, rows = {}, []
    for run, (contender, fuses) in RUNS.items():
        chosen, own = NETWORK_CONTENDERS[contender], work.with_own_network()
        try:
            with fusing(fuses):
                chain = chosen.make(own)
                why = checks.without_noise(chain(own.x0, 3, 0.0), exact, work.x0, chosen.precision)
                if why:
                    raise AssertionError(f"after 3 steps without noise {why}")
                chain(own.x0, work.n_steps, work.noise_std)  # records
            calls[run] = functools.partial(chain, own.x0, work.n_steps, work.noise_std)
        except Exception as error:  # the others are still timed
            rows.append(failed(f"{name}, {run}", f"{type(error).__name__}: {error}"))
    seconds = times(calls, rounds=9, warmup=1)
    for run, values in seconds.items():
        value, quartiles = spread([s / work.n_steps * 1e6 for s in values])
        row: Row = {"what": f"{name}, {run}", "value": value, "unit": "µs per step", "quartiles": quartiles}
        peers = [peer for peer in PEERS.get(run, ()) if peer in seconds]
        rows += [row | ratio(seconds[peer], values, peer) for peer in peers] or [row]
    return rows


@contextlib.contextmanager
def fusing(fuses: bool) -> Iterator[None]:
    """Whether recordings that are made meanwhile are fused."""
    if fuses:
        yield
    else:
        with mock.patch.object(fused, "unsupported", lambda device: "measured without"):
            yield
