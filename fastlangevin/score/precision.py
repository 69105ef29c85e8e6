"""The precision that the network runs in. The state and the update always keep the state's dtype."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

from ..validation import unknown

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check(precision: str, device: torch.device | None = None) -> str:
    """Returns the precision's name, or raises if it is unknown or, given a device, not available there."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "tf32" and device is not None and device.type != "cuda":
        raise ValueError(f"precision='tf32' is a mode of NVIDIA GPUs, but the chain runs on {device.type}")
    return precision


@contextlib.contextmanager
def running(precision: str, device: torch.device) -> Iterator[None]:
    """Runs the body with the float32 flags of `precision`, without the caller's autocast, and restores both.

    "fp32" is strict: no TF32 on a GPU, no bfloat16 shortcut on a CPU.
    """
    check(precision, device)
    callers = autocast("fp32", device) if torch.is_autocast_enabled(device.type) else contextlib.nullcontext()
    with _flags(device.type).hold("tf32" if precision == "tf32" else "ieee"), callers:
        yield


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """torch's autocast for "bf16" and "fp16", without its weight cache, which would outlive an optimiser step; for the
    others autocast is off.
    """
    dtype = HALF.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)


class _Float32Flags:
    """torch's float32 precision flags of one device type. They are process-wide, so all threads share them.

    The first holder of a mode sets the flags and the last restores them. A thread that needs another mode meanwhile
    waits, unless it is a holder itself (an energy that runs a chain); then the flags change for that time.
    """

    def __init__(self, switches: tuple[Any, ...]) -> None:
        self._switches = switches
        self._free = threading.Condition()
        self._mode: str | None = None
        self._holders: list[int] = []
        self._before: list[str] = []

    @contextlib.contextmanager
    def hold(self, mode: str) -> Iterator[None]:
        me = threading.get_ident()
        with self._free:
            self._free.wait_for(lambda: self._mode in (None, mode) or me in self._holders)
            outer = self._mode
            if outer is None:
                self._before = [switch.fp32_precision for switch in self._switches]
            self._set(mode)
            self._holders.append(me)
        try:
            yield
        finally:
            with self._free:
                self._holders.remove(me)
                if self._holders:
                    self._set(outer or mode)
                else:
                    for switch, old in zip(self._switches, self._before, strict=True):
                        if switch.fp32_precision != old:
                            switch.fp32_precision = "none"  # follows the parent again, if it did before
                        if switch.fp32_precision != old:
                            switch.fp32_precision = old
                    self._mode = None
                self._free.notify_all()

    def _set(self, mode: str) -> None:
        self._mode = mode
        for switch in self._switches:
            # "none" is torch's default, ieee; leaving it leaves torch's older names for these flags readable.
            if switch.fp32_precision != mode and not (mode == "ieee" and switch.fp32_precision == "none"):
                switch.fp32_precision = mode


_backends: Any = torch.backends
_CUDA = _Float32Flags((_backends.cuda.matmul, _backends.cudnn.conv, _backends.cudnn.rnn))
_CPU = _Float32Flags((_backends.mkldnn.matmul, _backends.mkldnn.conv))
_NONE = _Float32Flags(())


def _flags(device_type: str) -> _Float32Flags:
    return {"cuda": _CUDA, "cpu": _CPU}.get(device_type, _NONE)
