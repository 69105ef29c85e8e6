"""On a GPU: the moves have the CPU's bits on every backend; MALA, HMC and underdamped dynamics captured and not."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from support.move_cases import REFERENCE, after_move, after_test, at_a_uniform_of_0, proposals, same, velocities
from support.updates import DTYPES

import fastlangevin as fl
from fastlangevin import kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture(params=["cuda", "triton", "reference"])
def backend(request):
    why = kernels.BACKENDS[request.param].unsupported(torch.device("cuda"))
    if why:
        pytest.skip(f"backend {request.param}: {why}")
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n_kicks", [None, 1, 2])
def test_move_bits(backend, dtype, n_kicks):
    moves = kernels.BACKENDS[backend].moves
    for draws, has_decay in ((False, False), (False, True), (True, False), (True, True)):
        for n, period, offset, start in ((7, 3, 3, 0), (1030, None, 8, 1), (200_000, 1000, 4, 0)):
            options = dict(draws=draws, n_kicks=n_kicks, has_decay=has_decay, period=period, offset=offset)
            case = velocities(dtype, n, **options)
            expected = after_move(REFERENCE, case)
            for captured in (False, True):
                got = after_move(moves, case, device="cuda", captured=captured, start=start)
                assert same(got, expected), (n, draws, has_decay, captured)


SHAPES = [(9, 1), (5000, 2), (300, 5), (10, 2, 17), (9, 511), (300, 1024), (10, 1025), (64, 3, 32, 32), (2, 100_000)]


@pytest.mark.parametrize("trajectories", [False, True], ids=["mala", "hmc"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_test_bits(backend, dtype, trajectories):
    """Many at a time too: a thread that decided unlike the others of its chain would show in some of them."""
    moves = kernels.BACKENDS[backend].moves
    for shape in SHAPES:
        for period in (None, math.prod(shape[1:])):
            case = proposals(dtype, shape, trajectories=trajectories, period=period, first_chain=7)
            expected = after_test(REFERENCE, case)
            for captured in (False, True):
                got = after_test(moves, case, device="cuda", captured=captured, start=int(captured))
                assert same(got, expected), (shape, period, captured)


def test_a_uniform_number_of_0(backend):
    for case in at_a_uniform_of_0():
        got = after_test(kernels.BACKENDS[backend].moves, case, device="cuda")
        assert same(got, after_test(REFERENCE, case))


def test_moves_on_the_current_stream(backend):
    if backend == "reference":
        pytest.skip("torch's own operators")
    moves = kernels.BACKENDS[backend].moves
    case = velocities(torch.float32, 1 << 20, draws=True, n_kicks=None, has_decay=False)
    expected = after_move(moves, case, device="cuda")
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        got = after_move(moves, case, device="cuda")
    assert same(got, expected)


def quartic(x):
    return ((x * x - 1.0) ** 2 + 0.3 * x).sum(dim=1)


MASS = torch.tensor([0.5, 1.0, 3.0])
SAMPLERS = {
    "mala": functools.partial(fl.MALA, step_size=0.05, bounds=(-2, 2)),
    "hmc": functools.partial(fl.HMC, step_size=0.15, n_leapfrog=5, temperature=1.5),
    "underdamped": functools.partial(fl.Underdamped, step_size=0.1, friction=0.7),
}


def make(name, device, **options):
    masses = {} if name == "mala" else {"mass": MASS.to(device)}
    return SAMPLERS[name](quartic, seed=3, **masses, **options)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("unroll", [1, 3, 12, None])
def test_captured_chains_are_the_eager_ones(backend, name, unroll):
    """Bit for bit: element-wise operators and sums of three elements are the same kernels. Three calls, one of them
    with another step size, from one graph.
    """
    x0 = torch.randn(1000, 3, generator=torch.Generator().manual_seed(1)).cuda()
    options = {"n_steps": 12, "backend": backend}
    eager = make(name, "cuda", graph=False, **options)
    replayed = make(name, "cuda", graph=True, unroll=unroll, **options)
    for change, step in (({}, 0), ({}, 12), ({"step_size": 0.08}, 24)):
        got = replayed.replace(**change)(x0, step=step)
        assert torch.equal(got, eager.replace(**change)(x0, step=step))
    assert len(replayed._graphs.captured) == 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_traces_and_velocities(name):
    x0 = torch.randn(100, 3, generator=torch.Generator().manual_seed(1)).cuda()
    sampler = make(name, "cuda", n_steps=12)
    trace, x = sampler.trace(x0, every=4, step=0), sampler(x0, step=0)
    assert torch.equal(trace.x[-1], x)
    if name == "underdamped":
        given = torch.ones_like(x0)
        pairs = [make(name, "cuda", n_steps=12, graph=g).with_velocity(x0, velocity=given) for g in (False, True)]
        assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))
    else:
        assert trace.statistics["acceptance"].shape == (len(trace.x), 100)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_cpu_s_distribution(backend, name):
    """Means of x and x² of 20,000 chains agree within five standard errors of their difference, which is at most that
    of independent chains: those of one seed draw the same noise.
    """
    x0 = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(1))
    on_cpu = make(name, "cpu", n_steps=60)(x0)
    on_gpu = make(name, "cuda", n_steps=60, backend=backend)(x0.cuda()).cpu()
    for a, b in ((on_cpu, on_gpu), (on_cpu.square(), on_gpu.square())):
        error = ((a.var(0) + b.var(0)) / len(x0)).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() <= 5 * error).all()
