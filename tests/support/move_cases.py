"""Moves with every argument, and what a backend's functions must leave of states that lie between other numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

import fastlangevin as fl
from fastlangevin.kernels import reference_moves
from fastlangevin.kernels.arguments import MetropolisArgs, MetropolisMemory, Momentum, MoveArgs
from support.updates import same_bits

REFERENCE = reference_moves  # has the functions of `kernels.Moves`
AROUND = 8  # numbers before a state and after it
KEY = {"seed": -20191125, "step": 2**32 - 2}
BOUNDS = (0.3008, 1.7007)  # no 0 between; rounded to any type but float64 they are further apart


class Velocities(NamedTuple):
    """A `velocity_move`."""

    x: torch.Tensor
    v: torch.Tensor
    score: torch.Tensor
    momentum: Momentum
    args: MoveArgs


class Proposals(NamedTuple):
    """A `hmc_test`, or without the velocities a `mala_test`."""

    x: torch.Tensor
    memory: MetropolisMemory
    y: torch.Tensor
    v: torch.Tensor | None
    score: torch.Tensor
    energy: torch.Tensor
    momentum: Momentum
    args: MetropolisArgs


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def masses(n: int, dtype: torch.dtype, generator: torch.Generator) -> Momentum:
    m = torch.rand(n, generator=generator, dtype=torch.float64).add_(0.2).to(dtype)
    return Momentum(m, 1 / m, m.rsqrt())


def velocities(dtype, n, *, draws, n_kicks, has_decay, period=None, offset=0) -> Velocities:
    """n_kicks None: no kick. period: of the masses, which are 1 without one."""
    generator = torch.Generator().manual_seed(n)
    x, v, score = (torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(3))
    wide = arithmetic(dtype)
    momentum = Momentum(None, None, None) if period is None else masses(period, wide, generator)
    decay, kick = 0.6 if has_decay else None, None if n_kicks is None else 0.35
    args = MoveArgs(draws, kick, n_kicks or 1, 0.7, decay, 0.9, **KEY, stream=5, offset=offset)
    return Velocities(x.to(dtype), v.to(wide), score.to(dtype), momentum, args)


def proposals(dtype, shape, *, trajectories, period=None, first_chain=0) -> Proposals:
    """Terms of many magnitudes, so that another order of them has another sum; energies that decide either
    way; and, of nine chains or more, one each whose proposal is NaN, above and below the bounds, at both of them, whose
    new energy is NaN or infinite, and whose energy was infinite.
    """
    n, d = shape[0], math.prod(shape[1:])
    generator = torch.Generator().manual_seed(d)
    draw = lambda *size: torch.randn(size, generator=generator, dtype=torch.float64)
    wide = arithmetic(dtype)
    magnitude = torch.exp2(torch.randint(-9, 10, (n, d), generator=generator))
    x, y = (draw(n, d).add(1.0).clamp(*BOUNDS) for _ in range(2))
    score, new_score, v = (draw(n, d) * magnitude for _ in range(3))
    if n >= 9 and d:
        y[1, -1], y[2, 0], y[3, -1] = math.nan, 2.0, 0.0
        y[4, 0], y[4, -1] = BOUNDS[1], BOUNDS[0]
    if d > 1024:  # two terms of one lane that cancel, were there no smaller one added between them
        first = [0, 1024]
        x[:, first] = y[:, first]
        score[:, first] = torch.tensor([0.0, 2.0**15 if dtype == torch.float16 else 2.0**22], dtype=torch.float64)
        new_score[:, first] = score[:, first].flip(1)
    x, y, score, new_score = (each.to(dtype).view(shape) for each in (x, y, score, new_score))
    momentum = Momentum(None, None, None) if period is None else masses(period, wide, generator)
    counts = torch.arange(2 * n).view(n, 2)
    memory = MetropolisMemory(
        torch.zeros(n, dtype=torch.float64),
        score,
        torch.full((n,), 99.0, dtype=torch.float64),
        *(column.contiguous() for column in counts.unbind(1)),
    )
    args = MetropolisArgs(
        0.3, 0.4, 0.8, 1.3, *BOUNDS, **KEY, stream=0, offset=first_chain * d, test_stream=3, first_chain=0
    )
    args = args._replace(first_chain=first_chain)
    v = v.to(wide).view(shape) if trajectories else None
    case = Proposals(x, memory, y, v, new_score, torch.zeros(n, dtype=torch.float64), momentum, args)
    work = -1.3 * after_test(REFERENCE, case)[3]
    energy = torch.where(work.isfinite(), work, 0.0) + draw(n)
    new_energy = draw(n)
    if n >= 9:
        new_energy[5], new_energy[6], energy[7] = math.nan, math.inf, math.inf
    return case._replace(memory=memory._replace(energy=energy), energy=new_energy)


def at_a_uniform_of_0() -> tuple[Proposals, Proposals]:
    """Proposals that are accepted however large their energy, since log 0 is -infinity, but for an infinite one, which
    the second ones have. NumPy warns of the logarithm.
    """
    key = {"seed": 1, "step": 5}
    assert fl.noise.uniform((1,), **key, stream=3, offset=3382301) == 0
    case = proposals(torch.float32, (2, 3), trajectories=False, first_chain=3382300)
    case = case._replace(args=case.args._replace(**key))
    energies = (torch.tensor([0.0, energy], dtype=torch.float64) for energy in (1e300, math.inf))
    likely, impossible = (case._replace(energy=energy) for energy in energies)
    return likely, impossible


def _between(value, device, start):
    """A contiguous copy between numbers that must not change, `start` elements further than at 16 bytes."""
    whole = torch.full((2 * AROUND + start + value.numel(),), 99, dtype=value.dtype, device=device)
    inner = whole[AROUND + start : len(whole) - AROUND].view(value.shape)
    inner.copy_(value)
    return whole, inner


def _on(device, args, captured):
    """The arguments with their numbers in memory, one beside another, as in a captured graph's table."""
    if not captured:
        return args
    names = [name for name in args._fields if isinstance(getattr(args, name), float) and name not in ("lo", "hi")]
    floats = torch.tensor([getattr(args, name) for name in names], dtype=torch.float64, device=device)
    counts = torch.tensor([args.seed, args.step], device=device)
    return args._replace(**dict(zip(names, floats, strict=True)), seed=counts[0], step=counts[1])


def _run(function, writes, reads, device, start):
    """Calls the function with what it writes between other numbers. Returns what it wrote, on a CPU."""
    wholes, inner = zip(*(_between(value, device, start) for value in writes), strict=True)
    to_device = lambda value: None if value is None else _between(value, device, start)[1]
    function(inner, [to_device(value) for value in reads])
    for whole, value in zip(wholes, inner, strict=True):
        assert (whole[: AROUND + start] == 99).all() and (whole[AROUND + start + value.numel() :] == 99).all()
    return [value.cpu() for value in inner]


def after_move(moves, case: Velocities, *, device="cpu", captured=False, start=0) -> list[torch.Tensor]:
    """x and v after the move. start: how many elements beyond an address that 16 divides the states begin."""
    x, v, score, momentum, args = case

    def move(written, read):
        score, *factors = read
        moves.velocity_move(*written, score, Momentum(*factors), _on(device, args, captured))

    return _run(move, (x, v), (None if args.kick is None else score, *momentum), device, start)


def after_test(moves, case: Proposals, *, device="cpu", captured=False, start=0) -> list[torch.Tensor]:
    """x and the memory after the test."""
    x, memory, y, v, score, energy, momentum, args = case

    def test(written, read):
        x, memory = written[0], MetropolisMemory(*written[1:])
        (y, v, score, energy, *factors), numbers = read, _on(device, args, captured)
        if v is None:
            moves.mala_test(x, memory, y, score, energy, numbers)
        else:
            moves.hmc_test(x, memory, y, v, score, energy, Momentum(*factors), numbers)

    return _run(test, (x, *memory), (y, v, score, energy, *momentum), device, start)


def same(got: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    """Equal in all bits, but for the payloads of NaN."""
    return all(map(_same, got, expected))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    return torch.equal(a.isnan(), b.isnan()) and same_bits(
        a.nan_to_num(9, math.inf, -math.inf), b.nan_to_num(9, math.inf, -math.inf)
    )
