"""A stand-in for what torch keeps of a capture: the stream, the allocator's pools and the state of the generator.

As in `aten/src/ATen/cuda/CUDAGraph.cpp` and `CUDAGeneratorImpl.cpp` of torch 2.11, a capture that the driver has
invalidated fails in `capture_end` before it ends the allocator's part and the generator's.
"""

from __future__ import annotations

import collections

import torch


class FakeCuda:
    """Installed by `install`; tensors are on the CPU.

    Attributes:
        current: the name of the current stream.
        capturing: the stream that is captured, or None.
        invalid: whether the driver has invalidated the capture.
        recording: pools that take all allocations, by the captures underway.
        references: how many graphs hold each pool.
        generator_captures: whether the generator expects to draw inside of a capture.
    """

    def __init__(self):
        self.current, self.capturing, self.invalid = "default", None, False
        self.recording, self.references = [], collections.Counter()
        self.generator_captures = False
        self._streams = 0

    def install(self, monkeypatch):
        for name in ("synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self._end_recording)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self._release)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
        monkeypatch.setattr(torch.cuda, "Stream", self._new_stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: _Stream(self.current))
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: _OnStream(self, stream))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: _Graph(self))
        monkeypatch.setattr(torch, "rand", self._rand)
        return self

    def synchronize(self, device=None):
        """As any forbidden call, it invalidates a capture."""
        if self.capturing:
            self.invalid = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    def empty_cache(self):
        assert not self.recording

    def _rand(self, *shape, device=None):
        if self.generator_captures != (self.current == self.capturing):
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        return torch.zeros(shape)

    def _new_stream(self, device=None):
        self._streams += 1
        return _Stream(f"stream {self._streams}")

    def _end_recording(self, device, pool):
        if pool not in self.recording:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recording.remove(pool)

    def _release(self, device, pool):
        self.references[pool] -= 1


class _Stream:
    def __init__(self, name):
        self.name = name

    def wait_stream(self, other): ...


class _OnStream:
    """A class, as in torch: `torch.cuda.graph` does not leave its stream if the end of the capture raises."""

    def __init__(self, cuda, stream):
        self._cuda, self._stream = cuda, stream

    def __enter__(self):
        self._before, self._cuda.current = self._cuda.current, self._stream.name

    def __exit__(self, *error):
        self._cuda.current = self._before


class _Graph:
    def __init__(self, cuda):
        self._cuda, self._pool, self._ended = cuda, object(), False

    def capture_begin(self, pool=None, capture_error_mode="global", check_input_liveness=False):
        cuda = self._cuda
        assert cuda.capturing is None and cuda.current != "default"
        self._pool = pool or self._pool
        if self._pool in cuda.recording:
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        cuda.generator_captures = True
        cuda.recording.append(self._pool)
        cuda.references[self._pool] += 1
        cuda.capturing = cuda.current

    def capture_end(self):
        cuda = self._cuda
        assert cuda.current == cuda.capturing
        cuda.capturing, invalid, cuda.invalid = None, cuda.invalid, False
        if invalid:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture\nmore")
        cuda._end_recording(0, self._pool)
        cuda.generator_captures = False
        self._ended = True

    def reset(self):
        if self._ended:
            self._cuda._release(0, self._pool)
        self._ended = False

    __del__ = reset

    def replay(self):
        assert self._ended
