"""The reference's fused multiply-add, bit for bit against libm's."""

from __future__ import annotations

import ctypes
import ctypes.util

import pytest
import torch
from support.updates import same_bits

from fastlangevin.kernels import reference

libm = ctypes.CDLL(ctypes.util.find_library("m"))
libm.fma.restype = ctypes.c_double
libm.fma.argtypes = [ctypes.c_double] * 3
libm.fmaf.restype = ctypes.c_float
libm.fmaf.argtypes = [ctypes.c_float] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_reference_rounds_each_fused_multiply_add_once(dtype):
    """Against libm, with addends that cancel the product to its last bits, where a second rounding would show."""
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(4000, generator=generator, dtype=dtype) for _ in range(2))
    c = -(a * b) * (1 + torch.randint(-3, 4, (4000,), generator=generator) * torch.finfo(dtype).eps)
    c[::3] = torch.randn(len(c[::3]), generator=generator, dtype=dtype) * 2.0 ** torch.randint(
        -30, 60, (len(c[::3]),), generator=generator
    )
    fma, emulated = (libm.fmaf, reference._fma32) if dtype == torch.float32 else (libm.fma, reference._fma64)
    expected = torch.tensor([fma(*map(float, row)) for row in zip(a, b, c, strict=True)], dtype=dtype)
    assert same_bits(emulated(a, b, c), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_reference_does_not_round_twice(dtype):
    """Sums just above and below the midpoint of two neighbours, which a first rounding would move to the midpoint."""
    half = torch.finfo(dtype).eps / 2
    u = 2.0**-12 if dtype == torch.float32 else 2.0**-26  # (1 + u)(1 - u + u²) = 1 + u³, and (1 + u²/2)² ≈ 1 + u²
    above = (1 + u, (1 - u + u * u) * half, 1.0)
    e = torch.finfo(dtype).eps
    below = (1 + e, (1 - e) * half, 1 + e)
    for sign in (1.0, -1.0):
        for case in (above, below):
            a, b, c = torch.tensor([case[0]], dtype=dtype), *(torch.tensor([sign * v], dtype=dtype) for v in case[1:])
            fma, emulated = (libm.fmaf, reference._fma32) if dtype == torch.float32 else (libm.fma, reference._fma64)
            assert emulated(a, b, c).item() == fma(a.item(), b.item(), c.item()), (case, sign)
