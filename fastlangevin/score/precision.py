"""What the network runs in. The state and the update keep the state's own type whatever is chosen here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..errors import unknown

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check(precision: str, device: torch.device | None = None) -> str:
    """The precision's name, or an error: unknown, or (given a device) not to be had there."""
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "tf32" and device is not None and device.type != "cuda":
        raise ValueError(f"precision='tf32' is a mode of NVIDIA GPUs, and the chain runs on {device.type}")
    return precision


@contextlib.contextmanager
def running(precision: str, device: torch.device) -> Iterator[None]:
    """Runs the body in `precision` and restores the caller's flags.

    "fp32" is strict: no TF32 on a GPU, no bfloat16 shortcut on a CPU, no autocast of the caller's. "bf16" and "fp16"
    are autocast without its weight cache, which would outlive an optimiser step. torch's float32 flags belong to the
    whole process: threads that run different precisions at once see each other's.
    """
    check(precision, device)
    autocast = torch.autocast(
        device.type, dtype=_AUTOCAST.get(precision), enabled=precision in _AUTOCAST, cache_enabled=False
    )
    with _float32_as("tf32" if precision == "tf32" else "ieee"), autocast:
        yield


@contextlib.contextmanager
def _float32_as(mode: str) -> Iterator[None]:
    backends = torch.backends
    switches = (
        *(backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn),  # type: ignore[attr-defined]
        *((backends.mkldnn.matmul, backends.mkldnn.conv) if mode == "ieee" else ()),  # type: ignore[attr-defined]
    )
    before = [switch.fp32_precision for switch in switches]
    changed = [(switch, old) for switch, old in zip(switches, before, strict=True) if old not in (mode, "none")]
    try:
        for switch, _ in changed:
            switch.fp32_precision = mode
        yield
    finally:
        for switch, old in changed:
            switch.fp32_precision = old
