"""engine="graph" against engine="autograd"."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastlangevin as fl
from fastlangevin.network.inputs import Inputs
from fastlangevin.score import BoundScore


def bound(energy, engine, x) -> BoundScore:
    return fl.Langevin(energy, engine=engine, n_steps=1, seed=1)._score.bind(x, Inputs())


def states(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def conjugated(x):
    return (torch.complex(x, x**2).conj() * (torch.complex(x, x) + 1j)).imag.sum(1)


def negated(x):
    return (torch.complex(x, x**2).conj().imag * x.exp()).sum(1)


@pytest.mark.parametrize("energy", [conjugated, negated])
def test_lazy_conjugates(energy):
    x = states(4, 6)
    found, expected = (bound(energy, engine, x).energy_and_score(x) for engine in ("graph", "autograd"))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_product_of_integers_and_their_sigmoid():
    y, x = torch.tensor([1, 2, 3, 0]), states(4, 6)
    energy = lambda x: (x**2).sum(1) * (y * torch.sigmoid(y))
    torch.testing.assert_close(bound(energy, "graph", x)(x), bound(energy, "autograd", x)(x))


class Power(torch.autograd.Function):
    """x to a power, which is an attribute of ctx."""

    @staticmethod
    def forward(ctx, x, power):
        ctx.power = power
        ctx.save_for_backward(x)
        return x**power

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * ctx.power * x ** (ctx.power - 1), None


def test_an_autograd_function():
    x, energy = states(4, 6), lambda x: Power.apply(x.tanh(), 3).sum(1)
    torch.testing.assert_close(bound(energy, "graph", x)(x), bound(energy, "autograd", x)(x))


def modulus(x):
    return torch.complex(x, x.flip(1)).abs().sum(1)


CONV = nn.Conv2d(2, 2, 3).double()


def squared_gradient(x):
    """Of a network that is linear in x, with respect to its weight: quadratic in x."""
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(CONV(x).sum(), CONV.weight, create_graph=True)
    return gradient.square().sum() / len(x) + 0 * x.flatten(1).sum(1)


@pytest.mark.parametrize(("energy", "shape"), [(modulus, (4, 6)), (squared_gradient, (3, 2, 6, 6))])
def test_scores_that_look_piecewise_constant(energy, shape):
    x, v = states(*shape), states(*shape).exp()
    results = []
    for engine in ("graph", "autograd"):
        score, vjp = bound(energy, engine, x).linearize(x.clone())
        results.append((score, vjp(v)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("engine", ["graph", "autograd"])
def test_memory_that_tensors_come_to_share(engine):
    """`count` is written to at each step; what is computed from `other` is constant unless it is the same memory."""
    count, other = torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)

    def energy(x, shift):
        count.add_(1)
        return ((x - (shift * 2 + 1)) ** 2).sum(1) / 2

    x, sampler = states(4, 6), fl.Langevin(energy, engine=engine, n_steps=2, step_size=0.5, noise_std=0.0, seed=1)
    for shift, first, second in ((other, 0, 0), (count.view(6), 3, 4), (other, 0, 0)):
        expected = x
        for c in (first, second):
            expected = expected - 0.5 * (expected - (2 * c + 1))
        torch.testing.assert_close(sampler(x, shift), expected)
