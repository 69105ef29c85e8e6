"""The noise stream and the update in plain torch, on any device. Every kernel is checked against them bit for bit."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

import torch
from torch import Tensor

from .arguments import UpdateArgs, is_per_chain, n_chains

_MASK = 0xFFFFFFFF

# The number of groups of four elements that are processed at a time. On a CPU they fit in the cache, and are below the
# size at which torch would use several threads for each of some 700 small operations; elsewhere they only limit memory.
_CPU_CHUNK, _CHUNK = 1 << 14, 1 << 20


def _f32(value: float) -> float:
    """The float32 nearest to `value`, as a Python float."""
    return struct.unpack("f", struct.pack("f", value))[0]


_LOG = [
    _f32(c)
    for c in (
        *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
        *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
    )
]
_LN2_LOW, _LN2_HIGH = _f32(-2.12194440e-4), 0.693359375
_SIN = [_f32(c) for c in (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)]
_COS = [_f32(c) for c in (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)]
_QUARTER_TURN = _f32(3.6572951e-10)


def _add_to_odd(a: Tensor, b: Tensor) -> Tensor:
    """a + b in float64, rounded to odd, so that a later rounding to fewer bits gives the correctly rounded sum.

    TwoSum gives the error of the rounded sum. If it is not zero and the sum's last bit is even, the odd neighbour on
    the error's side is taken (Boldo and Melquiond, IEEE Trans. Computers 57, 2008).
    """
    s = a + b
    b_part = s - a
    error = (a - (s - b_part)) + (b - b_part)
    bits = s.view(torch.int64)
    move = (error != 0) & s.isfinite() & ((bits & 1) == 0)
    outward = (error > 0) == (s > 0)
    return torch.where(move, torch.where(outward, bits + 1, bits - 1), bits).view(torch.float64)


def _fma32(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """fma(a, b, c) of float32 values with one rounding. The product is exact in float64."""
    product = a.double() * b
    addend = c.double() if isinstance(c, Tensor) else torch.full((), c, dtype=torch.float64, device=a.device)
    return _add_to_odd(product, addend).float()


def _fma64(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """fma(a, b, c) of float64 values with one rounding, provided that no part overflows or underflows.

    Dekker's exact product and Boldo and Melquiond's emulation of the fused multiply-add.
    """
    product = a * b
    a_high, b_high = (v * 134217729.0 - (v * 134217729.0 - v) for v in (a, b))
    a_low, b_low = a - a_high, b - b_high
    product_error = a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)
    t = c + product_error
    t_part = t - c
    t_error = (c - (t - t_part)) + (product_error - t_part)
    v = product + t
    v_part = v - product
    v_error = (product - (v - v_part)) + (t - v_part)
    exact = v + _add_to_odd(t_error, v_error)
    return torch.where(exact.isfinite(), exact, product + c)


def philox(group: Tensor, seed: Tensor | int, step: Tensor | int, stream: int) -> list[Tensor]:
    """Philox4x32-10 words of each group, as int64 tensors of values 0 … 2^32 - 1."""
    zero = torch.zeros_like(group)
    c = [group & _MASK, (group >> 32) & _MASK, zero + (step & _MASK), zero + (stream & _MASK)]
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57  # wraps in int64, which keeps all 64 bits
        c = [((p1 >> 32) & _MASK) ^ c[1] ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c[3] ^ k1, p0 & _MASK]
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c


def _log(a: Tensor) -> Tensor:
    j = a.view(torch.int32).long() - 0x3F3504F3
    e = (j >> 23).float()
    f = ((j & 0x7FFFFF) + 0x3F3504F3).int().view(torch.float32) - 1.0
    y = torch.full_like(f, _LOG[0])
    for constant in _LOG[1:]:
        y = _fma32(y, f, constant)
    z = f * f
    y = y * (f * z)
    y = _fma32(e, _LN2_LOW, y)
    y = _fma32(z, -0.5, y)
    return _fma32(e, _LN2_HIGH, f + y)


def _flip_sign(a: Tensor, flip: Tensor) -> Tensor:
    return torch.where(flip, -a, a)


def box_muller(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Two float32 normals from two words (int64 tensors)."""
    a = _fma32((u >> 8).float(), 2.0**-24, 2.0**-25)
    # torch's float32 sqrt is not correctly rounded on a CPU; the float64 sqrt rounded to float32 is.
    r = (-2.0 * _log(a)).double().sqrt().float()
    q = ((v + 0x20000000) & _MASK) >> 30
    turned = (v << 2) & _MASK
    t = torch.where(turned >= 1 << 31, turned - (1 << 32), turned).float() * _QUARTER_TURN
    z = t * t
    s = _fma32(z, _SIN[0], _SIN[1])
    s = _fma32(s, z, _SIN[2])
    s = _fma32(s * z, t, t)
    c = _fma32(z, _COS[0], _COS[1])
    c = _fma32(c, z, _COS[2])
    c = _fma32(c * z, z, _fma32(z, -0.5, 1.0))
    odd = (q & 1) != 0
    sin = _flip_sign(torch.where(odd, c, s), (q & 2) != 0)
    cos = _flip_sign(torch.where(odd, s, c), ((q + 1) & 2) != 0)
    return r * cos, r * sin


def _deviates(
    first: int, n: int, seed: Tensor | int, step: Tensor | int, stream: int, device: torch.device, uniform: bool
) -> Tensor:
    """The deviates of elements first … first + n - 1, as one float32 vector."""
    group = torch.arange(first // 4, (first + n + 3) // 4, device=device)
    r = philox(group, seed, step, stream)
    if uniform:
        lanes = [(word >> 8).float() * 2.0**-24 for word in r]
    else:
        lanes = [*box_muller(r[0], r[1]), *box_muller(r[2], r[3])]
    return torch.stack(lanes, dim=1).view(-1)[first % 4 : first % 4 + n]


def _chunks(n: int, offset: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """(start, length) of the pieces of n elements. All but the first start at a group boundary."""
    start, chunk = 0, 4 * (_CPU_CHUNK if device.type == "cpu" else _CHUNK)
    while start < n:
        length = min(n - start, chunk - (offset + start) % 4)
        yield start, length
        start += length


def fill(out: Tensor, seed: Tensor | int, step: Tensor | int, stream: int, offset: int, uniform: bool) -> None:
    """Fills a contiguous float32 tensor with the stream's deviates."""
    flat = out.view(-1)
    for start, length in _chunks(flat.numel(), offset, out.device):
        flat[start : start + length] = _deviates(offset + start, length, seed, step, stream, out.device, uniform)


def update(x: Tensor, score: Tensor | None, args: UpdateArgs) -> None:
    """The fused update, in place: see `fastlangevin.langevin_update_`."""
    step_size, noise_std, seed, step, stream, offset, grad_clip, lo, hi = args
    wide = x.dtype == torch.float64
    compute = torch.float64 if wide else torch.float32

    chain_size = max(1, x.numel() // max(1, n_chains(x)))

    def rounded(value: Tensor | float | None) -> Tensor:
        """The value rounded once to the compute dtype, as a float64 tensor, which can hold both. It is filled in, not
        copied: a copy from the host would wait for a GPU.
        """
        if not isinstance(value, Tensor):
            value = torch.full((), value or 0.0, dtype=torch.float64, device=x.device)
        return value.to(x.device).to(compute).double()

    def of_elements(value: Tensor, start: int, length: int) -> Tensor:
        """The value for these elements: the same for all, or that of each one's chain."""
        if not is_per_chain(value):
            return value
        return value[torch.arange(start, start + length, device=x.device) // chain_size]

    step_sizes, noise_stds = rounded(step_size), rounded(noise_std)
    # Rounded like all other values, so that a limit beyond float32 has no effect and is not an error.
    clip, low, high = (None if v is None else torch.tensor(v, dtype=compute).item() for v in (grad_clip, lo, hi))
    flat = x.reshape(-1)  # a view of contiguous storage, else a copy that is written back
    flat_score = None if score is None else score.reshape(-1)
    for start, length in _chunks(flat.numel(), offset, x.device):
        piece = flat[start : start + length].to(compute)
        if flat_score is not None:
            s = flat_score[start : start + length].to(compute)
            if clip is not None:
                s = s.clamp(-clip, clip)
            eta = of_elements(step_sizes, start, length)
            piece = _fma64(eta, s, piece) if wide else _fma32(s, eta, piece)
        if noise_std is not None:
            z = _deviates(offset + start, length, seed, step, stream, x.device, uniform=False)
            sigma = of_elements(noise_stds, start, length)
            piece = _fma64(sigma, z.double(), piece) if wide else _fma32(z, sigma, piece)
        if low is not None or high is not None:
            piece = piece.clamp(-math.inf if low is None else low, math.inf if high is None else high)
        flat[start : start + length] = piece.to(x.dtype)
    if flat.data_ptr() != x.data_ptr() or not x.is_contiguous():
        x.copy_(flat.view(x.shape))
