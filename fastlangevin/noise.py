"""Counter-based noise: normal and uniform deviates that depend only on (seed, step, stream, element index).

The generator is Philox4x32-10 (Salmon et al., SC 2011), and Box-Muller in float32 with every rounding fixed, so a seed
gives the same bits for any backend, split into batches, number of threads, rank and replay. `docs/noise.md` has the
definition. Checkpoints store `STREAM_VERSION`.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from . import kernels
from .validation import check_scalar_tensor, check_shape

STREAM_VERSION = 1


class Stream(enum.IntEnum):
    """The streams that the library uses, by purpose. Streams from 16 to 2^31 - 1 are reserved for users.

    Examples:
        >>> fl.noise.Stream.INITIAL_STATE
        <Stream.INITIAL_STATE: 1>
        >>> z = fl.noise.normal((2, 3), seed=1, step=0, stream=fl.noise.Stream.INITIAL_STATE)
        >>> mine = fl.noise.normal((2, 3), seed=1, step=0, stream=16)  # from 16 on: yours
        >>> torch.equal(z, mine)
        False
    """

    LANGEVIN = 0
    INITIAL_STATE = 1
    DATA_NOISE = 2
    ACCEPT_REJECT = 3
    REPLAY_BUFFER = 4
    VELOCITY = 5
    TEMPERING = 2**31


def normal(
    shape: Sequence[int],
    *,
    seed: int | Tensor,
    step: int | Tensor,
    stream: int = 0,
    offset: int = 0,
    device: torch.device | str = "cpu",
    backend: str | None = None,
) -> Tensor:
    """Draws standard normal deviates, float32, of magnitude at most 5.887.

    Element i of the result, flattened in row-major order, is a function of (seed, step, stream, offset + i) alone.

    Args:
        shape: of the result.
        seed: 64 bits: an int in [-2^63, 2^64), or an int64 tensor of one element (torch.compile needs the tensor for
            seeds of 2^63 and more that change from call to call).
        step: 32 bits: an int in [0, 2^32), or an int64 tensor of one element.
        stream: 32 bits: an int in [0, 2^32); see `Stream`.
        offset: index of the result's first element in the stream, an int in [0, 2^63), for a shard or a micro-batch.
        device: of the result.
        backend: "reference", "cpu", "triton", "cuda", or None for the fastest one on `device`.

    Raises:
        ValueError: an argument out of its range, or an unknown backend.
        TypeError: seed, step, stream or offset of another type.
        BackendUnavailable: the named backend is not available for `device`.

    Examples:
        >>> fl.noise.normal((3,), seed=1, step=0)  # the same bits on every machine
        tensor([ 0.3804, -0.2963, -0.2492])
        >>> whole, part = fl.noise.normal((4, 3), seed=1, step=0), fl.noise.normal((2, 3), seed=1, step=0, offset=6)
        >>> torch.equal(whole[2:], part)
        True
    """
    return _fill(shape, seed, step, stream, offset, device, backend, uniform=False)


def uniform(
    shape: Sequence[int],
    *,
    seed: int | Tensor,
    step: int | Tensor,
    stream: int = 0,
    offset: int = 0,
    device: torch.device | str = "cpu",
    backend: str | None = None,
) -> Tensor:
    """Draws uniform deviates in [0, 1), multiples of 2^-24, float32. Arguments and errors are those of `normal`.

    Examples:
        >>> fl.noise.uniform((2,), seed=1, step=0)
        tensor([0.8903, 0.8947])
    """
    return _fill(shape, seed, step, stream, offset, device, backend, uniform=True)


def _fill(
    shape: Sequence[int],
    seed: int | Tensor,
    step: int | Tensor,
    stream: int,
    offset: int,
    device: torch.device | str,
    backend: str | None,
    uniform: bool,
) -> Tensor:
    out = torch.empty(check_shape(shape), dtype=torch.float32, device=device)
    chosen = kernels.select(backend, out.device)
    key = (check_seed(seed), check_step(step), check_stream(stream), check_offset(offset))
    if out.numel():
        chosen.fill(out, *key, uniform)
    return out


def check_seed(seed: int | Tensor) -> int | Tensor:
    """Returns the seed in two's complement, -2^63 … 2^63 - 1, or a tensor unchanged."""
    if isinstance(seed, Tensor):
        return check_scalar_tensor("seed", seed, torch.int64)
    seed = _integer("seed", seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must fit 64 bits (0 … 2^64 - 1), got {seed}")
    return seed - 2**64 if seed >= 2**63 else seed


def check_step(step: int | Tensor) -> int | Tensor:
    if isinstance(step, Tensor):
        return check_scalar_tensor("step", step, torch.int64)
    return _in_range("step", _integer("step", step), 2**32)


def check_stream(stream: int) -> int:
    return _in_range("stream", _integer("stream", stream), 2**32)


def check_offset(offset: int) -> int:
    return _in_range("offset", _integer("offset", offset), 2**63)


def _integer(name: str, value: object) -> int:
    if isinstance(value, int):
        return value  # before operator.index, which would turn the symbolic int of a traced graph into a constant
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__} {value!r}") from None


def _in_range(name: str, value: int, end: int) -> int:
    if not 0 <= value < end:
        raise ValueError(f"{name} must lie in 0 … 2^{end.bit_length() - 1} - 1, got {value}")
    return value
