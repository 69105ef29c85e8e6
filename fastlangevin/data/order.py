"""Which items of the data each training iteration reads: a function of (seed, iteration), so that a resume reads on."""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor

from ..validation import check_int


def epoch_order(n: int, *, seed: int, epoch: int) -> Tensor:
    """The order in which epoch `epoch` visits n items: a permutation of 0 … n - 1, int64 (n,).

    It follows from the arguments alone; torch's global random state plays no part in it and is left as it was.
    """
    check_int("n", n, 1)
    check_int("epoch", epoch, 0)
    # torch's CPU generator takes 32 bits of its seed: hashed, so that all of both numbers count.
    mixed = hashlib.blake2b(f"{seed},{epoch}".encode(), digest_size=8).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(mixed, "little"))
    return torch.randperm(n, generator=generator, device="cpu")


_recent_order = functools.lru_cache(maxsize=2)(epoch_order)


def batch_indices(n: int, batch_size: int, *, seed: int, iteration: int) -> Tensor:
    """The items of batch `iteration` (from 0), int64 (batch_size,).

    Batches are consecutive pieces of the endless sequence epoch_order(0), epoch_order(1), …; one that begins in an
    epoch and ends in the next holds items of both. Like `epoch_order`, it follows from the arguments alone.
    """
    check_int("n", n, 1)
    check_int("batch_size", batch_size, 1)
    check_int("iteration", iteration, 0)
    pieces: list[Tensor] = []
    position, end = iteration * batch_size, (iteration + 1) * batch_size
    while position < end:
        epoch, begin = divmod(position, n)
        pieces.append(_recent_order(n, seed=seed, epoch=epoch)[begin : begin + end - position])
        position += len(pieces[-1])
    return torch.cat(pieces)
