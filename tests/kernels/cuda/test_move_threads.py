"""The moves' CUDA kernels without a GPU: the work of every thread runs on the host, bit for bit the reference's."""

from __future__ import annotations

import ctypes
import itertools
import math
import subprocess
from pathlib import Path

import pytest
import torch
from support.instructions import FMA
from support.move_cases import REFERENCE, after_move, after_test, at_a_uniform_of_0, proposals, same, velocities
from support.updates import DTYPES

from fastlangevin.kernels import build
from fastlangevin.kernels.arguments import Momentum

pytestmark = pytest.mark.any_processor

ROOT = Path(__file__).parents[3]


class OnHost:
    """The functions of `kernels.Moves`, by the CUDA kernels' threads.

    Attributes:
        packed: whether the last move's kernel was the packed one.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.move_on_host.restype = ctypes.c_bool

    def velocity_move(self, x, v, score, momentum, args):
        self.packed = self._library.move_on_host(
            *(DTYPES.index(x.dtype), at(x), at(v), at(score), *factors(momentum), ctypes.c_int64(x.numel())),
            *numbers(args, args.kick, args.drift, args.decay, args.noise_std),
            *(ctypes.c_uint32(args.stream), ctypes.c_uint64(args.offset)),
            ctypes.c_bool(args.draws),
            ctypes.c_int64(0 if args.kick is None else args.n_kicks),
            ctypes.c_bool(args.decay is not None),
        )

    def mala_test(self, x, memory, y, score, energy, args):
        self._test(x, memory, y, None, score, energy, Momentum(None, None, None), args.step_size, args)

    def hmc_test(self, x, memory, y, v, score, energy, momentum, args):
        self._test(x, memory, y, v, score, energy, momentum, args.kick, args)

    def _test(self, x, memory, y, v, score, energy, momentum, size, args):
        self._library.test_on_host(
            DTYPES.index(x.dtype),
            pointers(x, memory.score, y, score),
            pointers(memory.energy, memory.log_ratio, energy),
            pointers(memory.n_accepted, memory.n_rejected),
            *(at(v), *factors(momentum), *map(ctypes.c_int64, (len(x), math.prod(x.shape[1:])))),
            *numbers(args, size, args.noise_std, args.temperature),
            (ctypes.c_double * 2)(args.lo, args.hi),
            (ctypes.c_uint32 * 2)(args.stream, args.test_stream),
            *map(ctypes.c_uint64, (args.offset, args.first_chain)),
        )


def at(value):
    return None if value is None else ctypes.c_void_p(value.data_ptr())


def pointers(*values):
    return (ctypes.c_void_p * len(values))(*(None if v is None else v.data_ptr() for v in values))


def factors(momentum):
    return pointers(*momentum), ctypes.c_int64(0 if momentum.weights is None else momentum.weights.numel())


def numbers(args, *floats):
    on_device = isinstance(args.seed, torch.Tensor)
    floats = [0.0 if value is None else float(value) for value in floats]
    return (
        (ctypes.c_double * len(floats))(*floats),
        (ctypes.c_int64 * 2)(int(args.seed), int(args.step)),
        ctypes.c_bool(on_device),
    )


@pytest.fixture(scope="module")
def on_host(tmp_path_factory):
    if build.unsupported():
        pytest.skip(str(build.unsupported()))
    library = tmp_path_factory.mktemp("cuda") / "move_threads.so"
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", *FMA, "-shared", "-fPIC", "-Wno-unknown-pragmas"]
    source = Path(__file__).with_name("move_threads.cpp")
    subprocess.run([build.compiler(), *flags, "-I", ROOT / "csrc", source, "-o", library], check=True)
    return OnHost(ctypes.CDLL(str(library)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "period"), [(1, None), (8, 3), (1030, 5)])
def test_every_move(on_host, dtype, n, period):
    for draws, n_kicks, has_decay in itertools.product((False, True), (None, 1, 2), (False, True)):
        options = dict(draws=draws, n_kicks=n_kicks, has_decay=has_decay, period=period)
        for start, offset in ((0, 8), (1, 8), (0, 2**34 + 3)):
            case = velocities(dtype, n, offset=offset, **options)
            expected = after_move(REFERENCE, case)
            assert same(after_move(on_host, case, start=start, captured=start == 1), expected)
            assert on_host.packed == (start == 0 and offset % 4 == 0)


SHAPES = [(9, 1), (300, 2), (9, 3), (10, 2, 17), (2, 1024), (3, 2057)]


@pytest.mark.parametrize("trajectories", [False, True], ids=["mala", "hmc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tests_of_chains_of_any_length(on_host, trajectories, dtype, shape):
    for period, captured in ((None, False), (math.prod(shape[1:]), True), (math.prod(shape), False)):
        case = proposals(dtype, shape, trajectories=trajectories, period=period, first_chain=7)
        expected = after_test(REFERENCE, case)
        assert same(after_test(on_host, case, captured=captured, start=int(captured)), expected)
    if len(case.x) >= 9:
        assert 0 < (expected[-1] == 0).sum() < len(case.x)


def test_a_uniform_number_of_0(on_host):
    for case, accepted in zip(at_a_uniform_of_0(), (True, False), strict=True):
        got = after_test(on_host, case)
        assert same(got, after_test(REFERENCE, case))
        assert (got[-1][1] == 0) == accepted
