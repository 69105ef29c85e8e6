"""Limits on the norm of a chain's score."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.arguments import n_chains


def clip_norm(score: Tensor, limit: float) -> Tensor:
    """s·min(1, limit / ‖s‖₂) for the score s of each chain, a new tensor; differentiable.

    The squares are added in float64, in pairs whose order depends on a chain's number of elements alone, so that the
    result has the same bits on every device and for any number of threads. The factor is rounded once to the type of
    the arithmetic (float32, or float64 for float64), and the product once more to the score's type.

    Args:
        score: (B, *event).
        limit: positive.
    """
    size = score.numel() // max(1, n_chains(score))
    squares = score.reshape(n_chains(score), size).double().square()
    sums = torch.nn.functional.pad(squares, (0, (1 << max(0, size - 1).bit_length()) - size))
    while sums.shape[1] > 1:
        left, right = sums.chunk(2, dim=1)
        sums = left + right
    norms = sums.clamp(min=torch.finfo(torch.float64).tiny).sqrt()  # whose derivative is finite at 0
    factor = (limit / norms).clamp(max=1.0).to(torch.promote_types(score.dtype, torch.float32))
    return (score * factor.view((*score.shape[:1], *(1,) * (score.dim() - 1)))).to(score.dtype)
