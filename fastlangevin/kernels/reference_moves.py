"""The moves of samplers with velocities or a Metropolis test, in plain torch, on any device. Every kernel is checked
against them bit for bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .arguments import MetropolisArgs, MetropolisMemory, Momentum, MoveArgs
from .reference import _chunks, _deviates, _fma32, _fma64

MOST_LANES = 1024


def velocity_move(x: Tensor, v: Tensor, score: Tensor | None, momentum: Momentum, args: MoveArgs) -> None:
    """Moves states and velocities, in place. With w the inverse masses, r their roots and z the noise, element-wise,

        v ← noise_std·r·z                               if `draws`
        v ← fma(kick·w, score, v), n_kicks times        unless kick is None
        x ← fma(drift, v, x)
        v ← fma(decay, v, noise_std·r·z)                unless decay is None,
        x ← fma(drift, v, x)                            likewise

    Products and fused multiply-adds round once each, in v's type: float64 for float64 states, else float32.

    Args:
        x: contiguous.
        v: of x's shape, contiguous, float64 or float32 as above. Unread if `draws`.
        score: of x's shape and type, contiguous; None if kick is None.
    """
    for start, n in _chunks(x.numel(), args.offset, x.device):
        here = slice(start, start + n)
        flat_x, flat_v = x.view(-1)[here], v.view(-1)[here]
        at, velocity = flat_x.to(v.dtype), flat_v
        if args.draws or args.decay is not None:
            z = _deviates(args.offset + start, n, args.seed, args.step, args.stream, x.device, uniform=False)
            noise = _scaled(args.noise_std, momentum.roots, start, velocity) * z.to(v.dtype)
        if args.draws:
            velocity = noise
        if args.kick is not None:
            assert score is not None
            kick, s = _scaled(args.kick, momentum.weights, start, velocity), score.view(-1)[here].to(v.dtype)
            for _ in range(args.n_kicks):
                velocity = _fma(kick, s, velocity)
        drift = _number(args.drift, velocity).expand(n)
        at = _fma(drift, velocity, at)
        if args.decay is not None:
            velocity = _fma(_number(args.decay, velocity).expand(n), velocity, noise)
            at = _fma(drift, velocity, at)
        flat_x.copy_(at)
        flat_v.copy_(velocity)


def mala_test(
    x: Tensor, memory: MetropolisMemory, y: Tensor, score: Tensor, energy: Tensor, args: MetropolisArgs
) -> None:
    """The Metropolis test of Langevin proposals y from x: moves x and the memory of accepted chains, in place.

        log_ratio = (U(x) - U(y) - ½ Σ (s_x + s_y)·fma(η / 2, s_y - s_x, y - x)) / T

    for the step size η, which is the logarithm of p(y) q(x | y) / (p(x) q(y | x)). Terms are computed in float64 for
    float64 states, else in float32, each operation rounded once; the sum is `chain_sum`. See `_test` for the rest.

    Args:
        x, y: (B, *event), contiguous.
        score: at y, of x's shape and type.
        energy: (B,) float64, at y.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    a, b, s, t = (_rows(each).to(wide) for each in (x, y, memory.score, score))
    half = (_number(args.step_size, a) * 0.5).expand_as(a)
    terms = (s + t) * _fma(half, t - s, b - a)
    _test(x, memory, y, score, energy, 0.5 * chain_sum(terms), args)


def hmc_test(
    x: Tensor,
    memory: MetropolisMemory,
    y: Tensor,
    v: Tensor,
    score: Tensor,
    energy: Tensor,
    momentum: Momentum,
    args: MetropolisArgs,
) -> None:
    """The Metropolis test of a trajectory that ends at y with velocities v before their last kick, in place.

        v' = fma(kick·w, s_y, v),    v₀ = noise_std·r·z    (the velocities that `velocity_move` drew at the same step)
        log_ratio = (U(x) - U(y) - Σ (m / 2·(v' - v₀))·(v' + v₀)) / T

    Args:
        v: of x's shape, contiguous, float64 for float64 states, else float32.
        Others are those of `mala_test`.
    """
    z = torch.cat(
        [
            _deviates(args.offset + start, n, args.seed, args.step, args.stream, x.device, uniform=False)
            for start, n in _chunks(x.numel(), args.offset, x.device)
        ]
        or [v.new_empty(0)]
    )
    flat = v.view(-1)
    drawn = _scaled(args.noise_std, momentum.roots, 0, flat) * z.to(v.dtype)
    end = _fma(_scaled(args.kick, momentum.weights, 0, flat), score.reshape(-1).to(v.dtype), flat)
    half_mass = _scaled(0.5, momentum.masses, 0, flat)
    terms = (half_mass * (end - drawn)) * (end + drawn)
    _test(x, memory, y, score, energy, chain_sum(terms.view_as(_rows(x))), args)


def chain_sum(terms: Tensor) -> Tensor:
    """(B, d) to (B,): float64 sums over each chain, in one order, whatever the device and the number of threads.

    Of P = min(1024, 2^⌈log₂ d⌉) lanes, lane l adds elements l, l + P, l + 2P, … one after another. Then lane i and lane
    i + P / 2 are added, and so on until one is left.
    """
    n, d = terms.shape
    lanes = min(MOST_LANES, 1 << max(0, d - 1).bit_length())
    rows = torch.nn.functional.pad(terms.double(), (0, -d % lanes)).view(n, -(-d // lanes), lanes)
    sums = rows.new_zeros(n, lanes)
    for row in rows.unbind(1):
        sums = sums + row
    while sums.shape[1] > 1:
        left, right = sums.chunk(2, dim=1)
        sums = left + right
    return sums[:, 0]


def _test(
    x: Tensor,
    memory: MetropolisMemory,
    y: Tensor,
    score: Tensor,
    energy: Tensor,
    work: Tensor,
    args: MetropolisArgs,
) -> None:
    """Chain b is accepted if log u < log_ratio, u the uniform of its place first_chain + b in the whole batch: if
    log_ratio is NaN, never. Where y leaves the bounds or is NaN, log_ratio is -infinity.
    """
    flat = _rows(y)
    lo, hi = (torch.tensor(v, dtype=y.dtype).item() for v in (args.lo, args.hi))
    inside = ((flat >= lo) & (flat <= hi)).all(dim=1)
    log_ratio = (memory.energy - energy - work) / _number(args.temperature, work)
    memory.log_ratio.copy_(log_ratio.masked_fill(~inside, float("-inf")))
    u = _deviates(args.first_chain, len(x), args.seed, args.step, args.test_stream, x.device, uniform=True)
    accepted = u.double().log() < memory.log_ratio
    memory.energy.copy_(torch.where(accepted, energy, memory.energy))
    rows = accepted.view(-1, *[1] * (x.dim() - 1))
    x.copy_(torch.where(rows, y, x))
    memory.score.copy_(torch.where(rows, score, memory.score))
    memory.n_accepted.add_(accepted)
    memory.n_rejected.add_(1).masked_fill_(accepted, 0)


def _rows(x: Tensor) -> Tensor:
    """(B, *event) to (B, d)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _number(value: float | Tensor, like: Tensor) -> Tensor:
    """The value rounded once to like's type: filled in, not copied, for a copy from the host would wait for a GPU."""
    if not isinstance(value, Tensor):
        value = torch.full((), value, dtype=torch.float64, device=like.device)
    return value.to(like.dtype)


def _scaled(value: float | Tensor, factors: Tensor | None, start: int, like: Tensor) -> Tensor:
    """value times the factors of like's elements, which begin at element `start` of the state and repeat."""
    number = _number(value, like)
    if factors is None:
        return number.expand_as(like)
    places = torch.arange(start, start + len(like), device=like.device) % factors.numel()
    return number * factors.reshape(-1)[places]


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return _fma64(a, b, c) if c.dtype == torch.float64 else _fma32(a, b, c)
