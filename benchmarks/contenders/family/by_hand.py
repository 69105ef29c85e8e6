"""The samplers as a user writes them in eager torch: one energy and one gradient a step, kept where a step is rejected,
and the replicas of parallel tempering in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..eager import by_hand

if TYPE_CHECKING:
    from family_works import FamilyWork

MISSING = None
Energy = Callable[[Tensor], Tensor]


def supports(work: FamilyWork) -> str | None:
    return None


def make(work: FamilyWork) -> Callable[[Tensor, int], Tensor]:
    sample = _SAMPLERS[work.kind]

    def chain(x0: Tensor, n_steps: int) -> Tensor:
        with by_hand("fp32", x0.device.type):
            return sample(work.module, x0, n_steps, **work.options)

    return chain


def with_score(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """U (B,) and -∇U (B, d)."""
    x = x.detach().requires_grad_()
    u = energy(x)
    (gradient,) = torch.autograd.grad(u.sum(), x)
    return u.detach(), -gradient


def mala(energy: Energy, x0: Tensor, n_steps: int, *, step_size: float, temperature: Tensor | float = 1.0) -> Tensor:
    x, u, s = x0, *with_score(energy, x0)
    for _ in range(n_steps):
        x, u, s = _mala_step(energy, x, u, s, step_size, temperature)
    return x


def _mala_step(
    energy: Energy, x: Tensor, u: Tensor, s: Tensor, step_size: float, temperature: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """temperature: a number, or (B,)."""
    noise_std = math.sqrt(2 * step_size) * torch.as_tensor(temperature).sqrt()
    column = noise_std if noise_std.dim() == 0 else noise_std[:, None]
    y = x + step_size * s + column * torch.randn_like(x)
    u_y, s_y = with_score(energy, y)
    forth = (y - x - step_size * s).square().sum(1)
    back = (x - y - step_size * s_y).square().sum(1)
    log_ratio = (u - u_y + (forth - back) / (4 * step_size)) / temperature
    accepted = torch.rand_like(u).log() < log_ratio
    return (
        torch.where(accepted[:, None], y, x),
        torch.where(accepted, u_y, u),
        torch.where(accepted[:, None], s_y, s),
    )


def hmc(energy: Energy, x0: Tensor, n_steps: int, *, step_size: float, n_leapfrog: int) -> Tensor:
    x, u, s = x0, *with_score(energy, x0)
    for _ in range(n_steps):
        v0 = torch.randn_like(x)
        y, u_y, s_y = x, u, s
        v = v0 + 0.5 * step_size * s
        for k in range(n_leapfrog):
            y = y + step_size * v
            u_y, s_y = with_score(energy, y)
            v = v + (0.5 if k == n_leapfrog - 1 else 1.0) * step_size * s_y
        log_ratio = u - u_y + 0.5 * (v0.square() - v.square()).sum(1)
        accepted = torch.rand_like(u).log() < log_ratio
        x, s = torch.where(accepted[:, None], y, x), torch.where(accepted[:, None], s_y, s)
        u = torch.where(accepted, u_y, u)
    return x


def underdamped(energy: Energy, x0: Tensor, n_steps: int, *, step_size: float, friction: float) -> Tensor:
    """BAOAB, with mass 1."""
    kept = math.exp(-friction * step_size)
    noise_std = math.sqrt(1 - kept**2)
    x, v, (_, s) = x0, torch.randn_like(x0), with_score(energy, x0)
    for _ in range(n_steps):
        v = v + 0.5 * step_size * s
        x = x + 0.5 * step_size * v
        v = kept * v + noise_std * torch.randn_like(v)
        x = x + 0.5 * step_size * v
        _, s = with_score(energy, x)
        v = v + 0.5 * step_size * s
    return x


def tempering(
    energy: Energy,
    x0: Tensor,
    n_steps: int,
    *,
    step_size: float,
    temperatures: tuple[float, ...],
    swap_every: int,
) -> Tensor:
    """MALA at every temperature; swaps of the pairs (0, 1), (2, 3), … and (1, 2), … in turn."""
    n, n_replicas = len(x0), len(temperatures)
    ladder = torch.tensor(temperatures)
    per_chain = ladder.repeat_interleave(n)
    x = x0.repeat(n_replicas, 1)
    u, s = with_score(energy, x)
    n_swaps = 0
    for k in range(n_steps):
        x, u, s = _mala_step(energy, x, u, s, step_size, per_chain)
        if (k + 1) % swap_every == 0:
            low = torch.arange(n_swaps % 2, n_replicas - 1, 2)
            n_swaps += 1
            by_replica = u.view(n_replicas, n)
            log_ratio = (1 / ladder[low] - 1 / ladder[low + 1])[:, None] * (by_replica[low] - by_replica[low + 1])
            swapped = torch.rand_like(log_ratio).log() < log_ratio
            order = torch.arange(n_replicas)[:, None].repeat(1, n)
            order[low] += swapped.long()
            order[low + 1] -= swapped.long()
            rows = (order * n + torch.arange(n)).flatten()
            x, u, s = x[rows], u[rows], s[rows]
    return x[:n]


@torch.no_grad()
def annealed(
    score: Callable[[Tensor, Tensor], Tensor], x0: Tensor, n_steps: int, *, step_size: float, sigmas: tuple[float, ...]
) -> Tensor:
    x = x0
    for sigma in sigmas:
        level = torch.full((len(x),), sigma)
        eta = step_size * (sigma / sigmas[-1]) ** 2
        for _ in range(n_steps // len(sigmas)):
            x = x + eta * score(x, level) + math.sqrt(2 * eta) * torch.randn_like(x)
    return x


_SAMPLERS = {"mala": mala, "hmc": hmc, "underdamped": underdamped, "tempering": tempering, "annealed": annealed}
