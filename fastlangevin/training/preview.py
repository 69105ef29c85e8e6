"""The picture of a training: samples of the current network, above a row of the data."""

from __future__ import annotations

import contextlib
import functools

import torch
from torch import Tensor

from ..distributed.sharded_module import ShardedAverage
from ..runs.folder import RunFolder
from ..samplers.preserve import aside
from .state import TrainingState

_PREVIEW, _SHOWN = 64, 8  # samples and data items


class Preview:
    """Draws samples of a training's network, always from the same initial noise."""

    def __init__(self, state: TrainingState) -> None:
        self._state = state

    def draw(self, run: RunFolder | None) -> None:
        """Writes the picture.

        Rank 0 draws all samples and the others do not call it. Of a sharded network all ranks call it, and each draws
        its part.

        Args:
            run: None on the ranks that do not write.
        """
        state = self._state
        sampler = state.for_sampling(graph=False)  # capturing a graph costs more than one picture saves
        n, columns, classes = self._classes()
        parts = state.ranks.parts(n) if state.is_sharded else [range(n)]
        part = parts[state.ranks.rank]
        # Of more ranks than samples some have no part, but run a chain, because the others need their weights.
        chains = range(part.start, part.stop) if part else range(n - 1, n)
        average = state.averaged
        averaged = average.applied() if isinstance(average, ShardedAverage) else contextlib.nullcontext()
        with aside(sampler.target.module, state.device), averaged:
            sampler.load_state_dict({**sampler.state_dict(), "seed": state.settings.seed})
            with state.all_finite(sampler):
                x = sampler.sample(
                    (len(chains), *state.data.event_shape),
                    *(y[chains.start : chains.stop] for y in classes),
                    step=0,
                    chain_offset=chains.start,
                    device=state.device,
                )
        drawn = state.ranks.collect(x[: len(part)], [len(p) for p in parts]) if state.is_sharded else x
        if run is not None and drawn is not None:
            run.write_samples(drawn, self._data, state.settings.range, columns)

    def _classes(self) -> tuple[int, int | None, tuple[Tensor, ...]]:
        """The number of samples, the columns, and their classes: one to a column, if they are few."""
        n_classes = self._state.settings.n_classes
        if n_classes is None:
            return _PREVIEW, None, ()
        columns = n_classes if n_classes <= 2 * _SHOWN else _SHOWN
        n = _SHOWN * columns
        return n, columns, (torch.arange(n, device=self._state.device) % n_classes,)

    @functools.cached_property
    def _data(self) -> Tensor:
        """Items spread over the data, or one of each class."""
        data, n_classes = self._state.data, self._state.settings.n_classes
        n, labels = self._classes()[1] or _SHOWN, data.labels
        indices = torch.arange(n, device="cpu") * len(data) // n
        if n_classes == n and labels is not None:
            first = [(labels == y).nonzero().flatten()[:1] for y in range(n)]
            indices = torch.stack(
                [found[0] if len(found) else index for found, index in zip(first, indices, strict=True)]
            )
        return self._state.items(indices)
