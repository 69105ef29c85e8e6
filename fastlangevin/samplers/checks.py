"""The sampler's arguments: checked, and turned into what it holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..chains.divergence import n_not_finite
from ..network.target import Target
from ..noise import STREAM_VERSION, check_seed
from ..validation import check_state_dtype

COUNTER_END = 2**32  # the step counter of a sampler stays below


def check_state(name: str, x: Tensor, target: Target) -> None:
    """Raises for a state that chains of `target` cannot start from."""
    check_state_dtype(name, x)
    if x.dim() == 0:
        raise ValueError(f"{name} must have a first dimension of chains, (B, *event), got a scalar")
    device = target.device()
    if device is not None and device != x.device:
        raise ValueError(f"{name} is on {x.device} and the {target.kind} on {device}: move one to the other")
    if not x.is_cuda:  # there it would wait for the device; the chain's own check sees it
        n_bad = int(n_not_finite(x))
        if n_bad:
            raise ValueError(f"{name} must be finite, got NaN or infinity in {n_bad} of {len(x)} chains")


def check_counter(step: object) -> int:
    if not isinstance(step, int) or not 0 <= step < COUNTER_END:
        raise ValueError(f"step must be an int in 0 … 2^32 - 1, got {step!r}")
    return step


def check_noise_position(state: Mapping[str, Any], needed: Iterable[str] = ()) -> tuple[int, int]:
    """The seed, as an unsigned 64-bit int, and the step of a saved state, which must also have the keys `needed`."""
    missing = {"seed", "step", "stream_version", *needed} - set(state)
    if missing:
        raise ValueError(f"state lacks {', '.join(sorted(missing))}, got the keys {sorted(state)}")
    if state["stream_version"] != STREAM_VERSION:
        raise ValueError(f"state has noise stream version {state['stream_version']}, this is {STREAM_VERSION}")
    seed, step = check_seed(state["seed"]), state["step"]
    if not isinstance(step, int) or not 0 <= step <= COUNTER_END:
        raise ValueError(f"state's step must lie in 0 … 2^32, got {step!r}")
    return int(seed) % 2**64, step


def check_temperature(temperature: float) -> float:
    if not isinstance(temperature, Real) or isinstance(temperature, bool) or not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be finite and not negative, got {temperature!r}")
    return float(temperature)


def make_seed(seed: int | None, generator: torch.Generator | None) -> int:
    """The seed as an unsigned 64-bit int; None is drawn from `generator`, or else from torch's default generator."""
    if seed is not None and generator is not None:
        raise ValueError("seed and generator exclude each other, got both")
    if seed is None:
        device = "cpu" if generator is None else generator.device
        drawn = torch.randint(-(2**63), 2**63 - 1, (), generator=generator, device=device)
        return int(drawn) % 2**64
    return int(check_seed(seed)) % 2**64
