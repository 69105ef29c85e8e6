"""The bounds that other tests hold kernels to: what they say of computations small enough to see through."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from support.error_bounds import Roundings, U, assert_within
from support.network_bounds import Arithmetic, Exact, finest_bit, score


def test_a_bound_is_the_sum_of_what_each_rounding_does():
    x, r = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None].requires_grad_(), Roundings()
    y = r.relative(torch.sin(r.relative(3 * x)), 2)
    expected = U * ((3 * x * torch.cos(3 * x)).abs() + 2 * torch.sin(3 * x).abs())
    torch.testing.assert_close(r.bound(y), expected.detach(), rtol=1e-12, atol=0)  # a few roundings of float64


def test_paths_from_one_rounding_cancel_as_they_do_in_the_computation():
    r = Roundings()
    a = r.rounded(torch.ones(1, 3, dtype=torch.float64), U)
    assert not r.bound(a - a).any() and (r.bound(a.sum(1, keepdim=True)) == 3 * U).all()


def test_a_chain_at_a_kink_is_not_sure():
    r, states = Roundings(), torch.tensor([[1.0, 5.0], [0.5, -0.01], [3.0, -4.0]], dtype=torch.float64)
    z = r.rounded(states, 0.02)
    assert not r.beyond_tangent(torch.relu, z - 7.01, r.bound(z)).any() and r.sure.all()
    derivative = lambda z: torch.where(z > 0, 1.0, 0.2 + 0 * z)
    beyond = r.beyond_tangent(derivative, z, r.bound(z))
    assert r.sure.tolist() == [True, False, True] and beyond.tolist() == [[0, 0], [0, 0.8], [0, 0]]
    r.beyond_tangent(derivative, z - 2.99, r.bound(z))
    assert r.sure.tolist() == [True, False, False]


def test_what_a_tangent_leaves_out():
    """Of a smooth function |f''| e² / 2, by Taylor's theorem; and a jump that is smaller than the error."""
    r, z = Roundings(), torch.linspace(-1, 1, 11, dtype=torch.float64)[:, None]
    error = torch.full_like(z, 1e-3)
    beyond = r.beyond_tangent(torch.sin, z, error)
    torch.testing.assert_close(beyond, torch.sin(z).abs() * 1e-6 / 2, rtol=1e-2, atol=1e-9)
    beyond = r.beyond_tangent(lambda z: z + 1e-5 * (z > 0.2005), z, error)
    torch.testing.assert_close(beyond, 1e-5 * ((z - 0.2005).abs() < 1e-3).double(), rtol=1e-6, atol=1e-15)
    assert r.sure.all()


@pytest.mark.parametrize("ascending", [True, False])
def test_sums_stay_within_their_bound(ascending):
    """A linear layer's, added one after another in float32, with the products rounded, in order or not."""
    torch.manual_seed(1)
    layers, x = [nn.Linear(50, 20), nn.Tanh(), nn.Linear(20, 1)], torch.randn(5, 50)
    r, seen = Roundings(), []
    recording = lambda _, z, value, derivative: seen.append(z) or (0 * value, 0 * value)
    score(r, layers, x.double(), Arithmetic(recording, ascending=ascending))
    (_, bound), *_ = r._points
    orders = [torch.arange(50)] if ascending else [torch.randperm(50) for _ in range(20)]
    for order in orders:
        total = layers[0].bias.detach().expand(5, 20)
        for i in order:
            total = total + x[:, i, None] * layers[0].weight.detach()[:, i]
        error = (total - seen[0]).abs()
        assert (error <= bound).all() and error.max() > 0


def test_numbers_that_are_too_long_are_refused():
    torch.manual_seed(1)
    net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(FloatingPointError, match="would be rounded to 24 bits"):
        score(Roundings(), list(net), x, Exact())
    with torch.no_grad():
        net[0].weight.fill_(100.0)
        net[0].bias.fill_(0.5)
        net[2].weight.fill_(1.0)
    score(Roundings(), list(net), x, Exact(bits=10))
    with pytest.raises(FloatingPointError, match="sums of 601 units would be rounded to 9 bits"):
        score(Roundings(), list(net), x, Exact(bits=9))
    assert finest_bit(torch.tensor([0.75, 3.0])) == 0.25


def test_what_is_off_or_shows_too_little_fails():
    one = torch.ones(2, 1, dtype=torch.float64)
    assert_within(one + 1e-3, one, 2e-3 * one, tight=1e-2)
    for got, bound, sure, words in (
        (one + 3e-3, 2e-3 * one, None, "3.000e-03 off, at most 2.000e-03 expected"),
        (one * torch.nan, 2e-3 * one, None, "off"),
        (one, 2e-2 * one, None, "shows too little"),
        (one, 2e-3 * one, torch.tensor([True, False]), "too many chains lie at a branch"),
    ):
        with pytest.raises(AssertionError, match=words):
            assert_within(got, one, bound, sure, tight=1e-2)
