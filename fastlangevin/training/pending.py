"""Rows of metrics whose values are still being copied from the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..transfer import ToHost


class PendingRows:
    """Shows rows in order once their values are on the host: immediately on a CPU, later on CUDA."""

    def __init__(self, show: Callable[[dict[str, Any]], None]) -> None:
        self._show = show
        self._rows: deque[tuple[int, float, float, ToHost]] = deque()

    def add(
        self,
        iteration: int,
        seconds: float,
        lr: float,
        energy_data: Tensor,
        energy_samples: Tensor,
        score_norm: Tensor,
        gradient_strength: Tensor,
    ) -> None:
        """Queues a row. Its values are 0-d tensors on one device, which are not read here."""
        numbers = torch.stack([energy_data, energy_samples, score_norm, gradient_strength])
        self._rows.append((iteration, seconds, lr, ToHost(numbers)))

    def show_arrived(self) -> None:
        """Shows the rows whose values have arrived, without waiting."""
        while self._rows and self._rows[0][3].arrived():
            self._show_first()

    def show_all(self) -> None:
        """Shows all rows. Waits for those that have not arrived."""
        while self._rows:
            self._show_first()

    def forget(self) -> None:
        """Drops the rows that have not been shown."""
        self._rows.clear()

    def _show_first(self) -> None:
        iteration, seconds, lr, numbers = self._rows.popleft()
        energy_data, energy_samples, score_norm, gradient_strength = numbers.value().tolist()
        self._show(
            {
                "iteration": iteration,
                "energy_data": energy_data,
                "energy_samples": energy_samples,
                "energy_gap": energy_data - energy_samples,
                "score_norm": score_norm,
                "gradient_strength": gradient_strength,
                "lr": lr,
                "seconds": seconds,
            }
        )
