"""The backends, one row each. To add one, add a row here, a row to the tests' parametrisation, and a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BackendUnavailable
from ..validation import unknown
from . import native, reference, triton
from .arguments import UpdateArgs
from .cpu import update as cpu
from .operators import Operators


@dataclass(frozen=True)
class Backend:
    """One implementation of the noise stream and of the update.

    Attributes:
        device: the device type that its kernels run on, or None for any.
        load: prepares its kernels, at the first call by compiling or loading a library. Returns why they cannot run,
            or None.
        update: `(x, score, args) -> None`, in place.
        fill: `(out, seed, step, stream, offset, uniform) -> None`, into contiguous float32.
    """

    name: str
    device: str | None
    load: Callable[[], str | None]
    update: Callable[[Tensor, Tensor | None, UpdateArgs], None]
    fill: Callable[..., None]

    def unsupported(self, device: torch.device | None = None) -> str | None:
        """Why it does not support tensors on `device` (None: its own device), or None if it does."""
        if device is not None and self.device not in (None, device.type):
            return f"its kernels run on {self.device} tensors, not on {device.type}"
        return self.load()


_cuda = Operators("cuda")

# In order of preference: "auto" selects the first that supports the device.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("cuda", "cuda", native.load_cuda, _cuda.update, _cuda.fill),
        Backend("cpu", "cpu", native.load_cpu, cpu.update, cpu.operators.fill),
        Backend("triton", triton.DEVICE, triton.unsupported, triton.operators.update, triton.operators.fill),
        Backend("reference", None, lambda: None, reference.update, reference.fill),
    )
}


def select(name: str | None, device: torch.device) -> Backend:
    """The backend called `name`, or for None and "auto" the fastest that supports `device`.

    Raises:
        ValueError: no backend has this name.
        BackendUnavailable: the requested backend does not support `device`; the message gives the reason.
    """
    if name in (None, "auto"):
        kind = device.type
        for backend in BACKENDS.values():  # "reference" at the latest
            if (backend.device == kind or backend.device is None) and backend.load() is None:
                return backend
    if name not in BACKENDS:
        raise unknown("backend", name, ("auto", *BACKENDS))
    why = BACKENDS[name].unsupported(device)
    if why:
        raise BackendUnavailable(f"backend={name!r} cannot be used: {why}")
    return BACKENDS[name]
