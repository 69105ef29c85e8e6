"""Operands of element-wise instructions that are repeated along dimensions or lie in another order, and take chunks.

Sums of whole numbers, which float32 adds without an error, are compared with float64.
"""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch

from fastlangevin.kernels import native
from fastlangevin.network.inputs import Inputs
from fastlangevin.network.native import program as programs
from fastlangevin.network.native.instructions import Reduce
from fastlangevin.network.target import Target
from fastlangevin.score.graph import GraphEngine, NativeGraphScore

pytestmark = pytest.mark.skipif(native.load_cpu() is not None, reason="no cpu kernels here")


def whole(shape, seed):
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).float()


def exact(energy, x, *args):
    x = x.double().requires_grad_()
    return -torch.autograd.grad(energy(x, *(a.double() for a in args)).sum(), x)[0]


@functools.cache
def bound_and_exact(make, *key):
    energy, x, args = make(*key)
    bound = GraphEngine(Target("energy", energy), "fp32").bind(x, Inputs(args))
    assert isinstance(bound, NativeGraphScore), bound.fusion
    return bound, x, exact(energy, x, *args)


def assert_exact(make, *key):
    bound, x, expected = bound_and_exact(make, *key)
    bound(torch.full_like(x, math.nan))
    assert 0 < expected.abs().max() < 2**24
    assert torch.equal(bound(x).double(), expected)


def repeated(rows, width, n):
    """With numbers of all samples, and of each, that are the same for all rows, in a row, or for all elements."""
    a, b, c, d = whole((width,), 1), whole((1,), 2), whole((rows, 1), 3), whole((rows, width), 4)

    def energy(x, t, u, v):
        of_all = (x * a.to(x) + b.to(x)) * c.to(x) - d.to(x)
        of_each = of_all + t[:, None, None] - u[:, None] + v
        return 0.5 * of_each.square().flatten(1).sum(1)

    return energy, whole((n, rows, width), 5), (whole((n,), 6), whole((n, width), 7), whole((n, rows, 1), 8))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    ("rows", "width"),
    [(3, 5), (1030, 1), (430, 3), (70, 16), (41, 33), (12, 100), (5, 500), (4, 512), (3, 513), (2, 999)],
)
def test_repeated(capability, rows, width, n):
    assert_exact(repeated, rows, width, n)


def centred(rows, width, n):
    """With sums over rows, and over columns, that each sample has computed before."""
    a = whole((rows, width), 1)

    def energy(x):
        h = x * a.to(x)
        return ((h + h.sum(1, keepdim=True)) * (x - h.sum(2, keepdim=True))).flatten(1).sum(1)

    return energy, whole((n, rows, width), 2), ()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("rows", "width"), [(2, 3), (70, 16), (41, 33), (11, 100), (3, 513)])
def test_sums_that_are_repeated(capability, rows, width, n):
    assert_exact(centred, rows, width, n)


def permuted(shape, order, flips, n):
    size = math.prod(shape)
    a = whole((size,), 1) + 1

    def energy(x):
        turned = x.permute(0, *(d + 1 for d in order))
        return 0.5 * ((turned.flip(-1) if flips else turned).reshape(n, size) * a.to(x)).square().sum(1)

    return energy, whole((n, *shape), 2), ()


SHAPES = {
    2: [(2, 3), (700, 1), (3, 400), (400, 3), (17, 65), (65, 17), (256, 40), (20, 600)],
    3: [(5, 7, 40), (3, 2, 99)],
}


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize(
    ("shape", "order"),
    [(s, o) for rank, shapes in SHAPES.items() for s in shapes for o in list(itertools.permutations(range(rank)))[1:]],
)
def test_permuted(capability, shape, order, flips):
    assert_exact(permuted, shape, order, flips, 3)


def of_matrices(rows, width, columns, step, n):
    """Products with a transposed matrix, and in the gradient with matrices as they lie, of every `step`-th number."""

    def energy(x):
        a, b = x[..., ::step].split([rows, columns], 1)
        return 0.5 * (a @ b.transpose(1, 2)).square().flatten(1).sum(1)

    return energy, whole((n, rows + columns, step * width), 2), ()


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    ("rows", "width", "columns"),
    [(1, 1, 2), (7, 4, 16), (3, 5, 17), (15, 16, 33), (9, 66, 64), (2, 37, 83), (65, 3, 130)],
)
def test_products_of_two_matrices(capability, rows, width, columns, step, n):
    assert_exact(of_matrices, rows, width, columns, step, n)


def test_equal_sums_are_computed_once(monkeypatch):
    def energy(x):
        away = (x - x.mean(1, keepdim=True)) * (x + x.mean(1, keepdim=True))
        return (away * x.mean(2, keepdim=True)).flatten(1).sum(1)

    written, placed = [], programs._placed
    monkeypatch.setattr(programs, "_placed", lambda code, *rest: written.extend(code) or placed(code, *rest))
    GraphEngine(Target("energy", energy), "fp32").bind(torch.ones(2, 3, 70), Inputs(()))
    sums = [(i.source, i.scale) for i in written if isinstance(i, Reduce)]
    assert len(set(sums)) == len(sums) >= 2


@pytest.mark.parametrize(
    "other", [lambda x: x.mean(2, keepdim=True), lambda x: x.amax(2, keepdim=True).detach()], ids=["mean", "maximum"]
)
def test_other_reductions_of_the_same_values_are_their_own(other):
    def energy(x):
        return (x * x.sum(2, keepdim=True) * other(x)).flatten(1).sum(1)

    x = whole((2, 3, 8), 0)
    bound = GraphEngine(Target("energy", energy), "fp32").bind(x, Inputs(()))
    assert isinstance(bound, NativeGraphScore), bound.fusion
    assert torch.equal(bound(x).double(), exact(energy, x))
