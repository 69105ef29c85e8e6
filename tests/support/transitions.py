"""Energies whose scores and energies plain torch computes to the bits of the native kernels, and their transitions step
by step with the moves in plain torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import fastlangevin as fl
from fastlangevin.kernels import reference, reference_moves
from fastlangevin.kernels.arguments import (
    MetropolisArgs,
    MetropolisMemory,
    Momentum,
    MoveArgs,
    TransitionArgs,
    TransitionKind,
    UpdateArgs,
)
from fastlangevin.kernels.cpu import analytic_chain, mlp_chain
from fastlangevin.network.layers import Activation, Linear

Memory = MetropolisMemory | Tensor
KINDS = tuple(TransitionKind)
UNIT_MASSES = Momentum(None, None, None)
SIZES = (0.5, 0.3, 0.4, 0.2)
FRICTION = 0.7


@dataclass
class Case:
    """An energy: `run(x, memory, args)` by the kernels, `energy(x, fma)` and `score(x, fma)` in plain torch."""

    run: Callable[[Tensor, Memory, TransitionArgs], None]
    energy: Callable[..., Tensor]
    score: Callable[..., Tensor]


def fma_of(capability: str) -> Callable[[Tensor, Tensor | float, Tensor | float], Tensor]:
    """The fused multiply-add of an instruction set's vectors."""
    return (lambda a, b, c: a * b + c) if capability == "portable" else reference._fma32


def double_well(d: int) -> Case:
    barrier, width = (torch.tensor(v) for v in (0.7, 1.3))
    per_square = 1 / (width * width)

    def away(x: Tensor) -> Tensor:
        return x * x * per_square - 1

    def energy(x: Tensor, fma: object) -> Tensor:
        total = torch.zeros(len(x))
        for column in away(x).unbind(1):
            total = total + column * column
        return total * barrier

    return Case(
        lambda *rest: analytic_chain.double_well_transitions_(0.7, 1.3, *rest),
        energy,
        lambda x, fma: -4 * barrier * per_square * x * away(x),
    )


def gaussian(d: int) -> Case:
    """A mixture of one component, whose weight is 1."""
    generator = torch.Generator().manual_seed(d)
    mean = torch.randn(d, generator=generator)
    mixture = fl.energies.GaussianMixture(mean[None], 0.5 + torch.rand(1, d, generator=generator))
    precision = mixture.precisions[0]

    def energy(x: Tensor, fma: Callable[..., Tensor]) -> Tensor:
        square = torch.zeros(len(x))
        for column, m, p in zip(x.unbind(1), mean, precision, strict=True):
            square = fma((m - column) * p, m - column, square)
        return -fma(square, -0.5, mixture.constants.expand(len(x)))

    tensors = (mixture.constants, mixture.means, mixture.precisions)
    return Case(
        lambda *rest: analytic_chain.mixture_transitions_(*tensors, *rest),
        energy,
        lambda x, fma: (mean - x) * precision,
    )


def mlp(d: int) -> Case:
    """A hidden layer of small whole weights and a leaky ReLU of slope ¼: scores but for the prior are exact."""
    generator = torch.Generator().manual_seed(d)
    weight, bias, last = (torch.randint(-2, 3, shape, generator=generator).float() for shape in ((9, d), (9,), (9,)))
    layers = (Linear(weight, bias), Activation("leaky_relu", (0.25,)))
    prior = 0.75

    def hidden(x: Tensor, fma: Callable[..., Tensor]) -> Tensor:
        z = bias.expand(len(x), 9)
        for i, column in enumerate(x.unbind(1)):
            z = fma(column[:, None], weight[:, i], z)
        return z

    def energy(x: Tensor, fma: Callable[..., Tensor]) -> Tensor:
        z = hidden(x, fma)
        value, square = torch.zeros(len(x)), torch.zeros(len(x))
        for column, factor in zip((z * torch.where(z > 0, 1.0, 0.25)).unbind(1), last, strict=True):
            value = fma(column, factor, value)
        for column in x.unbind(1):
            square = fma(column, column, square)
        return fma(square, 0.5 * prior, -value)

    def score(x: Tensor, fma: Callable[..., Tensor]) -> Tensor:
        return fma(x, -prior, (torch.where(hidden(x, fma) > 0, 1.0, 0.25) * last) @ weight)

    return Case(lambda *rest: mlp_chain.run_transitions_(layers, last, prior, *rest), energy, score)


CASES = {"double well": double_well, "Gaussian": gaussian, "MLP": mlp}


def arguments(kind: TransitionKind, momentum: Momentum = UNIT_MASSES, **changes: object) -> TransitionArgs:
    """The noise and the decays follow from the step sizes."""
    args = TransitionArgs(
        *(kind, SIZES, (), (), 3, 1.3, momentum, -math.inf, math.inf, 20191125, range(7, 7 + len(SIZES))),
        **dict(stream=0, offset=0, test_stream=3, first_chain=0),
    )._replace(**changes)
    t, sizes = args.temperature, args.step_sizes
    if kind == TransitionKind.underdamped:
        decays = [math.exp(-FRICTION * size) for size in sizes]
        return args._replace(
            noise_stds=[math.sqrt(-math.expm1(-2 * FRICTION * size) * t) for size in sizes], decays=decays
        )
    return args._replace(noise_stds=[math.sqrt(2.0 * size * t if kind == TransitionKind.mala else t) for size in sizes])


def memory_of(kind: TransitionKind, x: Tensor) -> Memory:
    """With values that are to be overwritten, but for velocities and counts from before."""
    n = len(x)
    if kind == TransitionKind.underdamped:
        return torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    energy, ratio = (torch.full((n,), math.nan, dtype=torch.float64) for _ in range(2))
    return MetropolisMemory(energy, torch.full_like(x, 99.0), ratio, torch.arange(n), torch.arange(n) + 5)


def copy_of(memory: Memory) -> Memory:
    return memory.clone() if isinstance(memory, Tensor) else MetropolisMemory(*(each.clone() for each in memory))


def same(a: Memory, b: Memory) -> bool:
    pairs = [(a, b)] if isinstance(a, Tensor) else zip(a, b, strict=True)
    return all(torch.equal(p.nan_to_num(1e9), q.nan_to_num(1e9)) for p, q in pairs)


def step_by_step(case: Case, x: Tensor, memory: Memory, args: TransitionArgs, fma: Callable[..., Tensor]) -> None:
    """The transitions in place, each move by `reference_moves`. `memory.score` is that of the states."""
    move, m = reference_moves.velocity_move, args.momentum
    score = case.score(x, fma)
    if not isinstance(memory, Tensor):
        memory.energy.copy_(case.energy(x, fma))
        memory.score.copy_(score)
    for k, (size, noise_std, step) in enumerate(zip(args.step_sizes, args.noise_stds, args.steps, strict=True)):
        key, place = (args.seed, step), (args.stream, args.offset)
        if isinstance(memory, Tensor):
            numbers = MoveArgs(False, size / 2, 1, size / 2, args.decays[k], noise_std, *key, *place)
            move(x, memory, score, m, numbers)
            score = case.score(x, fma)
            move(x, memory, score, m, numbers._replace(drift=0.0, decay=None))
            continue
        y = x.clone()
        test = MetropolisArgs(
            size,
            size / 2,
            noise_std,
            args.temperature,
            args.lo,
            args.hi,
            *key,
            *place,
            args.test_stream,
            args.first_chain,
        )
        if args.kind == TransitionKind.mala:
            reference.update(y, memory.score, UpdateArgs(size, noise_std, *key, *place, None, None, None))
            reference_moves.mala_test(x, memory, y, case.score(y, fma), case.energy(y, fma).double(), test)
            continue
        v = torch.full_like(x, math.nan)
        numbers = MoveArgs(True, size / 2, 1, size, None, noise_std, *key, *place)
        move(y, v, memory.score, m, numbers)
        for _ in range(args.n_leapfrog - 1):
            move(y, v, case.score(y, fma), m, numbers._replace(draws=False, kick=size))
        s, energy = case.score(y, fma), case.energy(y, fma).double()
        reference_moves.hmc_test(x, memory, y, v, s, energy, m, test)
