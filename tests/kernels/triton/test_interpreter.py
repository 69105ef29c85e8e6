"""Triton's interpreter, as the tests use it."""

from __future__ import annotations

import ctypes
import ctypes.util

import pytest
import torch

from fastlangevin import kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_interpreter_s_fma_rounds_once(dtype):
    """As a GPU's, which the bits of all other tests in the interpreter rest on. Against libm, with addends that cancel
    the product to its last bits, and on the cases that tell the ways of rounding twice apart.
    """
    if kernels.BACKENDS["triton"].unsupported(torch.device("cpu")):
        pytest.skip("needs the interpreter")
    from support import exact_fma

    assert exact_fma.rounds_once()
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    fma, number = (libm.fmaf, ctypes.c_float) if dtype == torch.float32 else (libm.fma, ctypes.c_double)
    fma.restype, fma.argtypes = number, [number] * 3
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(1024, generator=generator, dtype=dtype) for _ in range(2))
    c = -(a * b) * (1 + torch.randint(-3, 4, (1024,), generator=generator) * torch.finfo(dtype).eps)
    expected = torch.tensor([fma(*map(float, row)) for row in zip(a, b, c, strict=True)], dtype=dtype)
    assert torch.equal(exact_fma.interpreted_fma(a, b, c), expected)
