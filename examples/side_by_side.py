"""Helpers of the examples that replace a sampler: timing of two implementations, distances of samples to the data."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor


def report_speed(what: str, theirs: Callable[[], object], ours: Callable[[], object], rounds: int = 9) -> None:
    """Prints the median times of both, measured alternately, so that a busy machine slows both equally."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, taken in zip((theirs, ours), times, strict=True):
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
    plain, fast = (1e3 * statistics.median(taken) for taken in times)
    print(
        f"{what}: {plain:.1f} ms with the plain loop, {fast:.1f} ms with fastlangevin, {plain / fast:.1f} times as fast"
    )


def report_samples(data: Tensor, **samples: Tensor) -> None:
    """Prints, for each set of samples, the average distance to the nearest item of the data."""
    for name, x in samples.items():
        distance = torch.cdist(x.flatten(1), data.flatten(1)).amin(1).mean()
        print(f"{name}: {distance:.2f} from the nearest digit on average")
