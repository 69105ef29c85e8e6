"""Ctrl-C and SIGTERM, deferred until a training can stop cleanly."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stop:
    """Set by the first SIGINT or SIGTERM; the second one has its usual effect."""

    signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def raise_again(self) -> None:
        """Raises what the signal stands for: KeyboardInterrupt, or SystemExit(143)."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Handles both signals in the body; outside the main thread, where Python allows no handlers, it does nothing."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

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
