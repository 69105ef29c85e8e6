"""The backends, one row each. To add a kernel: a row here, a row in the tests' parametrisation, and a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import BackendUnavailable
from ..validation import unknown
from . import native, reference, triton
from .schemas import Operators


@dataclass(frozen=True)
class Backend:
    """One implementation of the noise stream and of the update.

    Attributes:
        device: the device type that its kernels run on, or None for any.
        unavailable: why it cannot run here, or None; may compile or load a library at its first call.
        update: `(x, score, step_size, noise_std, seed, step, stream, offset, grad_clip, lo, hi) -> None`, in place.
        fill: `(out, seed, step, stream, offset, uniform) -> None`, into contiguous float32.
    """

    name: str
    device: str | None
    unavailable: Callable[[], str | None]
    update: Callable[..., None]
    fill: Callable[..., None]

    def refuses(self, device: torch.device) -> str | None:
        """Why it cannot serve tensors on `device`, or None where it can."""
        if self.device not in (None, device.type):
            return f"its kernels run on {self.device} tensors, not on {device.type}"
        return self.unavailable()


_cpu, _cuda = Operators("cpu"), Operators("cuda")

# In order of preference: "auto" takes the first that can serve the device.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("cuda", "cuda", native.load_cuda, _cuda.update, _cuda.fill),
        Backend("cpu", "cpu", native.load_cpu, _cpu.update, _cpu.fill),
        Backend("triton", triton.DEVICE, triton.unavailable, triton.operators.update, triton.operators.fill),
        Backend("reference", None, lambda: None, reference.update, reference.fill),
    )
}


def select(name: str | None, device: torch.device) -> Backend:
    """The backend called `name`, or for None and "auto" the fastest that can serve `device`.

    Raises:
        ValueError: no backend has this name.
        BackendUnavailable: the one asked for cannot serve `device`; the message says why.
    """
    if name in (None, "auto"):
        return next(b for b in BACKENDS.values() if b.refuses(device) is None)
    if name not in BACKENDS:
        raise unknown("backend", name, ("auto", *BACKENDS))
    why = BACKENDS[name].refuses(device)
    if why:
        raise BackendUnavailable(f"backend={name!r} cannot be used: {why}")
    return BACKENDS[name]
