"""The backends, one row each. To add one, add a row here, a row to the tests' parametrisation, and a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import BackendUnavailable
from ..validation import unknown
from . import native, reference, reference_moves, triton
from .arguments import MetropolisArgs, MetropolisMemory, Momentum, MoveArgs, UpdateArgs
from .cpu import update as cpu
from .move_operators import MoveOperators
from .operators import Operators


class Moves(NamedTuple):
    """The functions of `reference_moves`, or kernels with the same results."""

    velocity_move: Callable[[Tensor, Tensor, Tensor | None, Momentum, MoveArgs], None]
    mala_test: Callable[[Tensor, MetropolisMemory, Tensor, Tensor, Tensor, MetropolisArgs], None]
    hmc_test: Callable[[Tensor, MetropolisMemory, Tensor, Tensor, Tensor, Tensor, Momentum, MetropolisArgs], None]


@dataclass(frozen=True)
class Backend:
    """One implementation of the noise stream and of the update.

    Attributes:
        device: the device type that its kernels run on, or None for any.
        load: prepares its kernels, at the first call by compiling or loading a library. Returns why they cannot run,
            or None.
        update: `(x, score, args) -> None`, in place.
        fill: `(out, seed, step, stream, offset, uniform) -> None`, into contiguous float32.
        moves: those of samplers with velocities or a Metropolis test.
    """

    name: str
    device: str | None
    load: Callable[[], str | None]
    update: Callable[[Tensor, Tensor | None, UpdateArgs], None]
    fill: Callable[..., None]
    moves: Moves

    def unsupported(self, device: torch.device | None = None) -> str | None:
        """Why it does not support tensors on `device` (None: its own device), or None if it does."""
        if device is not None and self.device not in (None, device.type):
            return f"its kernels run on {self.device} tensors, not on {device.type}"
        return self.load()


def _moves(of: MoveOperators) -> Moves:
    return Moves(of.velocity_move, of.mala_test, of.hmc_test)


_cuda, _cuda_moves = Operators("cuda"), _moves(MoveOperators("cuda"))
_cpu_moves = _moves(MoveOperators("cpu"))
_triton, _triton_moves = triton.operators, _moves(triton.move_operators)
_in_torch = Moves(reference_moves.velocity_move, reference_moves.mala_test, reference_moves.hmc_test)

# In order of preference: "auto" selects the first that supports the device.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("cuda", "cuda", native.load_cuda, _cuda.update, _cuda.fill, _cuda_moves),
        Backend("cpu", "cpu", native.load_cpu, cpu.update, cpu.operators.fill, _cpu_moves),
        Backend("triton", triton.DEVICE, triton.unsupported, _triton.update, _triton.fill, _triton_moves),
        Backend("reference", None, lambda: None, reference.update, reference.fill, _in_torch),
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
