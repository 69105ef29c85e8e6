"""Types, strides and states that the update's tests share."""

from __future__ import annotations

import torch

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
KEY = dict(seed=20191125, step=7)
INTS = {torch.float32: torch.int32, torch.float64: torch.int64, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(INTS[a.dtype]), b.contiguous().view(INTS[b.dtype]))


def state(shape, dtype=torch.float32, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def layouts(x: torch.Tensor) -> list[torch.Tensor]:
    """The same 4-d values in other strides; none shares x's storage."""
    big = torch.full([n + 3 for n in x.shape], 99.0, dtype=x.dtype)
    sliced = big[1:-2, 2:-1, 1:-2, 2:-1]
    sliced.copy_(x)
    stepped = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)[..., ::2]
    stepped.copy_(x)
    return [
        x.clone(),
        x.clone(memory_format=torch.channels_last),
        x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        sliced,
        stepped,
    ]
