"""A chain whose last step is differentiable with respect to the energy's weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ..noise import Stream, normal
from ..score import AutogradScore
from .clip import clip_norm
from .langevin_chain import LangevinChain
from .schedule import of_elements


def last_step(chain: LangevinChain, x: Tensor) -> Tensor:
    """Step K - 1 of a chain, from x_{K-1}, in operations that autograd records:

        x_K = clamp(x̃ + η·clip(s_θ(x̃)) + σz)    (noise_last: clamp(x̃ + η·clip(s_θ(x̃))) + σz)

    where x̃ is x_{K-1}, with its noise added if noise comes first. x̃ is a constant: the graph leads to the weights θ
    and to the other tensors that the energy reads, but not to x. The arithmetic is that of the update, except for the
    rounding of fused multiply-adds.

    Args:
        chain: its kernels are not used; the score is computed by autograd.
        x: (B, *event), not modified.

    Returns:
        (B, *event), of x's dtype.
    """
    k, x = len(chain) - 1, x.detach()
    if chain.noise_first:
        x = x.clone()
        chain.add_noise_(x, k)
    score = AutogradScore(chain.score.target, chain.score.precision, chain.inputs).at(k).with_graph(x)
    compute = torch.promote_types(x.dtype, torch.float32)
    s, moved = score.to(compute), x.to(compute)
    if chain.grad_clip_norm is not None:
        s = clip_norm(s, chain.grad_clip_norm)
    if chain.grad_clip is not None:
        s = s.clamp(-chain.grad_clip, chain.grad_clip)
    moved = moved + of_elements(chain.step_sizes[k], moved) * s
    if chain.bounds is not None and chain.noise_last:
        moved = moved.clamp(*chain.bounds)
    if chain.has_noise and not chain.noise_first:
        z = normal(
            x.shape,
            seed=chain.seed,
            step=chain.steps[k],
            stream=Stream.LANGEVIN,
            offset=chain.offset,
            device=x.device,
            backend=chain.backend.name,
        )
        moved = moved + of_elements(chain.noise_stds[k], moved) * z.to(compute)
    if chain.bounds is not None and not chain.noise_last:
        moved = moved.clamp(*chain.bounds)
    moved = moved.to(x.dtype)
    return moved if chain.mask is None else torch.where(chain.mask, x, moved)
