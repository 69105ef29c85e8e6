"""The update with a step size and a noise level of each chain."""

from __future__ import annotations

import pytest
import torch
from support.updates import DTYPES, KEY, layouts, same_bits, state

import fastlangevin as fl
from fastlangevin.kernels import BACKENDS


def numbers(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.rand(n, generator=generator, dtype=torch.float64) for _ in range(2))


def chain_by_chain(x, score, eta, sigma, *, offset, **options) -> torch.Tensor:
    """The update of each chain alone, with its own two numbers, at its place in the noise stream."""
    x = x.clone(memory_format=torch.contiguous_format)
    size = x[0].numel()
    for b in range(len(x)):
        own = (v if v is None or isinstance(v, float) else v[b].item() for v in (eta, sigma))
        given = None if score is None else score[b].contiguous()
        fl.langevin_update_(x[b], given, *own, offset=offset + b * size, backend="reference", **options, **KEY)
    return x


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(7,), (7, 2), (5, 3, 7), (3, 1500), (2, 3, 700), (1, 9)], ids=str)
def test_each_chain_has_the_bits_of_its_own_numbers(backend, dtype, shape):
    x, score = state(shape, dtype)
    eta, sigma = numbers(len(x))
    options = dict(grad_clip=0.9, bounds=(-1.5, 1.0), offset=2)
    for own in ((eta, sigma), (eta, 0.3), (0.7, sigma), (eta, None)):
        expected = chain_by_chain(x, score, *own, **options)
        assert same_bits(fl.langevin_update_(x.clone(), score, *own, backend=backend, **options, **KEY), expected)
    expected = chain_by_chain(x, None, None, sigma, offset=3)
    assert same_bits(fl.langevin_update_(x.clone(), None, None, sigma, offset=3, backend=backend, **KEY), expected)


def test_any_strides(backend):
    x, score = state((3, 5, 6, 7))
    eta, sigma = numbers(6)
    eta, sigma = eta[::2], sigma[::2]
    expected = chain_by_chain(x, score, eta, sigma, offset=1)
    for i in range(len(layouts(x))):
        for s in layouts(score)[::2]:
            got = layouts(x)[i]
            fl.langevin_update_(got, s, eta, sigma, offset=1, backend=backend, **KEY)
            assert torch.equal(got, expected)


def test_seed_and_step_as_tensors(backend):
    x, score = state((4, 33))
    eta, sigma = numbers(4)
    expected = fl.langevin_update_(x.clone(), score, eta, sigma, backend=backend, **KEY)
    key = {name: torch.tensor(value) for name, value in KEY.items()}
    assert torch.equal(fl.langevin_update_(x, score, eta, sigma, backend=backend, **key), expected)


def test_empty_states(backend):
    for shape in ((0, 3), (2, 0)):
        x = torch.empty(shape)
        eta, sigma = numbers(shape[0])
        assert fl.langevin_update_(x, torch.empty(shape), eta, sigma, backend=backend, **KEY) is x


def test_thread_count_does_not_matter(threads):
    eta, sigma = numbers(9)
    results = []
    for n in (1, 2, 5):
        threads(n)
        x, score = state((9, 11, 1013))
        results.append(fl.langevin_update_(x, score, eta, sigma, offset=3, **KEY))
    x, score = state((9, 11, 1013))
    assert all(torch.equal(r, chain_by_chain(x, score, eta, sigma, offset=3)) for r in results)


@pytest.mark.skipif(BACKENDS["cpu"].unsupported() is not None, reason="no cpu kernels here")
def test_opcheck():
    x, score = state((3, 5))
    arguments = (*numbers(3), torch.tensor(3), torch.tensor(4), 0, 0, 0.5, -1.0, 1.0)
    torch.library.opcheck(torch.ops.fastlangevin.langevin_update_cpu_.tensor, (x, score, *arguments))
