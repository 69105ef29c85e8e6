"""Triton's interpreter with the fused multiply-add of a GPU, which rounds once.

The interpreter of some Tritons rounds the product, then the sum (`create_fma` of `triton/runtime/interpreter.py`), and
gives kernels bits that no GPU would. No tolerance could stand in for the bits: the product's rounding is half a unit in
the last place of it, in each of the some twenty fmas of a normal deviate and in the update, and that is as much as the
last digit of a kernel's constant moves. Where a case shows two roundings the interpreter is given the reference's fma,
which `kernels/test_reference.py` holds to libm; all comparisons are then bit for bit, and NumPy has nothing to warn of.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from fastlangevin.kernels import reference

# a, b, c and the fma. A product rounded on its own loses all of the first and the last; a sum rounded to float64 before
# float32 falls in the middle of two neighbours in the second.
CASES = (
    (torch.float32, 1 + 2.0**-12, 1 + 2.0**-12, -1 - 2.0**-11, 2.0**-24),
    (torch.float32, 1 + 2.0**-12, (1 - 2.0**-12 + 2.0**-24) * 2.0**-24, 1.0, 1 + 2.0**-23),
    (torch.float64, 1 + 2.0**-27, 1 + 2.0**-27, -1 - 2.0**-26, 2.0**-54),
)


@triton.jit
def _fma_kernel(a_pointer, b_pointer, c_pointer, out_pointer, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out_pointer + i, tl.fma(tl.load(a_pointer + i), tl.load(b_pointer + i), tl.load(c_pointer + i)))


def interpreted_fma(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """tl.fma of vectors whose length is a power of two."""
    out = torch.full_like(a, torch.nan)
    _fma_kernel[(1,)](a, b, c, out, N=len(a))
    return out


def rounds_once() -> bool:
    return all(
        interpreted_fma(*(torch.tensor([v], dtype=dtype) for v in abc)).item() == expected
        for dtype, *abc, expected in CASES
    )


def install() -> None:
    """Makes the interpreter's fma exact, where a case shows that it is not."""
    if rounds_once():
        return
    inexact = InterpreterBuilder.create_fma
    exact = {np.dtype(np.float32): reference._fma32, np.dtype(np.float64): reference._fma64}

    def create_fma(self, x, y, z):
        fma = exact.get(z.data.dtype)
        if fma is None:
            return inexact(self, x, y, z)
        a, b, c = (torch.from_numpy(v.copy()) for v in np.broadcast_arrays(x.data, y.data, z.data))
        return TensorHandle(fma(a, b, c).numpy(), z.dtype.scalar)

    InterpreterBuilder.create_fma = create_fma
