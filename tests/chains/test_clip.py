"""The limit on the norm of each chain's score."""

from __future__ import annotations

import math

import pytest
import torch
from support.error_bounds import UNIT
from support.updates import DTYPES, KEY, layouts, same_bits, state

import fastlangevin as fl
from fastlangevin.chains.clip import clip_norm


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 3, 7, 2), (2, 1025), (3,)], ids=str)
def test_against_float64(dtype, shape):
    """The norm of n squares in float64 is off by at most n roundings, the factor and the product by one each of the
    arithmetic's, the result by one of the score's type.
    """
    _, score = state(shape, dtype)
    wide = score.double()
    norms = wide.flatten(1).norm(dim=1) if score.dim() > 1 else wide.abs()
    limit = float(norms.median())
    expected = wide * (limit / norms).clamp(max=1).view(-1, *[1] * (len(shape) - 1))
    got = clip_norm(score, limit)
    assert got.dtype == dtype and got.shape == score.shape
    n = math.prod(shape[1:])
    u = (2 if dtype != torch.float64 else n + 4) * UNIT[torch.promote_types(dtype, torch.float32)] + UNIT[dtype]
    tiny = 2.0**-25 if dtype == torch.float16 else 0.0
    assert ((got.double() - expected).abs() <= u * (1 + 1e-3) * expected.abs() + tiny).all()
    inside = norms < limit
    assert same_bits(got[inside], score[inside])
    if len(shape) > 1 and len(norms) > 2:
        assert inside.any() and (norms > limit).any()


def test_bits_do_not_depend_on_layout_threads_or_batch(threads):
    _, score = state((3, 5, 6, 7))
    expected = clip_norm(score, 2.0)
    for n in (1, 3):
        threads(n)
        for each in layouts(score):
            assert torch.equal(clip_norm(each, 2.0), expected)
        assert torch.equal(clip_norm(score[1:2], 2.0), expected[1:2])


def test_zero_infinite_and_empty_scores():
    score = torch.tensor([[0.0, 0.0], [math.inf, 1.0], [math.nan, 1.0], [3.0, 4.0]])
    got = clip_norm(score, 1.0)
    assert (got[0] == 0).all() and got[1, 0].isnan() and got[2].isnan().all()
    assert torch.equal(got[3], score[3] * torch.tensor(0.2))
    zero = torch.zeros(2, 3, requires_grad=True)
    assert (torch.autograd.grad(clip_norm(zero, 1.0).sum(), zero)[0] == 1).all()
    for shape in ((0, 3), (2, 0)):
        assert clip_norm(torch.empty(shape), 1.0).shape == shape
    assert clip_norm(torch.tensor(4.0), 1.0) == 1.0


def test_the_update_clips_before_the_element_wise_clip(backend):
    x, score = state((3, 4, 5))
    expected = fl.langevin_update_(x.clone(), clip_norm(score, 1.5), 0.7, 0.3, grad_clip=0.2, backend=backend, **KEY)
    before = score.clone()
    got = fl.langevin_update_(x, score, 0.7, 0.3, grad_clip=0.2, grad_clip_norm=1.5, backend=backend, **KEY)
    assert torch.equal(got, expected) and torch.equal(score, before)


def test_a_sampler_clips_the_norm_of_each_chain():
    x0 = torch.randn(4, 3, dtype=torch.float64)
    options = dict(n_steps=1, step_size=2.0, noise_std=0.0, seed=1)
    x = fl.Langevin(lambda x: 10 * x.square().sum(1), grad_clip_norm=0.25, **options)(x0)
    torch.testing.assert_close((x - x0).norm(dim=1), torch.full((4,), 0.5, dtype=torch.float64), rtol=1e-14, atol=0.0)
    sampler = fl.Langevin(fl.models.MLP(3), grad_clip_norm=0.25, **options)
    assert any("one by one: they do not compute the norm of the score" in reason for reason in sampler.plan.reasons)
    for bad in (0.0, -1.0, "1", math.nan):
        with pytest.raises(ValueError, match="grad_clip_norm must be a positive number or None, got"):
            sampler.replace(grad_clip_norm=bad)
        with pytest.raises(ValueError, match="grad_clip_norm must be a positive number or None, got"):
            fl.langevin_update_(torch.zeros(2), torch.zeros(2), 1.0, None, grad_clip_norm=bad, **KEY)
