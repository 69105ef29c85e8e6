"""Ctrl-C, SIGTERM and SIGHUP, deferred until training can stop cleanly."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stop:
    """Set by the first of these signals. A second one has its default effect."""

    signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def raise_again(self) -> None:
        """Raises the exception of the signal: KeyboardInterrupt for SIGINT, SystemExit(128 + its number) for others."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Handles the signals in the body. Outside the main thread, where Python allows no handlers, it has no effect.

    A SIGHUP that is ignored, as by nohup, stays ignored.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    if before.get(getattr(signal, "SIGHUP", None)) == signal.SIG_IGN:
        del before[signal.SIGHUP]

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.signal = signal.Signals(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        restore()
