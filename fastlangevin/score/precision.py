"""The precision that the network runs in. The state and the update always keep the state's dtype."""

from __future__ import annotations

import contextlib
import threading
import warnings
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


class Running(contextlib.AbstractContextManager[None]):
    """Runs the body with the float32 flags of `precision`, without the caller's autocast, and restores both.

    "fp32" is strict: no TF32 on a GPU, no bfloat16 shortcut on a CPU. Flags that have the values already are left
    alone, before and after the body.

    Args:
        differentiates: False: the body also runs without gradients, and outside of inference mode, whose tensors
            autograd cannot save.
    """

    def __init__(self, precision: str, device: torch.device, differentiates: bool = True) -> None:
        check(precision, device)
        self._modes: list[tuple[_Float32Flags, str]] = []
        if device.type in ("cpu", "cuda"):
            self._modes.append((_CPU, "ieee"))
        if device.type == "cuda":
            self._modes.append((_CUDA, "tf32" if precision == "tf32" else "ieee"))
        self._outer: list[str | None] = []
        self._others: list[contextlib.AbstractContextManager[object]] = []
        if not differentiates:
            if torch.is_inference_mode_enabled():
                self._others.append(torch.inference_mode(False))
            self._others.append(torch.no_grad())
        if torch.is_autocast_enabled(device.type):
            self._others.append(autocast("fp32", device))
        self._entered = 0

    def __enter__(self) -> None:
        try:
            for flags, mode in self._modes:
                self._outer.append(flags.acquire(mode))
            for context in self._others:
                context.__enter__()
                self._entered += 1
        except BaseException:  # Ctrl-C while it waits for another thread
            self.__exit__(None, None, None)
            raise

    def __exit__(self, *error: Any) -> None:
        while self._entered:
            self._entered -= 1
            self._others[self._entered].__exit__(*error)
        while self._outer:
            flags, mode = self._modes[len(self._outer) - 1]
            flags.release(mode, self._outer.pop())


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
        self._waiting = 0
        self._mode: str | None = None
        self._holders: list[int] = []
        self._before: list[str] = []
        self._now: list[str] = []  # as they were last read or set
        self._changed = False

    def acquire(self, mode: str) -> str | None:
        """Sets the flags, and returns the mode that `release` needs."""
        me = threading.get_ident()
        with self._free:
            while not (self._mode is None or self._mode == mode or me in self._holders):
                self._waiting += 1
                try:
                    self._free.wait()
                finally:
                    self._waiting -= 1
            outer = self._mode
            if outer is None:
                self._save()
            if outer != mode:
                self._set(mode)
            self._mode = mode
            self._holders.append(me)
        return outer

    def release(self, mode: str, outer: str | None) -> None:
        with self._free:
            self._holders.remove(threading.get_ident())
            if not self._holders:
                if self._changed:
                    self._restore()
                self._mode = None
            elif outer not in (None, mode):
                self._set(outer)
                self._mode = outer
            if self._waiting:
                self._free.notify_all()

    def _save(self) -> None:
        self._read()
        self._before, self._changed = [*self._now], False

    def _read(self) -> None:
        self._now = [switch.fp32_precision for switch in self._switches]

    def _set(self, mode: str) -> None:
        for i, current in enumerate(self._now):
            # "none" is torch's default, ieee. Flags that follow their parent are left alone if they have the value.
            if current != mode and not (mode == "ieee" and current == "none"):
                self._switches[i].fp32_precision = self._now[i] = mode
                self._changed = True

    def _restore(self) -> None:
        for switch, old in zip(self._switches, self._before, strict=True):
            _restore(switch, old)


class _CudaFlags(_Float32Flags):
    """Those of CUDA have older names too: `cudnn.allow_tf32`, `cuda.matmul.allow_tf32` and the precision of matrix
    products for all devices. torch keeps their values apart from the flags', and to read one raises an error where the
    two differ. So both are set. `_CPU` is held meanwhile: the older names also speak for its matrix products.
    """

    def __init__(self, switches: tuple[Any, ...]) -> None:
        super().__init__(switches)
        self._convolutions, self._products = False, "highest"  # the current values of the older names
        self._older = (self._convolutions, self._products)  # those to restore

    def _save(self) -> None:
        super()._save()
        for switch in self._switches:
            if switch.fp32_precision == "tf32":
                switch.fp32_precision = "ieee"
        self._changed = True
        try:
            self._convolutions = _backends.cudnn.allow_tf32
        except RuntimeError:  # it differs from the flags
            self._convolutions = True
        self._products = torch.get_float32_matmul_precision()
        self._older = (self._convolutions, self._products)

    def _set(self, mode: str) -> None:
        allowed = mode == "tf32"
        if self._convolutions != allowed:
            self._convolutions = _backends.cudnn.allow_tf32 = allowed
        if (self._products != "highest") != allowed:
            _backends.cuda.matmul.allow_tf32 = allowed
            self._products = "high" if allowed else "highest"
        self._read()
        super()._set(mode)

    def _restore(self) -> None:
        convolutions, products = self._older
        if self._convolutions != convolutions:
            _backends.cudnn.allow_tf32 = convolutions
            _backends.cudnn.conv.fp32_precision = _backends.cudnn.rnn.fp32_precision = "none"
        if self._products != products:
            on_cpu = _backends.mkldnn.matmul.fp32_precision
            torch.set_float32_matmul_precision(products)
            _restore(_backends.mkldnn.matmul, on_cpu)
            _backends.cuda.matmul.fp32_precision = "none"
        super()._restore()


def _restore(switch: Any, old: str) -> None:
    if switch.fp32_precision != old:
        switch.fp32_precision = "none"  # follows the parent again, if it did before
    if switch.fp32_precision != old:
        switch.fp32_precision = old


_backends: Any = torch.backends
_CPU = _Float32Flags((_backends.mkldnn.matmul, _backends.mkldnn.conv))
_CUDA = _CudaFlags((_backends.cuda.matmul, _backends.cudnn.conv, _backends.cudnn.rnn))
with warnings.catch_warnings(), contextlib.suppress(RuntimeError):
    warnings.simplefilter("ignore")
    torch.get_float32_matmul_precision()  # torch 2.11 warns once of the older names
