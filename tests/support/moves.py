"""States, velocities and memories that the tests of the moves share, and their definition in plain Python."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

import fastlangevin as fl
from fastlangevin.kernels.arguments import MetropolisArgs, MetropolisMemory, Momentum, MoveArgs

MOVE = MoveArgs(False, 0.3, 2, 0.21, 0.71, 0.43, seed=20191125, step=7, stream=0, offset=0)
TEST = MetropolisArgs(0.1, 0.15, 0.43, 0.7, -math.inf, math.inf, 20191125, 7, 0, 0, test_stream=3, first_chain=0)
# Of `MoveArgs`: a drawn velocity and half a kick, a whole kick, the parts of BAOAB, a kick alone, noise alone.
MOVES = {
    "draws": {"draws": True, "n_kicks": 1, "decay": None},
    "leapfrog": {"n_kicks": 1, "decay": None},
    "BAOAB": {},
    "first of BAOAB": {"n_kicks": 1},
    "no kick": {"kick": None, "n_kicks": 0},
    "draws and no kick": {"draws": True, "kick": None, "n_kicks": 0, "decay": None},
    "everything": {"draws": True},
}
MASSES = ("none", "of a chain", "of all chains")


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type of velocities and masses."""
    return torch.promote_types(dtype, torch.float32)


def random(shape, dtype=torch.float32, seed=0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def momentum(masses: str, shape: tuple[int, ...], dtype: torch.dtype) -> Momentum:
    if masses == "none":
        return Momentum(None, None, None)
    m = 0.5 + random(shape[1:] if masses == "of a chain" else shape, torch.float64, 9).abs()
    return Momentum(*(each.to(wide(dtype)) for each in (m, 1 / m, m.rsqrt())))


def memory(x: Tensor, energy: Tensor) -> MetropolisMemory:
    """With a ratio that is to be overwritten, and counts from before."""
    n = len(x)
    ratio = torch.full((n,), 1e30, dtype=torch.float64)
    return MetropolisMemory(energy.clone(), random(x.shape, x.dtype, 1), ratio, torch.arange(n), torch.arange(n) + 5)


def proposals(x: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, velocities, the score at y and energies, with which about half of x's chains of d elements are accepted."""
    y = (x.double() + random(x.shape, torch.float64, 2) / math.sqrt(max(d, 1))).to(x.dtype)
    v = fl.noise.normal(x.shape, seed=TEST.seed, step=TEST.step).to(wide(x.dtype)) * 0.43
    score = (random(x.shape, torch.float64, 1) + random(x.shape, torch.float64, 4) / max(d, 1)).to(x.dtype)
    return y, v, score, random((len(x),), torch.float64, 5)


def copies(x: Tensor, memory: MetropolisMemory) -> tuple[Tensor, MetropolisMemory]:
    return x.clone(), MetropolisMemory(*(each.clone() for each in memory))


def rounded(value: Fraction | float, dtype: torch.dtype) -> float:
    """The value rounded once to float32 or float64, ties to even."""
    if dtype == torch.float64 or value == 0:
        return float(value)
    value = Fraction(value)
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    exponent -= abs(value) < Fraction(2) ** exponent
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    return float(round(value / unit) * unit)


def fma(a: float, b: float, c: float, dtype: torch.dtype) -> float:
    return rounded(Fraction(a) * Fraction(b) + Fraction(c), dtype)


def product(a: float, b: float, dtype: torch.dtype) -> float:
    return rounded(Fraction(a) * Fraction(b), dtype)


def total(a: float, b: float, dtype: torch.dtype) -> float:
    return rounded(Fraction(a) + Fraction(b), dtype)


def plain_sum(terms: list[float]) -> float:
    """`reference_moves.chain_sum` of one chain."""
    lanes = 1
    while lanes < len(terms) and lanes < 1024:
        lanes *= 2
    sums = [0.0] * lanes
    for i, term in enumerate(terms):
        sums[i % lanes] += term
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [sums[i] + sums[i + half] for i in range(half)]
    return sums[0]
