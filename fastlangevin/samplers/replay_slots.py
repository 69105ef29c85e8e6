"""Which slots of a replay buffer are drawn, and which new states are stored in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .. import noise
from ..noise import Stream

Policy = Literal["fifo", "reservoir", "indexed"]
POLICIES = ("fifo", "reservoir", "indexed")


class Slots:
    """The slots 0 … capacity - 1 of a buffer, divided evenly among classes.

    What it returns depends on the arguments and on the numbers of states stored before alone, not on the device.

    Attributes:
        counts: int64 (number of classes,), the number of states of each class that have ever been stored.
        part: number of slots of a class.
        reinit: the probability of a draw from p0.
    """

    def __init__(self, capacity: int, n_classes: int, policy: Policy, reinit: float, device: torch.device) -> None:
        self.capacity, self.part, self.policy, self.reinit = capacity, capacity // n_classes, policy, reinit
        self.counts = torch.zeros(n_classes, dtype=torch.int64, device=device)

    @property
    def device(self) -> torch.device:
        return self.counts.device

    def __len__(self) -> int:
        """The number of stored states. Synchronises with the device."""
        return int(self.counts.clamp(max=self.part).sum())

    def draw(self, n: int, y: Tensor | None, seed: int | Tensor, step: int | Tensor) -> tuple[Tensor, Tensor]:
        """Returns n slots, uniform over the stored states (of the classes y), and whether each is drawn from p0."""
        u = self.uniform((n, 3), seed, step)
        stored = self.counts.clamp(max=self.part)
        if y is None:
            ends = stored.cumsum(0)
            index = _scaled(u, ends[-1])
            y = torch.searchsorted(ends, index, right=True).clamp_(max=len(ends) - 1)
            index = index - (ends - stored).gather(0, y)
            n_stored = ends[-1]
        else:
            n_stored = stored.gather(0, y)
            index = _scaled(u, n_stored)
        return y * self.part + index, (u[:, 2] < self.reinit) | (n_stored == 0)

    def place(self, n: int, y: Tensor | None, seed: int | Tensor, step: int | Tensor) -> Tensor:
        """The slots that the policy selects for n new states; `capacity` for those that are dropped."""
        if y is None:
            y = torch.zeros(n, dtype=torch.int64, device=self.device)
        is_of_class = y[:, None] == torch.arange(len(self.counts), device=self.device)
        rank = is_of_class.cumsum(0).gather(1, y[:, None])[:, 0] - 1  # among the states of one class in x
        count = self.counts.gather(0, y) + rank
        self.counts += is_of_class.sum(0)
        if self.policy == "fifo":
            return y * self.part + count % self.part
        place = torch.where(count < self.part, count, _scaled(self.uniform((n, 2), seed, step), count + 1))
        return torch.where(place < self.part, y * self.part + place, self.capacity)

    def last_of_each(self, slots: Tensor) -> Tensor:
        """Replaces each slot that occurs again later by `capacity`, so that the result does not depend on the order of
        writes, which a device does not define.
        """
        ordered, order = torch.sort(slots, stable=True)
        is_last = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=is_last[:-1])
        return torch.empty_like(slots).scatter_(0, order, torch.where(is_last, ordered, self.capacity))

    def uniform(self, shape: Sequence[int], seed: int | Tensor, step: int | Tensor) -> Tensor:
        return noise.uniform(shape, seed=seed, step=step, stream=Stream.REPLAY_BUFFER, device=self.device)


def _scaled(u: Tensor, end: Tensor) -> Tensor:
    """⌊end·u⌋ for each row of u, whose first two numbers form a uniform of 48 bits. end: (n,) or a single number."""
    return ((u[:, 0].double() + u[:, 1].double() * 2.0**-24) * end).long()
