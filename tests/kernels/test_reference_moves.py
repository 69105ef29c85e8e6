"""The moves in plain torch: every rounding against rational numbers, and what they mean against a density."""

from __future__ import annotations

import math

import pytest
import torch
from support.moves import (
    MASSES,
    MOVE,
    MOVES,
    TEST,
    copies,
    fma,
    memory,
    momentum,
    plain_sum,
    product,
    proposals,
    random,
    rounded,
    total,
)
from support.updates import same_bits

import fastlangevin as fl
from fastlangevin.kernels import reference_moves
from fastlangevin.kernels.arguments import Momentum

TYPES = (torch.float32, torch.float64)
SHAPE = (3, 5)


def of_elements(factors):
    """The factor of each element of a state of SHAPE."""
    return [1.0] * 15 if factors is None else factors.expand(SHAPE).reshape(-1).tolist()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("masses", MASSES)
@pytest.mark.parametrize("move", MOVES)
def test_a_move_rounds_each_operation_once(move, masses, dtype):
    args = MOVE._replace(offset=6, **MOVES[move])
    x, v, score, m = *(random(SHAPE, dtype, seed) for seed in (0, 1, 2)), momentum(masses, SHAPE, dtype)
    z = fl.noise.normal(SHAPE, seed=args.seed, step=args.step, offset=6, backend="reference").double()
    kick, drift, decay, noise_std = (
        rounded(value or 0.0, dtype) for value in (args.kick, args.drift, args.decay, args.noise_std)
    )
    expected = []
    rows = zip(x.view(-1).tolist(), v.view(-1).tolist(), score.view(-1).tolist(), z.view(-1).tolist(), strict=True)
    for (at, velocity, s, deviate), w, r in zip(rows, of_elements(m.weights), of_elements(m.roots), strict=True):
        noise = product(product(noise_std, r, dtype), deviate, dtype)
        if args.draws:
            velocity = noise
        for _ in range(args.n_kicks):
            velocity = fma(product(kick, w, dtype), s, velocity, dtype)
        at = fma(drift, velocity, at, dtype)
        if args.decay is not None:
            velocity = fma(decay, velocity, noise, dtype)
            at = fma(drift, velocity, at, dtype)
        expected.append((at, velocity))
    reference_moves.velocity_move(x, v, None if args.kick is None else score, m, args)
    assert same_bits(torch.stack([x, v], dim=-1).view(-1, 2), torch.tensor(expected, dtype=dtype))


def test_sixteen_bits_are_rounded_at_the_end():
    for dtype in (torch.bfloat16, torch.float16):
        x, v, score = random(SHAPE, dtype), random(SHAPE, seed=1), random(SHAPE, dtype, 2)
        y, u = x.float(), v.clone()
        reference_moves.velocity_move(x, v, score, momentum("of a chain", SHAPE, dtype), MOVE)
        reference_moves.velocity_move(y, u, score.float(), momentum("of a chain", SHAPE, dtype), MOVE)
        assert same_bits(x, y.to(dtype)) and same_bits(v, u)


@pytest.mark.parametrize("d", [0, 1, 2, 3, 6, 129, 1024, 1025, 4099])
def test_sums_have_their_order(d):
    """Of terms of many sizes, so that another order gives other bits."""
    terms = random((2, d)) * 10.0 ** (6 * random((2, d), seed=1))
    sums = reference_moves.chain_sum(terms)
    assert sums.tolist() == [plain_sum(row) for row in terms.tolist()]
    if d > 100:
        assert sums.tolist() != [sum(row) for row in terms.tolist()]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("masses", [None, *MASSES])
def test_a_test_rounds_each_operation_once(masses, dtype):
    """masses: None for Langevin proposals."""
    x = random(SHAPE, dtype)
    kept, m = memory(x, random((3,), torch.float64, 6)), momentum(masses or "none", SHAPE, dtype)
    y, v, score, energy = proposals(x, 5)
    args = TEST._replace(offset=6, first_chain=40)
    z = fl.noise.normal(SHAPE, seed=args.seed, step=args.step, offset=6, backend="reference").double().tolist()
    u = fl.noise.uniform((3,), seed=args.seed, step=args.step, stream=3, offset=40, backend="reference").tolist()
    half, kick, noise_std = (rounded(value, dtype) for value in (args.step_size, args.kick, args.noise_std))
    mass, weights, roots = (torch.tensor(of_elements(each), dtype=dtype).view(SHAPE).tolist() for each in m)
    expected = []
    for b in range(3):
        terms = []
        for i in range(5):
            a, c, s, t = (each[b, i].item() for each in (x, y, kept.score, score))
            if masses is None:
                moved = fma(half / 2, total(t, -s, dtype), total(c, -a, dtype), dtype)
                terms.append(product(total(s, t, dtype), moved, dtype))
                continue
            end = fma(product(kick, weights[b][i], dtype), t, v[b, i].item(), dtype)
            drawn = product(product(noise_std, roots[b][i], dtype), z[b][i], dtype)
            difference = product(mass[b][i] / 2, total(end, -drawn, dtype), dtype)
            terms.append(product(difference, total(end, drawn, dtype), dtype))
        work = plain_sum(terms) * (0.5 if masses is None else 1.0)
        expected.append((kept.energy[b].item() - energy[b].item() - work) / args.temperature)
    accepted = torch.tensor([math.log(each) < ratio for each, ratio in zip(u, expected, strict=True)])
    new, after = copies(x, kept)
    if masses is None:
        reference_moves.mala_test(new, after, y, score, energy, args)
    else:
        reference_moves.hmc_test(new, after, y, v, score, energy, m, args)
    assert after.log_ratio.tolist() == expected
    assert torch.equal(new, torch.where(accepted[:, None], y, x))
    assert torch.equal(after.score, torch.where(accepted[:, None], score, kept.score))
    assert torch.equal(after.energy, torch.where(accepted, energy, kept.energy))
    assert torch.equal(after.n_accepted, kept.n_accepted + accepted)
    assert torch.equal(after.n_rejected, torch.where(accepted, 0, kept.n_rejected + 1))


def test_chains_of_both_outcomes():
    """What the tests of one transition compare: about half of the chains are accepted."""
    x = random((400, 3))
    kept = memory(x, random((400,), torch.float64, 6))
    before = kept.n_accepted.clone()
    y, v, score, energy = proposals(x, 3)
    for run in (
        lambda: reference_moves.mala_test(x.clone(), kept, y, score, energy, TEST),
        lambda: reference_moves.hmc_test(x.clone(), kept, y, v, score, energy, Momentum(None, None, None), TEST),
    ):
        run()
        assert 100 < (kept.n_accepted - before).sum() < 300
        before = kept.n_accepted.clone()


def test_the_ratio_of_a_langevin_proposal():
    """log p(y) q(x | y) - log p(x) q(y | x) for U = ½ Σ a_i x_i², p ∝ e^(-U / T), q = N(x + η s(x), 2 η T).

    Both sides are sums of numbers below 300, with fewer than 40 roundings to 2^-53.
    """
    x, y = random((50, 4), torch.float64), random((50, 4), torch.float64, 1)
    a, eta, temperature = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64), TEST.step_size, TEST.temperature

    def energy(x):
        return 0.5 * (a * x.square()).sum(1)

    def log_q(to, start):
        return -(to - start + eta * a * start).square().sum(1) / (4 * eta * temperature)

    kept = memory(x, energy(x))._replace(score=-a * x)
    reference_moves.mala_test(x.clone(), kept, y, -a * y, energy(y), TEST)
    there, back = log_q(y, x), log_q(x, y)
    expected = (energy(x) - energy(y)) / temperature + back - there
    assert max(there.abs().max(), back.abs().max()) < 300 and expected.std() > 0.1
    torch.testing.assert_close(kept.log_ratio, expected, rtol=0, atol=300 * 40 * 2**-53)


def test_the_ratio_of_a_trajectory():
    """The change of H = U + ½ Σ m v² over a leapfrog of three steps, divided by -T. U = ½ Σ x²."""
    shape, n, eps = (50, 4), 3, 0.3
    m = momentum("of a chain", shape, torch.float64)
    x = random(shape, torch.float64)
    start = fl.noise.normal(shape, seed=TEST.seed, step=TEST.step).double() * TEST.noise_std * m.roots
    y, v = x.clone(), torch.full_like(x, math.nan)
    args = MOVE._replace(draws=True, kick=eps / 2, n_kicks=1, drift=eps, decay=None, noise_std=TEST.noise_std)
    reference_moves.velocity_move(y, v, -x, m, args)
    for _ in range(n - 1):
        reference_moves.velocity_move(y, v, -y, m, args._replace(draws=False, kick=eps))
    kept = memory(x, x.square().sum(1) / 2)
    test = TEST._replace(kick=eps / 2)
    reference_moves.hmc_test(x.clone(), kept, y, v, -y, y.square().sum(1) / 2, m, test)
    end = v - eps / 2 * m.weights * y
    before, after = ((x.square() + m.masses * u.square()).sum(1) / 2 for x, u in ((x, start), (y, end)))
    # Of sizes below 10, with fewer than 60 roundings.
    torch.testing.assert_close(kept.log_ratio, (before - after) / TEST.temperature, rtol=0, atol=600 * 2**-53)
    assert kept.log_ratio.abs().max() > 0.01


@pytest.mark.parametrize("dtype", [*TYPES, torch.bfloat16], ids=str)
def test_nan_and_bounds_reject(dtype):
    x = torch.zeros(6, 2, dtype=dtype)
    y = torch.tensor([[0.5, 0.5], [1.0, -1.0], [0.5, 1.25], [-1.25, 0.5], [math.nan, 0.5], [0.5, 0.5]], dtype=dtype)
    zeros = torch.zeros(6, dtype=torch.float64)
    kept = memory(x, zeros)._replace(score=torch.zeros_like(x))
    energy = torch.tensor([-50.0] * 5 + [math.nan], dtype=torch.float64)
    bounded = TEST._replace(lo=-1.0, hi=1.0)
    reference_moves.mala_test(x, kept, y, torch.zeros_like(x), energy, bounded)
    assert torch.equal(x, torch.where(torch.tensor([1, 1, 0, 0, 0, 0]).bool()[:, None], y, 0.0))
    assert torch.equal(kept.log_ratio[2:5], torch.full((3,), -math.inf, dtype=torch.float64))
    assert kept.log_ratio[5].isnan() and kept.energy[5] == 0 and kept.n_rejected[5] == 11
