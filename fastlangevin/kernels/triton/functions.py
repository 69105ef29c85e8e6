"""Functions that the kernels of activations share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def clamped_exp(a):
    return tl.exp(tl.where(a < -87.0, -87.0, a))


@triton.jit
def sigmoid(a):
    return 1.0 / (1.0 + clamped_exp(-a))
