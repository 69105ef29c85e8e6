"""A replay buffer whose slots are divided among the ranks of a process group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..distributed.ranks import Ranks
from ..distributed.shards import Group, check_ranks_have_met
from ..distributed.start import of_group
from ..transfer import to_device
from .replay_buffer import Draw, ReplayBuffer


class Route(NamedTuple):
    """The states that move between the chains of a batch and the slots of their owners.

    Attributes:
        mine: this rank's chains, by the owner of their slots, and `on_ranks` how many each rank owns.
        here: the chains whose slots this rank owns, in order, and `of_ranks` how many are each rank's.
    """

    mine: Tensor
    on_ranks: list[int]
    here: Tensor
    of_ranks: list[int]


class ShardedReplayBuffer(ReplayBuffer):
    """A `ReplayBuffer` that is one buffer on several ranks, each of which has a part of the slots:

        draw = buffer.sample(256)             the states of this rank's part of 256 chains
        x = sampler(draw.x, chain_offset=…)
        buffer.store(x)

    The same calls draw and keep the same states, bit for bit, as in a `ReplayBuffer` with the whole batch in one
    process, for any number of ranks. Which slots are drawn and written is computed on every rank's host, from the noise
    stream, so that ranks exchange states alone, and need not wait for a GPU to know how many. All ranks make the same
    calls in the same order.

    Args:
        capacity: of the whole buffer.
        shape: of one state.
        seed: 64 bits.
        group: the ranks, a process group or a device mesh of one dimension; a rank's chains are those of
            `fl.distributed.shard`. None: all ranks.
        options: of `ReplayBuffer`, the same on all ranks.

    Raises:
        TypeError, ValueError, RuntimeError: as for `ReplayBuffer` and `fl.distributed.shard`.

    Examples:
        The same lines on one process and on each rank of `torchrun`:

        >>> mine = fl.distributed.shard(256)
        >>> buffer = fl.ShardedReplayBuffer(10_000, (2,), reinit=0.05, seed=2)
        >>> sampler = fl.Langevin(fl.energies.Rings(), step_size=0.01, noise_std=None, n_steps=20, seed=1)
        >>> draw = buffer.sample(256)
        >>> x = sampler(draw.x, chain_offset=mine.chain_offset)
        >>> buffer.store(x)
        >>> state = buffer.state_dict()  # on rank 0 the states of all
        >>> int(state["counts"])
        256
    """

    def __init__(
        self, capacity: int, shape: Sequence[int], *, seed: int, group: Ranks | Group | None = None, **options: Any
    ) -> None:
        if not isinstance(group, Ranks):
            check_ranks_have_met()
            group = of_group(group)
        self._ranks = group
        self._n = 0  # chains of the whole batch in the last draw
        super().__init__(capacity, shape, seed=seed, **options)

    def sample(self, n: int, y: Tensor | None = None) -> Draw:
        """Draws the initial states of n chains, and returns those of this rank's part of them.

        Args:
            n: number of states of the whole batch.
            y: (n,) int64 classes of the whole batch, on the host.

        Returns:
            The states of this rank, and slots and freshness of the whole batch, on the host.
        """
        return super().sample(n, y)

    def store(
        self, x: Tensor, slots: Tensor | None = None, y: Tensor | None = None, velocity: Tensor | None = None
    ) -> None:
        """Stores the last states of the chains that were drawn last.

        Args:
            x, velocity: those of this rank's part.
            slots, y: of the whole batch, on the host, as for `ReplayBuffer.store`.
        """
        super().store(x, slots, y, velocity)

    def state_dict(self) -> dict[str, Any]:
        """Returns the whole state of the buffer on rank 0, with tensors in the memory of its host; elsewhere "values"
        and "velocities" are missing. `load_state_dict` takes the whole state, of any number of ranks or of a
        `ReplayBuffer`.
        """
        state = super().state_dict()
        parts = [len(rows) for rows in self._ranks.parts(self.capacity)]
        whole: dict[str, Any] = {}
        for name in ("values", "velocities"):
            if name in state and (rows := self._ranks.collect(state.pop(name), parts)) is not None:
                whole[name] = rows
        return {**whole, **state}

    def _rows(self) -> range:
        return self._ranks.part(self.capacity)

    def _device_of_slots(self) -> torch.device:
        return torch.device("cpu")

    def _batch_size(self, x: Tensor) -> int:
        mine = self._ranks.part(self._n)
        if not self._n:
            raise ValueError("x must hold last states of the chains that `sample` drew, but nothing has been drawn")
        if len(x) != len(mine):
            raise ValueError(
                f"x must hold this rank's {len(mine)} of the {self._n} states that the last draw was of, got {len(x)}"
            )
        return self._n

    def _draw(self, n: int, y: Tensor | None, seed: int | Tensor, step: int | Tensor) -> Draw:
        self._n, chains = n, self._ranks.part(n)
        with torch.inference_mode(False), torch.no_grad():
            slots, fresh = self._slots.draw(n, y, seed, step)
            route = self._route(torch.where(fresh, -1, self._owners(slots)))
            from_rows = to_device(slots[route.here] - self._rows().start, self.device)
            to_chains = to_device(route.mine - chains.start, self.device)

            def drawn(rows: Tensor) -> Tensor:
                """Of what is stored what the chains of this rank have drawn, zeros where they are fresh."""
                found = self._ranks.exchange(rows.index_select(0, from_rows), route.of_ranks, route.on_ranks)
                of_chains = torch.zeros((len(chains), *self.shape), dtype=rows.dtype, device=self.device)
                return of_chains.index_copy_(0, to_chains, found)

            is_fresh = self._like_states(to_device(fresh[chains.start : chains.stop], self.device))
            stored = self._decoded(drawn(self._values), chains.start, seed, step)
            x = torch.where(is_fresh, self._fresh(chains, seed, step), stored)
            velocity = None
            if self._velocities is not None:
                velocity = torch.where(is_fresh, math.nan, drawn(self._velocities))
        return Draw(x, slots, fresh, velocity)

    def _keep(
        self,
        x: Tensor,
        velocity: Tensor | None,
        slots: Tensor | None,
        y: Tensor | None,
        seed: int | Tensor,
        step: int | Tensor,
    ) -> None:
        n, chains = self._n, self._ranks.part(self._n)
        with torch.inference_mode(False), torch.no_grad():
            if slots is None:
                slots = self._slots.place(n, y, seed, step)
            slots = self._slots.last_of_each(slots)
            route = self._route(torch.where(slots == self.capacity, -1, self._owners(slots)))
            from_chains = to_device(route.mine - chains.start, self.device)
            to_rows = to_device(slots[route.here] - self._rows().start, self.device)
            for rows, kept in self._pairs(self._encoded(x), velocity):
                found = self._ranks.exchange(kept.index_select(0, from_chains), route.on_ranks, route.of_ranks)
                rows.index_copy_(0, to_rows, found)

    def _owners(self, slots: Tensor) -> Tensor:
        """The rank that has each slot."""
        ends = torch.tensor([rows.stop for rows in self._ranks.parts(self.capacity)])
        return torch.searchsorted(ends, slots, right=True)

    def _route(self, owners: Tensor) -> Route:
        """Which states change ranks, for the owners (n,) of the slots of a batch of chains; -1: none."""
        lengths = torch.tensor([len(chains) for chains in self._ranks.parts(len(owners))])
        rank_of_chain = torch.arange(self._ranks.size).repeat_interleave(lengths)
        chains = self._ranks.part(len(owners))
        of_mine, order = owners[chains.start : chains.stop].sort(stable=True)
        here = (owners == self._ranks.rank).nonzero()[:, 0]
        counts = (of_mine[of_mine >= 0], rank_of_chain[here])
        on_ranks, of_ranks = (ranks.bincount(minlength=self._ranks.size).tolist() for ranks in counts)
        return Route(chains.start + order[of_mine >= 0], on_ranks, here, of_ranks)
