"""Times contenders on a GPU in interleaved rounds, and makes rows of the results."""

from __future__ import annotations

import time
from typing import Any

import torch
from timing import Call, paired_ratio

Row = dict[str, Any]


def failed(what: str, why: str) -> Row:
    return {"what": what, "failure": why.strip().splitlines()[0][:300]}


def times(contenders: dict[str, Call], rounds: int, calls: int = 1, warmup: int = 3) -> dict[str, list[float]]:
    """Seconds per call of each contender, round by round, with contenders alternating."""
    for call in contenders.values():
        for _ in range(warmup):
            call()
    torch.cuda.synchronize()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(calls):
                call()
            end.record()
            end.synchronize()
            seconds[name].append(begin.elapsed_time(end) / 1000 / calls)
    return seconds


def host_times(call: Call, rounds: int, calls: int, warmup: int = 3) -> list[float]:
    """Seconds per call until it returns, while the GPU works on those before: the host's share, round by round."""
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        seconds.append((time.perf_counter() - begin) / calls)
    return seconds


def captured(call: Call, n: int) -> Call:
    """Captures n calls as one CUDA graph, and returns its replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(n):
            call()
    return graph.replay


def ratio(baseline: list[float], ours: list[float], name: str) -> Row:
    """The ratio of the rounds' times, as part of a row."""
    value, quartiles = paired_ratio(baseline, ours)
    return {"ratio": value, "ratio_quartiles": quartiles, "ratio_to": name}
