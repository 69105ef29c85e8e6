"""Runs a function on several ranks of torch.distributed, each a process of its own, on gloo."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from torch import distributed as dist

from fastlangevin.training import loop

from .forked import CONTEXT
from .training_runs import save_blank_plot

LIMIT = 120.0  # seconds that ranks may take, on a busy machine


class Failed(NamedTuple):
    """The error that a rank's function raised."""

    kind: str
    message: str
    trace: str


def on_ranks(size: int, function: Callable[..., Any], *args: Any, joined: bool = True) -> list[Any]:
    """What `function(*args)` returns on each rank, by rank; a `Failed` where it raised, None where the process ended.

    Args:
        function: of a module, so that another process finds it.
        joined: whether several ranks are a process group already. If not, `function` initialises it, as under torchrun.
    """
    with started(size, function, *args, joined=joined) as ranks:
        return results(ranks)


class Rank(NamedTuple):
    process: Any
    pipe: Connection


@contextlib.contextmanager
def started(size: int, function: Callable[..., Any], *args: Any, joined: bool = True) -> Iterator[list[Rank]]:
    """The processes of `on_ranks`, which are killed after the body."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(size):
        here, there = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_run, args=(rank, size, port, there, function, args, joined), daemon=True)
        process.start()
        there.close()
        ranks.append(Rank(process, here))
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.join()


def results(ranks: list[Rank]) -> list[Any]:
    found, end = [], time.monotonic() + LIMIT
    for number, rank in enumerate(ranks):
        assert rank.pipe.poll(max(end - time.monotonic(), 0.01)), f"rank {number} did not end within {LIMIT:g} s"
        try:
            found.append(pickle.loads(rank.pipe.recv_bytes()))
        except EOFError:
            found.append(None)
    return found


def unwrapped(found: list[Any]) -> list[Any]:
    """The results, or the first error, with its trace."""
    for rank, result in enumerate(found):
        assert result is not None, f"rank {rank} ended"
        assert not isinstance(result, Failed), f"rank {rank}: {result.trace}"
    return found


def _run(
    rank: int, size: int, port: int, pipe: Connection, function: Callable[..., Any], args: Any, joined: bool
) -> None:
    torch.set_num_threads(1)
    loop.save_training_plot = save_blank_plot
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        if size > 1 and joined:
            dist.init_process_group("gloo", timeout=timedelta(seconds=LIMIT))
            dist.barrier()  # a rank that ended before another has connected to it would be an error of that one
        result: Any = function(*args)
    except BaseException as error:
        result = Failed(type(error).__name__, str(error), traceback.format_exc())
    pipe.send_bytes(pickle.dumps(result))  # by value: torch's pickler for processes shares the memory of tensors
    pipe.close()
    if dist.is_initialized():
        dist.destroy_process_group()
