"""Detects divergence of training without synchronising with a GPU."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from ..data.ranges import Range
from ..errors import TrainingDiverged
from ..runs.settings import Settings
from ..transfer import ToHost
from .gap_history import GapHistory

_UNSETTLED = 100  # iterations in which the samples may all be far out from the first one on
_FAR = 10.0  # half-widths of the data's interval, where the state has no bounds


class Guard:
    """Checks each iteration's energies and samples: immediately on a CPU, after the next iteration on CUDA.

    Training has diverged if an energy is not finite, if the gap |mean U(x⁺) - mean U(x⁻)| exceeds `max_energy_gap` or
    is out of proportion to those before it (`GapHistory`, with c = `max_relative_gap`), or if at least the fraction
    `max_saturation` of the samples' values are saturated: on the bounds or, without bounds, farther from the centre of
    the data's interval than ten times its half-width. In the first 100 iterations they are allowed to be, as long as
    they have not been otherwise.
    """

    def __init__(
        self,
        history: GapHistory,
        bounds: Range | None,
        *,
        data_range: Range,
        max_energy_gap: float,
        max_relative_gap: float,
        max_saturation: float,
    ) -> None:
        self._max_gap, self._max_relative_gap = max_energy_gap, max_relative_gap
        self._max_saturation, self._history = max_saturation, history
        middle, half = (data_range[0] + data_range[1]) / 2, (data_range[1] - data_range[0]) / 2
        far = (middle - _FAR * half, middle + _FAR * half)
        self._limits = tuple(b if math.isfinite(b) else f for b, f in zip(bounds or far, far, strict=True))
        self._what = "on the bounds" if bounds else f"outside {far[0]:g} … {far[1]:g}"
        self._pending: deque[tuple[int, ToHost]] = deque()

    @classmethod
    def of(cls, settings: Settings, history: GapHistory, bounds: Range | None) -> Guard:
        """With the limits of a training."""
        return cls(
            history,
            bounds,
            data_range=settings.range,
            max_energy_gap=settings.max_energy_gap,
            max_relative_gap=settings.max_relative_gap,
            max_saturation=settings.max_saturation,
        )

    def watch(self, energy_data: Tensor, energy_samples: Tensor, x: Tensor) -> Tensor:
        """Of mean energies and samples what `look` takes: the energies, and the fraction of saturated values."""
        lo, hi = self._limits
        saturation = ((x <= lo) | (x >= hi)).float().mean()
        return torch.stack([energy_data.float(), energy_samples.float(), saturation])

    def look(self, iteration: int, watched: Tensor) -> None:
        """Queues what `watch` returned of an iteration, and checks it on a CPU; on CUDA that of the iteration before.

        Not what has arrived by chance: all ranks of a training stop at one iteration.

        Raises:
            TrainingDiverged: with the iteration and advice.
        """
        values = ToHost(watched)
        self._pending.append((iteration, values))
        while len(self._pending) > int(values.is_asynchronous):
            self._check_first()

    def look_at_all(self) -> None:
        """Waits for all pending values and checks them."""
        while self._pending:
            self._check_first()

    def forget(self) -> None:
        self._pending.clear()

    def _check_first(self) -> None:
        iteration, numbers = self._pending.popleft()
        data, samples, saturation = numbers.value().tolist()
        gap = data - samples
        if gap != gap or abs(gap) == float("inf"):
            raise TrainingDiverged(
                f"the energies are not finite (data {data:g}, samples {samples:g})",
                "lower lr or the sampler's step_size, or set grad_clip, max_grad_norm or energy_penalty",
                iteration,
            )
        n_above = self._history.add(gap, self._max_relative_gap)
        if abs(gap) > self._max_gap:
            raise TrainingDiverged(
                f"the energies of data and samples are {gap:+.4g} apart (max_energy_gap={self._max_gap:g})",
                "lower lr, raise energy_penalty or data_noise, or raise max_energy_gap if this is expected",
                iteration,
                since=iteration - max(n_above - 1, 0),
            )
        if n_above:
            limit = self._history.limit(self._max_relative_gap)
            raise TrainingDiverged(
                f"the energies of data and samples are {gap:+.4g} apart, and have been more than {limit:.4g} apart for "
                f"{n_above} iterations, which is far outside the run's own history "
                f"(max_relative_gap={self._max_relative_gap:g})",
                "lower lr, raise energy_penalty or data_noise, or raise max_relative_gap if this is expected",
                iteration,
                since=iteration - n_above + 1,
            )
        if saturation < self._max_saturation:
            self._history.is_settled = True
        elif self._history.is_settled or iteration > _UNSETTLED:
            raise TrainingDiverged(
                f"{saturation:.1%} of the samples' values are {self._what} (max_saturation={self._max_saturation:g})",
                "lower the sampler's step_size or lr, or set grad_clip; max_saturation=inf if this is expected",
                iteration,
            )
