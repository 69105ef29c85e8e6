"""Rows of metrics whose values are still being copied from the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..transfer import ToHost


class PendingRows:
    """Shows rows in order once their values are on the host: immediately on a CPU, later on CUDA."""

    def __init__(self, show: Callable[[dict[str, Any]], None]) -> None:
        self._show = show
        self._rows: deque[tuple[dict[str, Any], tuple[str, ...], ToHost]] = deque()

    def add(
        self,
        iteration: int,
        seconds: float,
        lr: float,
        energy_data: Tensor,
        energy_samples: Tensor,
        of_chains: Mapping[str, Tensor],
    ) -> None:
        """Queues a row. Its values are 0-d tensors on one device, which are not read here.

        Args:
            of_chains: other values, by name.
        """
        numbers = torch.stack([energy_data, energy_samples, *of_chains.values()])
        known = {"iteration": iteration, "lr": lr, "seconds": seconds}
        self._rows.append((known, tuple(of_chains), ToHost(numbers)))

    def show_arrived(self) -> None:
        """Shows the rows whose values have arrived, without waiting."""
        while self._rows and self._rows[0][2].arrived():
            self._show_first()

    def show_all(self) -> None:
        """Shows all rows. Waits for those that have not arrived."""
        while self._rows:
            self._show_first()

    def forget(self) -> None:
        """Drops the rows that have not been shown."""
        self._rows.clear()

    def _show_first(self) -> None:
        known, names, numbers = self._rows.popleft()
        energy_data, energy_samples, *others = numbers.value().tolist()
        self._show(
            {
                "iteration": known["iteration"],
                "energy_data": energy_data,
                "energy_samples": energy_samples,
                "energy_gap": energy_data - energy_samples,
                **dict(zip(names, others, strict=True)),
                "lr": known["lr"],
                "seconds": known["seconds"],
            }
        )
