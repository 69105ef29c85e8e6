"""The process group of a program: the caller's, or one that torchrun's environment describes."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

from ..errors import BackendUnavailable, RankFailed
from . import shards
from .ranks import Ranks

# Groups of gloo, and the group of all ranks in whose time they were made, for parts of them whose own groups have none.
_HOSTS: dict[tuple[int, ...], tuple[dist.ProcessGroup | None, dist.ProcessGroup]] = {}
_NUMBERS = itertools.count()  # of the groups that this process has initialised
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextlib.contextmanager
def joined(device: str, timeout: float, group: shards.Group | None = None) -> Iterator[Ranks]:
    """The ranks of this program.

    Where torch.distributed is initialised they are those of `group`, or all; else those of torchrun, whose group is
    initialised and kept until the process ends; else this process alone.

    Args:
        device: the type of the device that tensors are on: with "cuda" the group that is initialised has NCCL.
        timeout: seconds that a rank waits for the others, at most.

    Raises:
        RankFailed: a rank did not start.
        BackendUnavailable: a backend of torch.distributed that this torch does not have.
        TypeError, ValueError: a group that is none of this rank's, or an incomplete environment.
    """
    if not shards.is_initialized():
        _check_environment()
    if not shards.is_initialized() and started_by_torchrun():
        _initialize(device, timedelta(seconds=timeout))
    ranks = of_group(group, timeout)
    try:
        yield ranks
    finally:
        ranks.close()


def of_group(group: shards.Group | None = None, timeout: float = 1800.0) -> Ranks:
    """The ranks of a group, or all; this process alone where torch.distributed is not initialised."""
    if shards.place(group)[1] == 1:
        return Ranks()
    own = shards.as_process_group(group) or dist.group.WORLD
    assert own is not None
    if not dist.is_gloo_available():
        raise BackendUnavailable("gloo is needed for what ranks exchange on the host, but this torch has none")
    within = timedelta(seconds=timeout)
    with _arriving(within):
        if dist.get_world_size(own) == dist.get_world_size():
            # A group of its own even where the other is gloo's: with this time limit, and closing it wakes the others.
            return Ranks(own, dist.new_group(None, within, "gloo"), closes_host=True)
        if "gloo" in dist.get_backend_config(own):
            return Ranks(own, own)
        ranks = tuple(dist.get_process_group_ranks(own))
        world, host = _HOSTS.get(ranks, (None, None))
        if host is None or world is not dist.group.WORLD:
            # Made once: a later one of these ranks would have its name, and find its old addresses.
            host = dist.new_group(list(ranks), within, "gloo", use_local_synchronization=True)
            _HOSTS[ranks] = dist.group.WORLD, host
        return Ranks(own, host)


def started_by_torchrun() -> bool:
    """Whether the environment is that of one of several ranks of torchrun."""
    return all(name in os.environ for name in _TORCHRUN) and os.environ["WORLD_SIZE"] != "1"


def speaks() -> bool:
    """Whether this process writes what one of several ranks is to say: rank 0 of torchrun, or no rank of it."""
    return not started_by_torchrun() or os.environ["RANK"] == "0"


def starter() -> str:
    """Names torchrun, which starts this process anew after a failure, among the programs of this machine."""
    stat = Path(f"/proc/{os.getppid()}/stat")
    began = stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else ""  # proc(5): field 22
    return f"{os.getppid()} {began}"


def is_restarted() -> bool:
    """Whether torchrun has started this process again, after a rank failed (--max-restarts)."""
    return started_by_torchrun() and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def local_device(device: torch.device) -> torch.device:
    """The device of this rank: of several GPUs the one with torchrun's LOCAL_RANK."""
    if device.type != "cuda" or device.index is not None or not started_by_torchrun():
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _check_environment() -> None:
    """Raises ValueError in one of several processes that does not know of the others."""
    size, missing = os.environ.get("WORLD_SIZE", "1"), [name for name in _TORCHRUN if name not in os.environ]
    if size != "1" and missing:
        raise ValueError(
            f"WORLD_SIZE={size} makes this one of {size} processes, which lacks {', '.join(missing)}: start them with "
            "torchrun, or unset WORLD_SIZE"
        )


def _initialize(device: str, timeout: timedelta) -> None:
    needed = ("gloo", "nccl") if device == "cuda" else ("gloo",)
    for backend in needed:
        if not (dist.is_available() and dist.is_backend_available(backend)):
            raise BackendUnavailable(f"several ranks on {device} need {backend}, which this torch does not have")
    with _arriving(timeout):
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        # torchrun's store still has the addresses of a group that the caller has destroyed, and of the processes that
        # it has started again.
        store = dist.PrefixStore(f"group {next(_NUMBERS)}", store)
        if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
            store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    atexit.register(_destroy)


@contextlib.contextmanager
def _arriving(timeout: timedelta) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of torch's store and backends, and subclasses of it
        raise RankFailed(f"not all ranks started within {timeout.total_seconds():g} s: {error}") from error


def _destroy() -> None:
    if shards.is_initialized():
        dist.destroy_process_group()
