"""Copies of tensors between host and GPU that do not synchronize."""

from __future__ import annotations

import torch
from torch import Tensor


def with_index(device: torch.device) -> torch.device:
    """The device as tensors on it name it: "cuda" is the current GPU, and "cpu:0" the CPU."""
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Returns x on `device`. A copy from the host to a GPU goes through pinned memory and is asynchronous."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


class ToHost:
    """A copy of a tensor to the host: from CUDA an asynchronous one to pinned memory with an event, else x itself."""

    def __init__(self, x: Tensor) -> None:
        self._value, self._event = x, None
        if x.is_cuda:
            self._value = torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=True)
            self._value.copy_(x, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(x.device))

    @property
    def is_asynchronous(self) -> bool:
        """Whether `value` may have to wait."""
        return self._event is not None

    def arrived(self) -> bool:
        """Whether `value` returns without waiting."""
        return self._event is None or self._event.query()

    def value(self) -> Tensor:
        """Waits for the copy and returns the tensor on the host."""
        if self._event is not None:
            self._event.synchronize()
        return self._value
