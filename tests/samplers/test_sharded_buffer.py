"""A buffer on several ranks draws and keeps the states of a buffer in one process, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.ranks import on_ranks, unwrapped
from torch import Tensor

import fastlangevin as fl
from fastlangevin.distributed.start import of_group

N, SHAPE, CAPACITY = 7, (2, 3), 12
BOUNDED: dict[str, Any] = {"bounds": (-1.0, 1.0)}
KINDS: dict[str, dict[str, Any]] = {
    "fifo": {"reinit": 0.3, **BOUNDED},
    "reservoir": {"policy": "reservoir", "reinit": 0.1, "init": "normal"},
    "indexed": {"policy": "indexed", "reinit": 0.0, **BOUNDED},
    "classes": {"per_class": 3, "reinit": 0.2},
    "reservoir-classes": {"per_class": 3, "policy": "reservoir", "reinit": 0.0},
    "indexed-classes": {"per_class": 3, "policy": "indexed", "reinit": 0.2, "storage": "uint8", **BOUNDED},
    "bytes": {"storage": "uint8", "reinit": 0.0, **BOUNDED},
    "callable": {"init": None, "reinit": 0.5},
    "velocities": {"velocities": True, "reinit": 0.3},
    "indexed-velocities": {"velocities": True, "policy": "indexed", "reinit": 0.2, "storage": "uint8", **BOUNDED},
}


def numbered(shape, *, seed, step, chain_offset) -> Tensor:
    """An initial state that tells the chain and the step."""
    chains = chain_offset + torch.arange(shape[0])
    return (chains + 100 * step).view(-1, 1, 1).expand(shape).float()


def made(kind: str, group: Any = None) -> fl.ReplayBuffer:
    options = {**KINDS[kind], **({"init": numbered} if kind == "callable" else {})}
    if group is None:
        return fl.ReplayBuffer(CAPACITY, SHAPE, seed=5, **options)
    return fl.ShardedReplayBuffer(CAPACITY, SHAPE, seed=5, group=group, **options)


def calls(buffer: fl.ReplayBuffer, mine: slice, first: int, last: int) -> list[Tensor]:
    """The drawn states of some calls, each followed by one that stores what a sampler could have made of them. Those of
    a buffer with velocities are followed by these, with 99 where there are none.
    """
    drawn = []
    for call in range(first, last):
        y = torch.tensor([0, 2, 2, 1, 0, 2, 0]) if buffer.per_class and call % 3 else None
        draw = buffer.sample(N, y)
        drawn += [draw.x] if draw.velocity is None else [draw.x, draw.velocity.nan_to_num(nan=99.0)]
        x = (draw.x * 0.5 + 0.01 * torch.arange(N).view(-1, 1, 1)[mine]).clamp(-1, 1)
        v = None if draw.velocity is None else drawn[-1] + call + x
        if buffer.policy == "indexed":
            buffer.store(x, draw.slots, velocity=v)
        else:
            y = torch.tensor([1, 2, 0, 0, 2, 1, 1]) if buffer.per_class else None
            buffer.store(x, None, y, v)
    return drawn


def _on_a_rank(n_calls: int) -> dict[str, Any]:
    ranks = of_group()
    part, found = ranks.part(N), {}
    for kind in KINDS:
        buffer = made(kind, ranks)
        drawn = calls(buffer, slice(part.start, part.stop), 0, n_calls)
        found[kind] = drawn, buffer.state_dict(), len(buffer), len(buffer._values)
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_draws_and_states_are_those_of_one_process(size):
    by_rank = unwrapped(on_ranks(size, _on_a_rank, 9))
    for kind in KINDS:
        one = made(kind)
        expected, state = calls(one, slice(None), 0, 9), one.state_dict()
        drawn = [torch.cat(parts) for parts in zip(*(found[kind][0] for found in by_rank), strict=True)]
        for call, (got, want) in enumerate(zip(drawn, expected, strict=True)):
            assert torch.equal(got, want), (kind, call)
        for name in ("values", "velocities") if one.velocities else ("values",):
            assert torch.equal(*(s[name].nan_to_num(nan=99.0) for s in (by_rank[0][kind][1], state))), (kind, name)
            assert all(name not in found[kind][1] for found in by_rank[1:])
        for found in by_rank:
            assert {k: v for k, v in found[kind][1].items() if not isinstance(v, Tensor)} == {
                k: v for k, v in state.items() if not isinstance(v, Tensor)
            }
            assert torch.equal(found[kind][1]["counts"], state["counts"])
            assert found[kind][2] == len(one)
        # Each rank has its part of the slots, and a row for what is not kept.
        assert sum(found[kind][3] - 1 for found in by_rank) == CAPACITY


def _continued(states: dict[str, Any]) -> dict[str, Any]:
    ranks = of_group()
    part, found = ranks.part(N), {}
    for kind in KINDS:
        buffer = made(kind, ranks)
        buffer.load_state_dict(states[kind])
        drawn = calls(buffer, slice(part.start, part.stop), 4, 9)
        found[kind] = drawn, buffer.state_dict()
    return found


def test_a_state_continues_on_another_number_of_ranks():
    """From two ranks to three, and from there to one process."""
    of_two = unwrapped(on_ranks(2, _on_a_rank, 4))[0]
    by_rank = unwrapped(on_ranks(3, _continued, {kind: found[1] for kind, found in of_two.items()}))
    for kind in KINDS:
        one = made(kind)
        expected = calls(one, slice(None), 0, 9)[8 if one.velocities else 4 :]
        drawn = [torch.cat(parts) for parts in zip(*(found[kind][0] for found in by_rank), strict=True)]
        assert all(map(torch.equal, drawn, expected)), kind
        again = made(kind)
        again.load_state_dict(by_rank[0][kind][1])
        assert all(map(torch.equal, calls(again, slice(None), 9, 12), calls(one, slice(None), 9, 12))), kind


def _refused() -> list[str]:
    ranks, messages = of_group(), []
    buffer = made("fifo", ranks)
    with pytest.raises(ValueError) as error:
        buffer.store(torch.zeros(3, *SHAPE))
    messages.append(str(error.value))
    buffer.sample(N)
    with pytest.raises(ValueError) as error:
        buffer.store(torch.zeros(N, *SHAPE))
    messages.append(str(error.value))
    with pytest.raises(ValueError) as error:
        buffer.load_state_dict({**made("fifo").state_dict(), "values": torch.zeros(3, *SHAPE)})
    messages.append(str(error.value))
    return messages


def test_bad_input():
    first, second = unwrapped(on_ranks(2, _refused))
    assert first[0] == "x must hold last states of the chains that `sample` drew, but nothing has been drawn"
    assert (first[1], second[1]) == (
        "x must hold this rank's 3 of the 7 states that the last draw was of, got 7",
        "x must hold this rank's 4 of the 7 states that the last draw was of, got 7",
    )
    assert first[2] == "state's values must be torch.float32 (12, 2, 3), got torch.float32 (3, 2, 3)"


def _written() -> list[int]:
    """The rows that this rank writes where several chains have one slot."""
    ranks, rows = of_group(), []
    buffer = fl.ShardedReplayBuffer(2, (), seed=1, policy="indexed", group=ranks)
    draw = buffer.sample(N)
    buffer._values.index_copy_ = lambda dim, index, values: rows.extend(index.tolist())
    buffer.store(draw.x, draw.slots)
    return rows


def test_each_slot_is_written_once():
    """The order of several writes is not defined on a GPU."""
    assert unwrapped(on_ranks(2, _written)) == [[0], [0]]
