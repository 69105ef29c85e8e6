"""Triton's interpreter, as the tests use it."""

from __future__ import annotations

import ctypes
import ctypes.util
from types import SimpleNamespace

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


def test_the_quicker_interpreter_has_the_values_of_triton_s_own():
    """Reductions of every axis, of one block and of two, by a function that is not symmetric; NumPy's types."""
    if kernels.BACKENDS["triton"].unsupported(torch.device("cpu")):
        pytest.skip("needs the interpreter")
    import numpy as np
    import triton.language as tl
    from support import quick_interpreter
    from triton.runtime import interpreter

    assert interpreter.ReduceOps.generic_reduce is quick_interpreter.generic_reduce

    sub = interpreter.interpreter_semantic.sub
    one = SimpleNamespace(fn=lambda a, b: sub(b, a, False))
    pairs = SimpleNamespace(fn=lambda a, i, b, j: (sub(b, a, False), sub(i, j, False)))

    def block(dtype):
        values = np.random.default_rng(1).integers(0, 99, (4, 2, 8)).astype(dtype)
        kind = {"int32": tl.int32, "float32": tl.float32}[dtype]
        return tl.tensor(interpreter.TensorHandle(values, kind), tl.block_type(kind, [4, 2, 8]))

    for axis in (0, 1, 2):
        for keeps in (False, True):
            for combine, blocks in ((one, [block("int32")]), (pairs, [block("float32"), block("int32")])):
                reduced = interpreter.ReduceOps(axis, combine, keeps)
                got, expected = reduced.generic_reduce(blocks), quick_interpreter._generic_reduce(reduced, blocks)
                for a, b in zip(got, expected, strict=True):
                    assert a.type == b.type and a.handle.data.dtype == b.handle.data.dtype
                    assert np.array_equal(a.handle.data, b.handle.data)
    dtypes = [tl.int1, tl.int32, tl.uint32, tl.int64, tl.float16, tl.bfloat16, tl.float32, tl.float64]
    dtypes += [tl.pointer_type(dtype) for dtype in dtypes]
    for dtype in [*dtypes, *(tl.block_type(dtype, [2]) for dtype in dtypes)]:
        assert quick_interpreter.np_dtype(dtype) == quick_interpreter._np_dtype(dtype)
