"""The moves in Triton's interpreter, bit for bit the reference's."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from support.fake_capture import FakeCapture
from support.move_cases import REFERENCE, after_move, after_test, at_a_uniform_of_0, proposals, same, velocities
from support.updates import DTYPES

import fastlangevin as fl
from fastlangevin import kernels
from fastlangevin.chains.cuda_graph import GraphCache

BACKEND = kernels.BACKENDS["triton"]
if BACKEND.unsupported(torch.device("cpu")):
    pytest.skip("needs Triton's interpreter", allow_module_level=True)
MOVES = BACKEND.moves


@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize("n_kicks", [None, 1, 2])
@pytest.mark.parametrize("has_decay", [False, True])
def test_every_move(draws, n_kicks, has_decay):
    case = velocities(torch.float32, 7, draws=draws, n_kicks=n_kicks, has_decay=has_decay, offset=2**34 + 3)
    assert same(after_move(MOVES, case, captured=draws), after_move(REFERENCE, case))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "period", "offset"), [(1030, 5, 1), (3, None, 0)])
def test_moves_of_all_types_with_masses(dtype, n, period, offset):
    case = velocities(dtype, n, draws=period is None, n_kicks=2, has_decay=True, period=period, offset=offset)
    assert same(after_move(MOVES, case, captured=period == 5, start=n % 2), after_move(REFERENCE, case))


SHAPES = [(9, 1), (70, 2), (9, 3), (10, 2, 17), (2, 1024), (1, 2057)]


@pytest.mark.parametrize("trajectories", [False, True], ids=["mala", "hmc"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tests_of_chains_of_any_length(trajectories, shape):
    case = proposals(torch.float32, shape, trajectories=trajectories, first_chain=7)
    expected = after_test(REFERENCE, case)
    assert same(after_test(MOVES, case, captured=shape[0] == 9), expected)
    if shape[0] >= 9:
        assert 0 < (expected[-1] == 0).sum() < shape[0]


@pytest.mark.parametrize("trajectories", [False, True], ids=["mala", "hmc"])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_tests_of_all_types_with_masses(trajectories, dtype):
    for shape, period in (((9, 6), 6), ((2, 1025), 2050)):
        case = proposals(dtype, shape, trajectories=trajectories, period=period, first_chain=3)
        assert same(after_test(MOVES, case, captured=True, start=1), after_test(REFERENCE, case))


def test_a_uniform_number_of_0():
    with np.errstate(divide="ignore"):
        for case, accepted in zip(at_a_uniform_of_0(), (True, False), strict=True):
            got = after_test(MOVES, case)
            assert same(got, after_test(REFERENCE, case))
            assert (got[-1][1] == 0) == accepted


def quartic(x):
    return ((x * x - 1.0) ** 2 + 0.3 * x).sum(dim=1)


MASS = torch.tensor([0.5, 1.0, 3.0])
SAMPLERS = {
    "mala": functools.partial(fl.MALA, step_size=0.05, bounds=(-2, 2)),
    "hmc": functools.partial(fl.HMC, step_size=0.1, n_leapfrog=2, mass=MASS, temperature=1.5),
    "underdamped": functools.partial(fl.Underdamped, step_size=0.1, friction=0.7, mass=MASS),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_captured_chains_have_the_reference_s_bits(name):
    """A stand-in for the capture runs again what was captured, all of which has run before. For a chain in one graph
    and in one graph a step, with another step size, and a second call.
    """
    x0 = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    options = {"n_steps": 2, "seed": 3}
    expected = SAMPLERS[name](quartic, backend="reference", **options)
    for unroll in (1, 2):
        FakeCapture.made = []
        sampler = SAMPLERS[name](quartic, backend="triton", **options)
        sampler._graphs = GraphCache(True, unroll, FakeCapture, "cpu")
        for change, step in (({}, 0), ({"step_size": 0.15}, 2)):
            got = sampler.replace(**change)(x0, step=step)
            assert torch.equal(got, expected.replace(**change)(x0, step=step))
        (device,) = FakeCapture.made
        assert device.replays and device.cold == set()
