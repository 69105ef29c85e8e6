"""Tensors between host and GPU without making either wait for the other."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x on `device`; from the host to a GPU by way of pinned memory, so that the copy only joins the GPU's queue."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


class ToHost:
    """A tensor on its way to the host: on CUDA a copy into pinned memory and an event after it, else there already."""

    def __init__(self, x: Tensor) -> None:
        self._value, self._event = x, None
        if x.is_cuda:
            self._value = torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=True)
            self._value.copy_(x, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(x.device))

    def arrived(self) -> bool:
        """Whether `value` would return without waiting."""
        return self._event is None or self._event.query()

    def value(self) -> Tensor:
        """The tensor on the host; waits for it."""
        if self._event is not None:
            self._event.synchronize()
        return self._value
