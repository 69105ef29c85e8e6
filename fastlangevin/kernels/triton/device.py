"""The device that kernels are launched on."""

from __future__ import annotations

import contextlib

import torch
import triton


def on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which `device` is current: Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def shared_memory(device: torch.device | None) -> int:
    """The bytes of shared memory that a program may have on a GPU, 99 to 227 KiB from 8.0 to 12.0. For the interpreter
    those of an H100.
    """
    if device is None or device.type == "cpu":
        return 227 << 10
    return triton.runtime.driver.active.utils.get_device_properties(device.index)["max_shared_mem"]
