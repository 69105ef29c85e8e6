"""Which items each training iteration reads, as a function of (seed, iteration), so that a resumed run continues."""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor

from ..validation import check_int


def epoch_order(n: int, *, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits n items: a permutation of 0 … n - 1, int64 (n,).

    It depends on the arguments alone. It neither reads nor changes torch's global random state.
    """
    check_int("n", n, 1)
    check_int("epoch", epoch, 0)
    # torch's CPU generator takes 32 bits of its seed: hashed, so that every bit of both numbers counts.
    mixed = hashlib.blake2b(f"{seed},{epoch}".encode(), digest_size=8).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(mixed, "little"))
    return torch.randperm(n, generator=generator, device="cpu")


_recent_order = functools.lru_cache(maxsize=2)(epoch_order)


def batch_indices(n: int, batch_size: int, *, seed: int, iteration: int) -> Tensor:
    """Indices of the items in batch `iteration` (from 0), int64 (batch_size,).

    Batches are consecutive slices of the infinite sequence epoch_order(0), epoch_order(1), …, so a batch may span two
    epochs or more. Like `epoch_order`, it depends on the arguments alone.
    """
    check_int("n", n, 1)
    check_int("batch_size", batch_size, 1)
    check_int("iteration", iteration, 0)
    pieces: list[Tensor] = []
    position, end = iteration * batch_size, (iteration + 1) * batch_size
    while position < end:
        epoch, start = divmod(position, n)
        pieces.append(_recent_order(n, seed=seed, epoch=epoch)[start : start + end - position])
        position += len(pieces[-1])
    return torch.cat(pieces)
