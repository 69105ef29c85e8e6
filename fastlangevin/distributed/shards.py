"""Which chains of the whole batch a rank runs."""

from __future__ import annotations

import os
import warnings
from typing import NamedTuple

from torch import distributed as dist
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from ..errors import level_of_the_caller
from ..validation import check_int

Group = ProcessGroup | DeviceMesh


class Shard(NamedTuple):
    """One rank's part of a batch of chains.

    Attributes:
        n_chains: the number of its chains.
        chain_offset: the number of chains before them, which a sampler takes.

    Examples:
        >>> third_of_four = fl.distributed.Shard(n_chains=64, chain_offset=128)
        >>> third_of_four.rows
        slice(128, 192, None)
    """

    n_chains: int
    chain_offset: int

    @property
    def rows(self) -> slice:
        """Its rows of a tensor of the whole batch: `batch[shard.rows]`."""
        return slice(self.chain_offset, self.chain_offset + self.n_chains)


def part(n: int, rank: int, size: int) -> range:
    """The indices of one rank's part of n things: parts are consecutive, and their sizes differ by at most one."""
    return range(n * rank // size, n * (rank + 1) // size)


def shard(n_chains: int, group: Group | None = None) -> Shard:
    """Returns this rank's part of a batch of chains:

        mine = fl.distributed.shard(256)
        x = sampler.sample((mine.n_chains, 3, 32, 32), chain_offset=mine.chain_offset)
        x = sampler(x0[mine.rows], chain_offset=mine.chain_offset)           with x0 of all 256

    The parts of all ranks, one after the other, are the chains of the whole batch, with the same initial states and the
    same noise as on one rank. Their sizes differ by at most one.

    Args:
        n_chains: number of chains of the whole batch, at least one for each rank.
        group: the ranks, a process group or a device mesh of one dimension. None: all ranks or, where
            torch.distributed is not initialised, this process alone.

    Raises:
        TypeError, ValueError: fewer chains than ranks; a group that this rank is no member of, or a mesh of several
            dimensions.
        RuntimeError: one of several processes (of torchrun) that has not initialised torch.distributed.

    Examples:
        >>> mine = fl.distributed.shard(256)  # all of them in a process without a group
        >>> mine
        Shard(n_chains=256, chain_offset=0)
        >>> torch.zeros(256, 2)[mine.rows].shape
        torch.Size([256, 2])
    """
    check_ranks_have_met()
    rank, size = place(group)
    if check_int("n_chains", n_chains, 1) < size:
        raise ValueError(f"n_chains must be at least one for each of the {size} ranks, got {n_chains}")
    chains = part(n_chains, rank, size)
    return Shard(len(chains), chains.start)


def check_ranks_have_met() -> None:
    """Raises RuntimeError in one of several processes that would take itself for the only one."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size != "1" and not is_initialized():
        raise RuntimeError(
            f"torch.distributed is not initialised in this process, one of {size} (WORLD_SIZE): call "
            "torch.distributed.init_process_group before this, or with Lightning do this in on_fit_start"
        )


def place(group: Group | None) -> tuple[int, int]:
    """This rank's number in the group, and the number of its ranks."""
    if not is_initialized():
        if group is not None:
            raise ValueError("group needs an initialised torch.distributed (torch.distributed.init_process_group)")
        return 0, 1
    group = as_process_group(group)
    return dist.get_rank(group), dist.get_world_size(group)


def as_process_group(group: Group | None) -> ProcessGroup | None:
    """The process group of a mesh of one dimension; None for all ranks.

    Raises:
        TypeError, ValueError: neither a group nor a mesh, a mesh of several dimensions, or a group without this rank.
    """
    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            raise ValueError(f"group must be a mesh of one dimension (mesh['data']), got one of {group.ndim}")
        group = group.get_group()
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("group must have this rank as a member, got one of other ranks")
    if group is not None and not isinstance(group, ProcessGroup):
        raise TypeError(f"group must be a process group or a device mesh, got {type(group).__name__}")
    return group


def is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


_has_warned = False


def warn_of_equal_noise() -> None:
    """Warns, once, on a rank other than 0: called where chains were given no place in the whole batch."""
    global _has_warned
    if _has_warned or not is_initialized() or dist.get_rank() == 0:
        return
    _has_warned = True
    warnings.warn(
        f"chain_offset was not given on rank {dist.get_rank()} of {dist.get_world_size()}: where samplers have one "
        "seed, their chains have the same noise on all ranks. Give each rank its part: "
        "mine = fl.distributed.shard(n_chains), and chain_offset=mine.chain_offset; or chain_offset=0 where the same "
        "noise is wanted, or the seeds differ",
        UserWarning,
        stacklevel=level_of_the_caller(),
    )
