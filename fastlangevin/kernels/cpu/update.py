"""The CPU's update. A call of an operator costs several times what the update of a small state does: dense float32
states are passed to the kernel directly.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable
from math import inf, nan

import torch
from torch import Tensor

from .. import native
from ..arguments import UpdateArgs
from ..operators import Operators, written

operators = Operators("cpu")
_NUMBERS = (float, int, type(None))
_pack = struct.Struct("=3q2dQ3q3d").pack  # `PackedUpdate` of csrc/cpu/update.cpp
_ALL_BITS = 2**64 - 1
_is_compiling = torch.compiler.is_compiling
_n_dispatch_modes = torch._C._len_torch_dispatch_stack


def update(x: Tensor, score: Tensor | None, args: UpdateArgs) -> None:
    """The fused update, in place: see `fastlangevin.langevin_update_`."""
    if not _is_compiling() and not _n_dispatch_modes() and _is_dense(x):
        to, at, n = x.data_ptr(), 0, x.numel()
        if score is not None and _is_dense(score):
            at = score.data_ptr()
        step_size, noise_std, seed, step, stream, offset, grad_clip, lo, hi = args
        if (
            to
            and (score is None if not at else at == to or abs(at - to) >= 4 * n)
            and type(step_size) in _NUMBERS
            and type(noise_std) in _NUMBERS
            and type(seed) is type(step) is int
        ):
            packed = _pack(
                to,
                at,
                n,
                step_size or 0.0,
                nan if noise_std is None else noise_std,
                seed & _ALL_BITS,
                step,
                stream,
                offset,
                inf if grad_clip is None else grad_clip,
                -inf if lo is None else lo,
                inf if hi is None else hi,
            )
            _function()(packed)
            written(x)
            return
    operators.update(x, score, args)


def _is_dense(x: Tensor) -> bool:
    """Whether the elements are float32 numbers in memory, one after another: not if it is to be negated when read."""
    return type(x) is Tensor and x.dtype is torch.float32 and x.is_contiguous() and not x.is_neg()


@functools.cache
def _function() -> Callable[..., None]:
    function = native.cpu_library().fastlangevin_update
    function.argtypes, function.restype = [ctypes.c_char_p], None
    return function
