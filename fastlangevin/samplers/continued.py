"""Calls of a sampler whose chains go on from call to call, as in training, and are watched on the way."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from torch import Tensor

from ..chains.chain import Chain
from ..chains.initial import check_state
from ..chains.underdamped_chain import UnderdampedChain, UnderdampedMemory
from ..network.inputs import make_inputs
from .base import Sampler
from .trace import Trace, of_records, record
from .trace_file import Records
from .underdamped import Underdamped


class Ends(NamedTuple):
    """The ends of B chains.

    Attributes:
        x: (B, *event) last states.
        velocity: last velocities, if those at the start were given; else None.
        acceptance: the share of proposals that were accepted, a scalar on the states' device; None without a test.
    """

    x: Tensor
    velocity: Tensor | None
    acceptance: Tensor | None


def has_velocities(sampler: Sampler) -> bool:
    """Whether the state of a sampler's chains is more than x."""
    return isinstance(sampler, Underdamped)


def run(sampler: Sampler, x0: Tensor, *args: Tensor, velocity: Tensor | None, chain_offset: int) -> Ends:
    """A call of a sampler, with the same states. Does not wait for a GPU.

    Args:
        velocity: at the start, as for `Underdamped.with_velocity`; None of other samplers, or where nothing goes on.
    """
    chain = going_on(_started(sampler, x0, args, chain_offset, None), velocity)
    return ends(chain, sampler._run(chain, x0))


def trace(
    sampler: Sampler, x0: Tensor, *args: Tensor, velocity: Tensor | None, chain_offset: int, step: int, every: int
) -> Trace:
    """What `run` did from noise step `step` on, recorded as by `Sampler.trace`."""
    chain = going_on(_started(sampler, x0, args, chain_offset, step), velocity)
    with sampler._running(x0.device):
        x = record(chain, x0, every, records := Records())
    sampler._settle(chain, x0, x)
    return of_records(records)


def going_on(chain: Chain, velocity: Tensor | None) -> Chain:
    """The chain from these velocities, whose last ones are known at its end."""
    if velocity is None:
        return chain
    assert isinstance(chain, UnderdampedChain)
    return dataclasses.replace(chain, velocity=velocity, continues=True)


def ends(chain: Chain, x: Tensor) -> Ends:
    """What is known of a chain after all its steps, which led to x."""
    velocity = UnderdampedMemory(*chain.memory).velocity if chain.continues else None
    acceptance = chain.statistics(len(chain)).get("acceptance")
    return Ends(x, velocity, None if acceptance is None else acceptance.mean())


def _started(sampler: Sampler, x0: Tensor, args: tuple[Tensor, ...], chain_offset: int, step: int | None) -> Chain:
    check_state("x0", x0, sampler.target)
    return sampler._start(x0, make_inputs(sampler.target, args, None), None, chain_offset, step)
