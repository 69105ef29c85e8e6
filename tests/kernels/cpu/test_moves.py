"""The moves in C++ against those in plain torch, bit for bit."""

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
    memory,
    momentum,
    proposals,
    random,
    wide,
)
from support.updates import DTYPES, same_bits

from fastlangevin.kernels import BACKENDS, native, reference_moves
from fastlangevin.kernels.arguments import Momentum
from fastlangevin.kernels.schemas import move_names

pytestmark = pytest.mark.skipif(native.load_cpu() is not None, reason="no CPU library")
cpu = BACKENDS["cpu"].moves
UNIT_MASSES = Momentum(None, None, None)
# Elements of a chain below and above the lanes of a sum, and chains that fill several blocks, a part of one, or none.
SHAPES = [(1, 1), (7, 1), (2, 3), (7, 129), (700, 2), (1, 1024), (2, 1025), (2, 4099), (0, 3)]


def assert_moves_agree(x, v, score, momentum, args):
    y, u = x.clone(), v.clone()
    reference_moves.velocity_move(y, u, score, momentum, args)
    cpu.velocity_move(x, v, score, momentum, args)
    assert same_bits(x, y) and same_bits(v, u)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masses", MASSES)
def test_moves(capability, masses, dtype):
    for i, move in enumerate(MOVES, MASSES.index(masses)):
        shape = ((2, 3), (7, 129), (2, 1025))[i % 3]
        args = MOVE._replace(offset=(0, 5, 2**34 - 700)[i // 3 % 3], stream=i, **MOVES[move])
        x, v, score = random(shape, dtype), random(shape, wide(dtype), 1), random(shape, dtype, 2)
        if args.draws:
            v.fill_(math.nan)
        assert_moves_agree(x, v, None if args.kick is None else score, momentum(masses, shape, dtype), args)
        assert x.isfinite().all() and v.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_moves_of_any_size(capability, shape):
    for period in (shape[1:], shape):
        m = momentum("of a chain" if period == shape[1:] else "of all chains", shape, torch.float32)
        assert_moves_agree(random(shape), random(shape, seed=1), random(shape, seed=2), m, MOVE._replace(offset=3))


def assert_tests_agree(x, y, v, score, energy, momentum, args, kept):
    """Both tests. Returns the memory after one of trajectories."""
    for name, tensors in (
        ("mala_test", (y, score, energy, args)),
        ("hmc_test", (y, v, score, energy, momentum, args)),
    ):
        (new, after), (expected, expected_after) = copies(x, kept), copies(x, kept)
        getattr(cpu, name)(new, after, *tensors)
        getattr(reference_moves, name)(expected, expected_after, *tensors)
        assert same_bits(new, expected) and same_bits(after.score, expected_after.score), name
        for got, wanted in zip(after, expected_after, strict=True):
            assert torch.equal(got.nan_to_num(1e9), wanted.nan_to_num(1e9)), name
    return after


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_metropolis_tests(capability, shape, dtype):
    x = random(shape, dtype)
    y, v, score, energy = proposals(x, shape[1])
    kept = memory(x, random(shape[:1], torch.float64, 6))
    for i, masses in enumerate(MASSES):
        args = TEST._replace(offset=(0, 3, 2**40 - 1)[i], first_chain=(0, 7, 2**35)[i], stream=i)
        if i == 2:
            args = args._replace(lo=-2.0, hi=2.5)
        after = assert_tests_agree(x, y, v, score, energy, momentum(masses, shape, dtype), args, kept)
    if shape == (700, 2):
        assert 100 < (after.n_rejected == 0).sum() < 600
        assert 0 < (after.log_ratio == -math.inf).sum() < 300


@pytest.mark.parametrize("d", [2, 1025])
def test_not_a_number(capability, d):
    """In a proposal, in its energy, in the energy before; where the first or the last element is outside."""
    x = random((6, d))
    y, v, score, energy = proposals(x, d)
    y.clamp_(-2, 2)
    y[0, 1], energy[1], y[2, 0], y[3, -1], y[4] = math.nan, math.nan, -3.0, math.inf, math.nan
    kept = memory(x, torch.full((6,), 1e3, dtype=torch.float64))
    kept.energy[5] = math.nan
    assert_tests_agree(x, y, v, score, energy, UNIT_MASSES, TEST, kept)
    after = assert_tests_agree(x, y, v, score, energy, UNIT_MASSES, TEST._replace(lo=-2.0, hi=2.0), kept)
    assert (after.n_rejected > 0).all() and torch.equal(after.n_accepted, kept.n_accepted)


def test_limits_are_rounded_to_the_states_type(capability):
    """A proposal on a rounded limit is inside, though the limit itself is not."""
    for dtype in DTYPES:
        lo, hi = -1.0 + 2.0**-20, 1.0 - 2.0**-20
        x, y = torch.zeros(4, 1, dtype=dtype), torch.tensor([[-1.0], [1.0], [0.5], [1.0]], dtype=dtype)
        y[3] += torch.finfo(dtype).eps * 2
        kept = memory(x, torch.full((4,), 50.0, dtype=torch.float64))._replace(score=torch.zeros_like(x))
        energy, zeros = torch.zeros(4, dtype=torch.float64), torch.zeros_like(x)
        after = assert_tests_agree(
            x, y, zeros.to(wide(dtype)), zeros, energy, UNIT_MASSES, TEST._replace(lo=lo, hi=hi), kept
        )
        on_limit = dtype.itemsize == 2
        assert (after.log_ratio > -math.inf).tolist() == [on_limit, on_limit, 1, 0]


def test_any_event_shape():
    x, score = random((3, 2, 4, 5)), random((3, 2, 4, 5), seed=1)
    assert_moves_agree(x.clone(), random(x.shape, seed=2), score, momentum("of a chain", x.shape, x.dtype), MOVE)
    y, v, new_score, energy = proposals(x, 40)
    m = momentum("of a chain", x.shape, x.dtype)
    assert_tests_agree(x, y, v, new_score, energy, m, TEST, memory(x, random((3,), torch.float64)))


@pytest.mark.parametrize("shape", [(20_000, 2), (37, 1025), (3, 20_000)])
def test_threads_do_not_matter(threads, shape):
    m = momentum("of a chain", shape, torch.float32)
    results = []
    for n in (1, 2, 3):
        threads(n)
        x, v = random(shape), random(shape, seed=1)
        cpu.velocity_move(x, v, random(shape, seed=2), m, MOVE._replace(offset=1))
        y, u, score, energy = proposals(random(shape), shape[1])
        states, kept = random(shape), memory(random(shape), random(shape[:1], torch.float64))
        cpu.hmc_test(states, kept, y, u, score, energy, m, TEST._replace(offset=1))
        cpu.mala_test(states, kept, y, score, energy, TEST)
        results.append((x, v, states, *kept))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_parts_of_a_batch_are_the_whole():
    x = random((11, 3))
    m = momentum("of a chain", x.shape, x.dtype)
    y, v, score, energy = proposals(x, 3)
    kept = memory(x, random((11,), torch.float64))
    whole, after = copies(x, kept)
    cpu.hmc_test(whole, after, y, v, score, energy, m, TEST._replace(offset=30, first_chain=10))
    parts, after_parts = copies(x, kept)
    for a, b in ((0, 4), (4, 11)):
        args = TEST._replace(offset=30 + 3 * a, first_chain=10 + a)
        of_part = type(kept)(*(each[a:b] for each in after_parts))
        cpu.hmc_test(parts[a:b], of_part, y[a:b], v[a:b], score[a:b], energy[a:b], m, args)
    assert torch.equal(whole, parts)
    assert all(torch.equal(a, b) for a, b in zip(after, after_parts, strict=True))


def as_tensors(args):
    """The numbers of a move or a test as tensors."""
    floats = ("kick", "drift", "decay", "noise_std", "step_size", "temperature")
    numbers = {k: torch.tensor(v, dtype=torch.float64) for k, v in args._asdict().items() if k in floats}
    return args._replace(seed=torch.tensor(args.seed), step=torch.tensor(args.step), **numbers)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_as_tensors(dtype):
    shape = (5, 3)
    m = momentum("of a chain", shape, dtype)
    x, score = random(shape, dtype), random(shape, dtype, 2)
    assert_moves_agree(x, random(shape, wide(dtype), 1), score, m, as_tensors(MOVE))
    y, v, new_score, energy = proposals(x, 3)
    assert_tests_agree(x, y, v, new_score, energy, m, as_tensors(TEST), memory(x, random((5,), torch.float64)))
    kept = [memory(x, random((5,), torch.float64)) for _ in range(2)]
    for each, args in zip(kept, (TEST, as_tensors(TEST)), strict=True):
        cpu.mala_test(x.clone(), each, y, new_score, energy, args)
    assert torch.equal(kept[0].log_ratio, kept[1].log_ratio)


def test_memory_around_the_states_is_unchanged(capability):
    def inside(value, shape, dtype=torch.float32):
        whole = torch.full((shape[0] + 4, *shape[1:]), value, dtype=dtype)
        return whole, whole[2:-2]

    shape = (5, 259)
    wholes, parts = zip(*(inside(99.0, shape) for _ in range(3)), strict=True)
    of_chains = [inside(99.0, shape[:1], torch.float64) for _ in range(2)] + [
        inside(99, shape[:1], torch.int64) for _ in range(2)
    ]
    x, v, score = parts
    energy, log_ratio, n_accepted, n_rejected = (part for _, part in of_chains)
    x.copy_(random(shape)), v.copy_(random(shape)), score.copy_(random(shape))
    cpu.velocity_move(x, v, random(shape), UNIT_MASSES, MOVE)
    kept = memory(x, energy)._replace(
        energy=energy, score=score, log_ratio=log_ratio, n_accepted=n_accepted, n_rejected=n_rejected
    )
    cpu.mala_test(x, kept, x + 0.1, random(shape), energy - 1, TEST)
    for whole in (*wholes, *(whole for whole, _ in of_chains)):
        assert (whole[:2] == 99).all() and (whole[-2:] == 99).all() and (whole[2:-2] != 99).all()


def test_autograd_notices_the_writes():
    x, v = random((3, 2)), random((3, 2))
    kept = memory(x, random((3,), torch.float64))
    versions = [each._version for each in (x, v, *kept)]
    cpu.velocity_move(x, v, random((3, 2)), UNIT_MASSES, MOVE)
    cpu.mala_test(x, kept, x + 1, random((3, 2)), kept.energy.clone(), TEST)
    assert [each._version for each in (x, v, *kept)] == [versions[0] + 2, *(version + 1 for version in versions[1:])]


@pytest.mark.parametrize("as_tensors", [False, True])
def test_opcheck(as_tensors):
    move, mala, hmc = (
        getattr(getattr(torch.ops.fastlangevin, name), "tensor" if as_tensors else "default")
        for name in move_names("cpu")
    )

    def number(value):
        dtype = torch.int64 if isinstance(value, int) else torch.float64
        return torch.tensor(value, dtype=dtype) if as_tensors else value

    x = random((3, 2))
    m = momentum("of a chain", x.shape, x.dtype)
    y, v, score, energy = proposals(x, 2)
    kept = memory(x, random((3,), torch.float64))
    tensors, key = (x, *kept, y, score, energy), (number(7), number(3))
    numbers = (number(0.5), 2, number(0.1), number(0.9), number(0.3), *key, 0, 0)
    torch.library.opcheck(move, (x, v, score, m.weights, m.roots, False, *numbers))
    torch.library.opcheck(mala, (*tensors, number(0.1), number(1.0), -1.0, 1.0, *key, 3, 0))
    numbers = (number(0.1), number(0.3), number(1.0), -1.0, 1.0, *key, 0, 0, 3, 0)
    torch.library.opcheck(hmc, (*tensors, v, *m, *numbers))


def refused(name, change):
    x = random((4, 2))
    m = momentum("of a chain", x.shape, x.dtype)
    y, v, score, energy = proposals(x, 2)
    given = {"x": x, "v": v, "y": y, "score": score, "energy": energy, "m": m, "kept": memory(x, energy), "move": MOVE}
    given |= change
    if name == "velocity_move":
        cpu.velocity_move(given["x"], given["v"], given["score"], given["m"], given["move"])
    else:
        tensors = (given["y"], given["v"], given["score"], given["energy"], given["m"])
        cpu.hmc_test(given["x"], given["kept"], *tensors, TEST)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("velocity_move", {"x": random((2, 4)).t()}, "x must be contiguous and have 8 elements"),
        ("velocity_move", {"x": torch.zeros(4, 2, dtype=torch.int32)}, "x must be float32, float64, bfloat16 or"),
        ("velocity_move", {"v": random((4, 3))}, "v must be contiguous and have 8 elements"),
        ("velocity_move", {"v": random((4, 2), torch.float64)}, "v has another type"),
        ("velocity_move", {"score": random((4, 2), torch.bfloat16)}, "score has another type"),
        ("velocity_move", {"score": None}, "a kick needs a score"),
        ("velocity_move", {"move": MOVE._replace(n_kicks=3)}, "comes once or twice"),
        ("velocity_move", {"m": Momentum(None, random((3,)), random((3,)))}, "weights must repeat over the elements"),
        ("velocity_move", {"m": Momentum(None, random((2,)), random((4,)))}, "roots must be as many as the others"),
        ("hmc_test", {"x": torch.tensor(1.0)}, r"x must be \(B, \*event\)"),
        ("hmc_test", {"y": random((4, 3))}, "y must be contiguous and have 8 elements"),
        ("hmc_test", {"energy": random((4,))}, "new_energy has another type"),
        ("hmc_test", {"energy": random((3,), torch.float64)}, "new_energy must be contiguous and have 4 elements"),
        ("hmc_test", {"m": Momentum(random((3,)), None, None)}, "masses must repeat over the elements"),
    ],
)
def test_what_is_refused(name, change, words):
    with pytest.raises(RuntimeError, match=words):
        refused(name, change)
