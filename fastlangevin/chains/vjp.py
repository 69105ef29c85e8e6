"""The gradient through a chain: vᵀ ∂x_K / ∂x_0."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..network.dependencies import Dependencies
from ..score import BoundScore
from .clip import clip_norm
from .langevin_chain import LangevinChain
from .schedule import of_elements


def chain_vjp(chain: LangevinChain, x0: Tensor, v: Tensor, score: BoundScore) -> Tensor:
    """vᵀ ∂x_K / ∂x_0 of the chain that starts at x0, with the energy's weights as constants.

    A step's Jacobian is M·(I + η·H·C), with H the Jacobian of the score, C that of the clips, a mask of the
    elements that they leave unchanged if there is no limit on the norm, and M the mask of those that the bounds leave
    unchanged (as in torch.clamp's gradient, the limits count as inside). If the energy is
    piecewise linear, H is zero almost everywhere and the product of the M remains: the identity without bounds, one
    more run of the chain with bounds. Otherwise the states are recomputed from the counter-based noise: about 2·√K of
    them are held at a time, at the cost of two more runs of the chain and one double backward per step. An energy that
    draws random numbers (dropout) is a different function in that run.

    Args:
        x0: (B, *event), the initial states of the chain.
        v: (B, *event).
        score: `chain.bind(x0)`.

    Returns:
        (B, *event), of v's dtype.
    """
    v, dtype = v.to(torch.promote_types(v.dtype, torch.float32), copy=True), v.dtype
    if not score.is_piecewise_linear:
        v = _through_all_steps(chain, score, x0, v)
    elif chain.bounds is not None:
        steps = _Steps(chain, score)
        x = x0.clone()
        for k in range(len(chain)):
            for mask in steps.run_(x, k):
                v *= mask
    return v.to(dtype)


def _through_all_steps(chain: LangevinChain, score: BoundScore, x0: Tensor, v: Tensor) -> Tensor:
    length = math.isqrt(len(chain) - 1) + 1
    starts = range(0, len(chain), length)
    steps = _Steps(chain, score)
    first_states = []
    x = x0.clone()
    for start in starts:
        first_states.append(x.clone())
        if start != starts[-1]:
            for k in range(start, start + length):
                steps.run_(x, k)
    for start in reversed(starts):
        states = [first_states.pop()]
        ks = range(start, min(start + length, len(chain)))
        for k in ks[:-1]:
            states.append(states[-1].clone())
            steps.run_(states[-1], k)
        for k in reversed(ks):
            v = steps.vjp(states.pop(), k, v)
    return v


class _Steps:
    """A chain's steps, with the limits applied separately and returned as masks. Elements that the chain keeps count as
    not limited, and do not move.
    """

    def __init__(self, chain: LangevinChain, score: BoundScore) -> None:
        self._chain, self._score = chain, score
        self._free = dataclasses.replace(
            chain,
            bounds=None,
            noise_first=bool(chain.noise_first),
            noise_last=False,
            has_noise=chain.has_noise and not chain.noise_last,
        )

    def run_(self, x: Tensor, k: int) -> list[Tensor]:
        """Step k, in place. Returns the masks of the elements that the bounds left unchanged."""
        masks = self._before_score_(x, k)
        self._free.move_(x, self._score.at(k)(x), k)
        masks += self._limit_(x)
        if self._chain.noise_last and self._chain.has_noise:
            self._free.add_noise_(x, k)
        return masks

    def vjp(self, x: Tensor, k: int, v: Tensor) -> Tensor:
        """vᵀ times the Jacobian of step k at x, which may be overwritten."""
        before = self._before_score_(x, k)
        score, score_vjp = self._score.at(k).linearize(x)
        after = x.clone()
        self._free.move_(after, score, k)
        for mask in self._limit_(after):
            v = v * mask
        moving = v if self._chain.mask is None else v.masked_fill(self._chain.mask, 0.0)
        curved = score_vjp(self._clip_vjp(score, moving).to(score.dtype))
        if curved is not None:
            v = v + of_elements(self._chain.step_sizes[k], v) * curved
        for mask in before:
            v = v * mask
        return v

    def _clip_vjp(self, score: Tensor, v: Tensor) -> Tensor:
        """vᵀ times the Jacobian of the clips at a score."""
        limit, clip = self._chain.grad_clip_norm, self._chain.grad_clip
        if limit is None:
            return v if clip is None else v * (score.abs() <= clip)
        with torch.enable_grad():
            score = score.detach().requires_grad_()
            scaled = clip_norm(score, limit)
        if clip is not None:
            v = v * (scaled.abs() <= clip)
        return torch.autograd.grad(scaled, score, v.to(scaled.dtype))[0]

    def _before_score_(self, x: Tensor, k: int) -> list[Tensor]:
        if not self._chain.noise_first:
            return []
        self._free.add_noise_(x, k)
        return self._limit_(x) if self._chain.noise_first == "clamp" else []

    def _limit_(self, x: Tensor) -> list[Tensor]:
        if self._chain.bounds is None:
            return []
        lo, hi = self._chain.bounds
        free = (x >= lo) & (x <= hi)
        if self._chain.mask is None:
            x.clamp_(lo, hi)
        else:
            free |= self._chain.mask
            torch.where(free, x, x.clamp(lo, hi), out=x)
        return [free]


class DifferentiableChain(torch.autograd.Function):
    """`run(x0)`, the last states of a chain, as a function of x0 whose gradient is `chain_vjp`; once differentiable.

    The backward runs within `running(device)`; the caller of `run` does this itself. The backward raises an error if
    the energy's weights were changed since, because the states could not be recomputed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x0: Tensor,
        chain: LangevinChain,
        run: Callable[[Tensor], Tensor],
        running: Callable[[torch.device], AbstractContextManager[None]],
    ) -> Tensor:
        ctx.save_for_backward(x0)
        ctx.chain, ctx.running = chain, running
        ctx.versions = _versions(chain)
        return run(x0.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        x0, chain = ctx.saved_tensors[0].detach(), ctx.chain
        with ctx.running(x0.device):
            score = chain.bind(x0)
            runs_again = chain.bounds is not None or not score.is_piecewise_linear
            if runs_again and _versions(chain) != ctx.versions:
                raise RuntimeError(
                    "the energy's weights were changed between the chain and its backward, which runs the chain again: "
                    "call backward before the optimizer's step"
                )
            return chain_vjp(chain, x0, v, score), None, None, None


def _versions(chain: LangevinChain) -> list[tuple[int, int]]:
    """Versions of the tensors that the energy reads, except the modules' buffers, which evaluations may change."""
    dependencies = Dependencies(chain.score.target.function)
    moving = {id(b) for module in dependencies.modules for b in module.buffers(recurse=False)}
    tensors = [t for t in dependencies.tensors if id(t) not in moving]
    tensors += chain.inputs.tensors()
    tensors += [v for values in chain.inputs.steps() for v in values if isinstance(v, Tensor)]
    return [(id(t), 0 if t.is_inference() else t._version) for t in tensors]
