from __future__ import annotations

import functools
import linecache
import warnings

import pytest
import torch
from support.ranks import on_ranks, unwrapped
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh

import fastlangevin as fl
from fastlangevin.distributed import shards


@pytest.mark.parametrize(("n", "size"), [(1, 1), (7, 1), (7, 3), (8, 4), (5, 5), (257, 8), (2, 3)])
def test_parts_are_all_chains_in_order_of_nearly_equal_size(n, size):
    parts = [shards.part(n, rank, size) for rank in range(size)]
    assert [chain for part in parts for chain in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_without_torch_distributed_the_part_is_the_whole():
    assert fl.distributed.shard(5) == fl.distributed.Shard(n_chains=5, chain_offset=0)


@pytest.mark.parametrize("n", [0, -1, 2.5, "4"])
def test_the_number_of_chains_is_checked(n):
    with pytest.raises(ValueError, match="n_chains must be an int of at least 1"):
        fl.distributed.shard(n)


def test_a_group_needs_torch_distributed():
    with pytest.raises(ValueError, match="group needs an initialised torch.distributed"):
        fl.distributed.shard(5, group="data")


def test_ranks_that_have_not_met(monkeypatch):
    """Each would run the whole batch."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for call in (lambda: fl.distributed.shard(5), lambda: fl.ShardedReplayBuffer(4, (2,), seed=1)):
        with pytest.raises(RuntimeError, match="torch.distributed is not initialised in this process, one of 2"):
            call()


def _sampled() -> tuple:
    mine = fl.distributed.shard(5)
    mesh = init_device_mesh("cpu", (1, 3), mesh_dim_names=("replicate", "data"))
    pair = dist.new_group([0, 2])
    found = [mine, fl.distributed.shard(5, mesh["data"])]
    for group in (mesh, pair, 4):
        try:
            found.append(fl.distributed.shard(5, group))
        except (TypeError, ValueError) as error:
            found.append(str(error))
    try:
        fl.distributed.shard(2)
    except ValueError as error:
        found.append(str(error))
    sampler = fl.Langevin(lambda x: x.square().sum(1), n_steps=3, step_size=0.1, noise_std=0.3, seed=1)
    x = sampler.sample((mine.n_chains, 2), chain_offset=mine.chain_offset, step=0)
    whole = sampler.sample((5, 2), step=0, chain_offset=0)
    return found, x, whole, whole[mine.rows]


def test_the_shards_of_three_ranks_are_the_chains_of_one():
    ranks = unwrapped(on_ranks(3, _sampled))
    found, x, whole, mine = zip(*ranks, strict=True)
    assert [f[0] for f in found] == [(1, 0), (2, 1), (2, 3)]
    assert [f[1] for f in found] == [f[0] for f in found]
    assert torch.equal(torch.cat(x), whole[0]) and all(map(torch.equal, x, mine))
    for rank, (_, _, mesh, pair, neither, few) in enumerate(found):
        assert mesh == "group must be a mesh of one dimension (mesh['data']), got one of 2"
        assert pair == ((2, 0), "group must have this rank as a member, got one of other ranks", (3, 2))[rank]
        assert neither == "group must be a process group or a device mesh, got int"
        assert few == "n_chains must be at least one for each of the 3 ranks, got 2"


def _calls() -> dict[str, list[str]]:
    """The warnings of calls: for each the file and the function that it points at."""
    mine = fl.distributed.shard(4)
    alone = fl.distributed.shard(4, [dist.new_group([rank]) for rank in range(2)][dist.get_rank()])
    sampler = fl.Langevin(lambda x: x.square().sum(1), n_steps=3, step_size=0.1, noise_std=0.3, seed=1)
    x = torch.zeros(4, 2)
    calls = {
        "call": lambda **k: sampler(x, **k),
        "sample": lambda **k: sampler.sample((4, 2), **k),
        "trace": lambda **k: sampler.trace(x, **k),
        "with_last_step": lambda **k: sampler.with_last_step(x, **k),
        "inpaint": lambda **k: fl.inpaint(sampler, x, x == 0, **k),
    }
    silent = {
        **{f"{name} with an offset": functools.partial(call, chain_offset=0) for name, call in calls.items()},
        "shard": lambda: sampler.sample((mine.n_chains, 2), chain_offset=mine.chain_offset),
        "a shard of a group": lambda: sampler.sample((4, 2), chain_offset=alone.chain_offset),
        "initial": lambda: sampler.initial((4, 2)),
        "energy": lambda: sampler.energy(x),
        "score": lambda: sampler.score(x),
        "reconstruct": lambda: fl.reconstruct(sampler, x, n_iterations=1),
        "interpolate": lambda: fl.interpolate(sampler, x, x),
    }
    found = {}
    for name, call in {**silent, **calls}.items():
        shards._has_warned = False
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
            call()
        found[name] = [str(w.message) for w in caught]
        for w in caught:
            line = linecache.getline(w.filename, w.lineno)
            assert f'"{name}": lambda **k:' in line, f"{name} points at {w.filename}:{w.lineno}, {line}"
    return found


def test_ranks_whose_chains_have_equal_noise_are_warned_once():
    first, second = unwrapped(on_ranks(2, _calls))
    assert not any(first.values())
    warned = {name: messages for name, messages in second.items() if messages}
    assert list(warned) == ["call", "sample", "trace", "with_last_step", "inpaint"]
    for (message,) in warned.values():
        assert message.startswith("chain_offset was not given on rank 1 of 2: where samplers have one seed, their")
