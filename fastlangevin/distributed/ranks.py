"""What the ranks of a training or a command do together, and what they do about an error on one of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import ProcessGroup

from ..errors import ChainDiverged, RankFailed
from . import shards

T = TypeVar("T")
_GOES_ON, _STOPS, _FAILED = range(3)


class Ranks:
    """The ranks of a process group. All its methods are called by all ranks, in the same order.

    A rank that ends, or does not answer within the time limit of the group, is a `RankFailed` of every method.

    Args:
        group: of the tensors on the ranks' devices. None: this process alone.
        host: of tensors on the host and of Python's objects: the same ranks, on gloo.
        closes_host: whether `close` ends that group.

    Attributes:
        rank, size: this rank's number, and the number of ranks.
        wants_to_stop: whether this rank has been told to stop.
        stops: whether a rank had been at the last `together`.
    """

    def __init__(
        self, group: ProcessGroup | None = None, host: ProcessGroup | None = None, *, closes_host: bool = False
    ) -> None:
        self._group, self._host, self._closes_host = group, host, closes_host
        self._shared_error: BaseException | None = None
        self.wants_to_stop: Callable[[], bool] = lambda: False
        self.stops = False
        self.rank, self.size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))

    def close(self) -> None:
        """Leaves the others, who would wait for this rank in vain after an error that it did not share."""
        host, self._host = self._host, None
        if host is not None and self._closes_host:
            dist.destroy_process_group(host)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the files and speaks for all."""
        return self.rank == 0

    @property
    def members(self) -> list[int]:
        """The numbers of these ranks, by rank, among all of the program."""
        if self._group is None:
            return [dist.get_rank() if shards.is_initialized() else 0]
        return dist.get_process_group_ranks(self._group)

    def part(self, n: int) -> range:
        """The indices of this rank's part of n things."""
        return shards.part(n, self.rank, self.size)

    def parts(self, n: int) -> list[range]:
        """The indices of each rank's part."""
        return [shards.part(n, rank, self.size) for rank in range(self.size)]

    def most(self, n: int) -> int:
        """The largest of the ranks' numbers."""
        if self.size == 1:
            return n
        number = torch.tensor([n], device="cpu")
        with self._answering():
            dist.all_reduce(number, dist.ReduceOp.MAX, self._host)
        return int(number)

    @contextlib.contextmanager
    def together(self, patience: float | None = None) -> Iterator[None]:
        """Waits for all ranks after the body. If it raised an error on one of them, all raise one. If one of them
        `wants_to_stop`, `stops` is true on all.

        A rank whose body raised raises its own error, another a `RankFailed` that names the first such rank and its
        error. Where all of them are `ChainDiverged`, every rank raises the first rank's, because what is done about it
        must be the same on all ranks.

        Args:
            patience: seconds that a rank waits with another error than that, and then raises it alone. For a body with
                exchanges that are not those of this class, in which the others would wait for this rank. None: it waits
                as long as the group allows.
        """
        if self.size == 1:
            yield
            return
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            if raised is self._shared_error or isinstance(raised, RankFailed):
                raise  # from within the body, on all ranks
            error = raised
        if patience is not None and error is not None and not isinstance(error, ChainDiverged):
            self._announce(error, patience)
            most = _FAILED
        else:
            most = self.most(_FAILED if error is not None else _STOPS if self.wants_to_stop() else _GOES_ON)
            self.stops = self.stops or most == _STOPS
        if most < _FAILED:
            return
        self._shared_error = self._agreed(error)
        raise self._shared_error

    def _announce(self, error: BaseException, patience: float) -> None:
        """The vote of an error on this rank; raises it if the others do not come to the same call in time."""
        assert self._host is not None
        options = dist.AllreduceOptions()
        options.reduceOp = dist.ReduceOp(dist.ReduceOp.MAX)
        options.timeout = timedelta(seconds=patience)
        begun = time.monotonic()
        with self._answering():
            try:
                self._host.allreduce([torch.tensor([_FAILED], device="cpu")], options).wait()
                return
            except RuntimeError:
                if time.monotonic() - begun < patience:  # a rank has ended
                    raise
        self._shared_error = error
        raise error

    def _agreed(self, error: BaseException | None) -> BaseException:
        """The error that this rank raises, where it has this one itself."""
        errors = self.gather(None if error is None else _portable(error))
        found = [(rank, other) for rank, other in enumerate(errors) if other is not None]
        others = [(rank, other) for rank, other in found if not isinstance(other, ChainDiverged)]
        if not others:
            rank, first = found[0]
            return error if rank == self.rank and error is not None else first
        if error is not None and not isinstance(error, ChainDiverged):
            return error
        rank, what = others[0]
        return RankFailed(f"rank {rank} of {self.size} failed: {what}")

    def gather(self, value: T) -> list[T]:
        """The picklable values of all ranks, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._answering():
            dist.all_gather_object(values, value, self._host)
        return values

    def of_main(self, value: T) -> T:
        """The picklable value of rank 0."""
        if self.size == 1:
            return value
        values = [value]
        with self._answering():
            dist.broadcast_object_list(values, group=self._host, group_src=0, device=torch.device("cpu"))
        return values[0]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over the ranks: the same bits on all ranks. One message for each dtype."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            some = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in some])
            with self._answering():
                dist.all_reduce(flat, group=self._group_of(flat))
            parts = flat.split([tensor.numel() for tensor in some])
            torch._foreach_copy_(some, [part.view(tensor.shape) for part, tensor in zip(parts, some, strict=True)])

    def copy_from_main_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by rank 0's."""
        for tensor in tensors if self.size > 1 else ():
            contiguous = tensor.contiguous()
            with self._answering():
                dist.broadcast(contiguous, group=self._group_of(tensor), group_src=0)
            tensor.copy_(contiguous)

    def exchange(self, x: Tensor, counts: Sequence[int], counts_received: Sequence[int]) -> Tensor:
        """Sends consecutive rows of x to the ranks, and returns the rows that they sent, by rank.

        Args:
            counts: the number of rows for each rank.
            counts_received: the number of rows from each rank.
        """
        if self.size == 1:
            return x
        received = x.new_empty((sum(counts_received), *x.shape[1:]))
        with self._answering():
            group = self._group_of(x)
            dist.all_to_all_single(received, x.contiguous(), list(counts_received), list(counts), group)
        return received

    def collect(self, x: Tensor, counts: Sequence[int]) -> Tensor | None:
        """Returns the rows of all ranks, by rank, in rank 0's memory on the host; None on the others.

        Args:
            x: (counts[rank], *shape), on any device.
        """
        if self.size == 1:
            return x
        if not self.is_main:
            with self._answering():
                dist.send(x.detach().cpu().contiguous(), group=self._host, group_dst=0)
            return None
        whole = torch.empty((sum(counts), *x.shape[1:]), dtype=x.dtype, device="cpu")
        rows = whole.split(list(counts))
        rows[0].copy_(x)
        for rank in range(1, self.size):
            with self._answering():
                dist.recv(rows[rank], group=self._host, group_src=rank)
        return whole

    def check_agreement(self, values: Mapping[str, str]) -> None:
        """Raises ValueError on all ranks unless these are the same on all; the message names those that differ."""
        all_values = self.gather(dict(values))
        for rank, others in enumerate(all_values):
            for name in sorted(others.keys() | all_values[0].keys()):
                here, there = all_values[0].get(name, "nothing"), others.get(name, "nothing")
                if here != there:
                    raise ValueError(
                        f"{name} must be the same on all ranks, got {here} on rank 0 and {there} on rank {rank}"
                    )

    def _group_of(self, tensor: Tensor) -> ProcessGroup | None:
        return self._host if tensor.device.type == "cpu" else self._group

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch's backends raise it, and subclasses of it
            raise RankFailed(
                f"a rank ended, or did not answer in time, while rank {self.rank} of {self.size} waited for it: {error}"
            ) from error


def _portable(error: BaseException) -> Any:
    """What the other ranks know of an error: a divergence with all that it says, else its type and its message."""
    if isinstance(error, ChainDiverged):
        return error
    return f"{type(error).__name__}: {error}"
