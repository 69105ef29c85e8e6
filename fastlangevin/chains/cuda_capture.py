"""Captures work of one CUDA device as a graph. What cannot be captured is detected before the capture."""

from __future__ import annotations

import contextlib
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_WARM_UPS = 3


class NotCapturable(RuntimeError):
    """The work cannot be captured; the message gives the reason."""


def being_captured() -> bool:
    """Whether the current stream is being captured, so that the host must not synchronize."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


class CudaCapture:
    """Graphs of one chain on one device. They share a memory pool, because no two of them run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)
        self._done: torch.cuda.Event | None = None

    def warm_up(self, work: Callable[[], None], buffers: list[Tensor]) -> None:
        """Runs the work a few times on the stream of the capture, so that libraries choose algorithms and Triton and
        inductor compile. Leaves `buffers` unchanged.

        Raises:
            NotCapturable: the work makes the host wait for the device, or changes `buffers`.
        """
        before = [(b, b.clone()) for b in buffers]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS - 1):
                    work()
                waits = _waits(work)
        finally:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            # By value: batch norm updates its averages without increasing autograd's version counter.
            changed = not all(torch.equal(buffer.nan_to_num(), value.nan_to_num()) for buffer, value in before)
            for buffer, value in before if changed else ():
                buffer.copy_(value)
        if changed:
            raise NotCapturable(
                "an evaluation changes the network's buffers, as batch norm and spectral norm do in train mode"
            )
        if waits:
            raise NotCapturable(
                "an evaluation makes the host wait for the GPU (.item(), .cpu(), nonzero, or a branch on a value)"
            )

    def rehearse(self, work: Callable[[], None], watch: bool) -> bool:
        """Runs the work once on the stream of the capture. Returns whether it made the host wait, if `watch`."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                if watch:
                    return _waits(work)
                work()
                return False
        finally:
            current.wait_stream(self._stream)

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """Captures the body as a graph. Calling the result replays it on the current stream.

        Raises:
            NotCapturable: the capture failed. torch then works as before.
        """
        graph = torch.cuda.CUDAGraph()
        # Other threads (a loader that pins memory) may continue with operations that a capture forbids.
        capturing = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        try:
            # The outer context restores the caller's stream, which a capture that fails at its end does not.
            with torch.cuda.stream(torch.cuda.current_stream(self._device)), capturing:
                body()
        except BaseException as error:
            _abandon(graph, self._pool, self._device)
            if not isinstance(error, RuntimeError):
                raise
            raise NotCapturable(f"the capture failed: {str(error).splitlines()[0]}") from error
        return graph.replay

    def time(self, run: Callable[[], None]) -> float:
        """Median milliseconds of the work, which must have been captured."""
        times = []
        stream = torch.cuda.current_stream(self._device)
        for _ in range(4):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record(stream)
            run()
            end.record(stream)
            end.synchronize()
            times.append(start.elapsed_time(end))
        return statistics.median(times[1:])

    def upload(self, values: Tensor, to: Tensor) -> None:
        """Copies host values to the device without waiting; torch frees the pinned copy after use."""
        to.copy_(values.pin_memory(), non_blocking=True)

    def begin(self) -> None:
        """Called before a replay: the device waits for the last one, which may have been on another stream."""
        if self._done is not None:
            torch.cuda.current_stream(self._device).wait_event(self._done)

    def end(self) -> None:
        self._done = torch.cuda.current_stream(self._device).record_event()

    def wait(self) -> None:
        if self._done is not None:
            self._done.synchronize()


_abandoned: list[torch.cuda.CUDAGraph] = []  # torch's pinned memory allocator may keep a pointer to them


def _abandon(graph: torch.cuda.CUDAGraph, pool: Any, device: torch.device) -> None:
    """Ends what a failed capture leaves underway in torch.

    After a capture that the driver has invalidated, `CUDAGraph.capture_end` raises before its other duties: the pool
    would go on taking allocations, and the generator would refuse to draw outside of a capture.
    """
    torch.cuda.synchronize(device)
    with contextlib.suppress(RuntimeError):  # the pool's part has been ended
        torch._C._cuda_endAllocateToPool(device.index, pool)
        torch._C._cuda_releasePool(device.index, pool)
    graph.reset()
    _abandoned.append(graph)
    # The end of any capture is the end of the generator's.
    one, stream = torch.zeros(1, device=device), torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    another = torch.cuda.CUDAGraph()
    with torch.cuda.graph(another, stream=stream, capture_error_mode="thread_local"):
        one.zero_()
    torch.rand(1, device=device)  # raises if it is not


def _waits(work: Callable[[], None]) -> bool:
    """Whether the host waits for the device within the work, according to torch's sync debug mode."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return any("synchronizing CUDA operation" in str(w.message) for w in seen)
