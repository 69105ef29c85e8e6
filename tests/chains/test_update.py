"""The fused update: bits on every backend, arithmetic against float64, strides, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.error_bounds import UNIT
from support.updates import DTYPES, KEY, layouts, same_bits, state

import fastlangevin as fl
from fastlangevin.kernels import BACKENDS


def exact(x, score, eta, sigma, z, clip=None, bounds=None) -> torch.Tensor:
    """The update in float64, from its definition."""
    s = score.double() if clip is None else score.double().clamp(-clip, clip)
    y = x.double() + eta * s + sigma * z.double()
    return y if bounds is None else y.clamp(*bounds)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 31, 63, 64, 65, 129, 1023, 1025, 4099, 40_000])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_against_float64(backend, dtype, n):
    """To first order η and σ, where float32 rounds them, and the two fused multiply-adds are off by u each: of the
    products, of x + ηs and of the result, which a 16-bit state rounds once more.
    """
    x, score = state((n,), dtype)
    z = fl.noise.normal((n,), offset=3, **KEY)
    expected = exact(x, score, 0.7, 0.3, z)
    got = x.clone()
    assert fl.langevin_update_(got, score, 0.7, 0.3, offset=3, backend=backend, **KEY) is got
    wide = dtype == torch.float64
    u, narrowed = UNIT[dtype if wide else torch.float32], 0.0 if dtype.itemsize > 2 else UNIT[dtype]
    moved, noise = 0.7 * score.double(), 0.3 * z.double()
    bound = u * ((0 if wide else moved.abs() + noise.abs()) + (x.double() + moved).abs() + expected.abs())
    bound += narrowed * expected.abs() + (2.0**-25 if dtype == torch.float16 else 0)  # below its normal numbers
    # The float64 that it is compared with has roundings of its own, which count for a float64 state.
    bound += UNIT[torch.float64] * (moved.abs() + noise.abs() + (x.double() + moved).abs() + expected.abs())
    assert ((got.double() - expected).abs() <= bound * (1 + 1e-3)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"grad_clip": 0.5}, {"bounds": (-0.75, 1.0)}, {"grad_clip": 1.0, "bounds": (-1.0, 0.5)}]
)
@pytest.mark.parametrize("part", ["both", "score", "noise"])
def test_bits_equal_reference(backend, dtype, options, part):
    x, score = state((5, 7, 131), dtype)
    arguments = (None if part == "noise" else score, None if part == "noise" else 0.7, None if part == "score" else 0.3)
    expected, got = x.clone(), x.clone()
    fl.langevin_update_(expected, *arguments, offset=2, backend="reference", **options, **KEY)
    fl.langevin_update_(got, *arguments, offset=2, backend=backend, **options, **KEY)
    assert same_bits(got, expected)
    assert not torch.equal(expected, x)


def test_a_score_that_shares_the_state_s_memory(backend):
    """The score is read as it was before the update, for any overlap."""
    square = torch.arange(64 * 64.0).reshape(64, 64)
    got = square.clone()
    fl.langevin_update_(got, got.t(), 1.0, None, backend=backend, **KEY)
    assert torch.equal(got, square + square.t())
    line = torch.arange(5000.0)
    expected = line[1:] + line[:-1]
    fl.langevin_update_(line[1:], line[:-1], 1.0, None, backend=backend, **KEY)
    assert torch.equal(line[1:], expected)
    same = torch.arange(9.0)
    fl.langevin_update_(same, same, 1.0, None, backend=backend, **KEY)
    assert torch.equal(same, 2 * torch.arange(9.0))


def test_limits_beyond_float32_have_no_effect(backend):
    x, score = torch.zeros(3), torch.full((3,), 5.0)
    fl.langevin_update_(x, score, 1.0, None, grad_clip=1e300, bounds=(-1e300, 1e300), backend=backend, **KEY)
    assert (x == 5).all()


def test_bounds_on_one_side(backend):
    score = torch.tensor([-3.0, 0.25, 3.0])
    for bounds, expected in (((0, None), [0.0, 0.25, 3.0]), ((None, 0.5), [-3.0, 0.25, 0.5])):
        x = fl.langevin_update_(torch.zeros(3), score, 1.0, None, bounds=bounds, backend=backend, **KEY)
        assert x.tolist() == expected


def test_float64_limits_are_not_rounded(backend):
    x = torch.zeros(2, dtype=torch.float64)
    score = torch.tensor([9.0, -9.0], dtype=torch.float64)
    fl.langevin_update_(x, score, 1.0, None, grad_clip=0.1, backend=backend, **KEY)
    assert x.tolist() == [0.1, -0.1]
    fl.langevin_update_(x, score, 1.0, None, bounds=(-0.7, 0.3), backend=backend, **KEY)
    assert x.tolist() == [0.3, -0.7]


def test_noise_of_a_large_state_equals_the_stream(backend):
    """Across the chunks of the reference and the blocks of the kernels, on a user-defined stream."""
    x = torch.zeros(70_003)
    fl.langevin_update_(x, None, None, 1.0, seed=3, step=2**32 - 1, stream=5, offset=7, backend=backend)
    assert torch.equal(x, fl.noise.normal((70_003,), seed=3, step=2**32 - 1, stream=5, offset=7, backend=backend))
    assert not torch.equal(x, fl.noise.normal((70_003,), seed=3, step=2**32 - 1, offset=7, backend=backend))


def test_a_stride_of_zero_over_one_element_is_no_overlap(backend):
    x = torch.zeros(3).as_strided((1, 3), (0, 1))
    fl.langevin_update_(x, None, None, 1.0, backend=backend, **KEY)
    assert (x != 0).all()


def test_16_bit_states_convert_as_in_torch(backend):
    """Every bit pattern of a 16-bit state, through an update that changes nothing."""
    for dtype in (torch.bfloat16, torch.float16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        got = every.clone()
        fl.langevin_update_(got, torch.zeros_like(got), 0.0, None, backend=backend, **KEY)
        assert torch.equal(got.isnan(), every.isnan())
        finite = ~every.isnan() & (every != 0)
        assert torch.equal(got[finite], every[finite])


def test_narrowing_rounds_to_nearest_even(backend):
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.zeros(20_000, dtype=dtype)
        z = fl.noise.normal((20_000,), **KEY)
        for sigma in (1e-7, 3e-5, 1.0, 7e4, 1e39 if dtype == torch.bfloat16 else 1e30):
            x.zero_()
            fl.langevin_update_(x, None, None, min(sigma, 3e38), backend=backend, **KEY)
            expected = (z * torch.tensor(min(sigma, 3e38))).to(dtype)
            assert torch.equal(x, expected), (dtype, sigma)


SPECIAL = [math.nan, math.inf, -math.inf, 0.0, 1.0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_limits_equal_torch_clamp(backend, dtype):
    x = torch.tensor(SPECIAL * 5, dtype=dtype)
    score = torch.tensor([s for s in SPECIAL for _ in range(5)], dtype=dtype)
    expected = (x.double() + 1.0 * score.double().clamp(-0.5, 0.5)).clamp(-2, 2).to(dtype)
    got = x.clone()
    fl.langevin_update_(got, score, 1.0, None, grad_clip=0.5, bounds=(-2, 2), backend=backend, **KEY)
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.nan_to_num(9), expected.nan_to_num(9))
    assert got.isnan().any() and (got == 2).any() and (got == -2).any()


def test_strides_of_x_and_score_do_not_matter(backend):
    x, score = state((3, 5, 6, 7))
    expected = x.clone()
    fl.langevin_update_(expected, score, 0.7, 0.3, bounds=(-2, 2), offset=5, backend="reference", **KEY)
    for i, a in enumerate(layouts(x)):
        for s in layouts(score):
            got = layouts(x)[i]
            strides = got.stride()
            fl.langevin_update_(got, s, 0.7, 0.3, bounds=(-2, 2), offset=5, backend=backend, **KEY)
            assert got.stride() == strides == a.stride()
            assert torch.equal(got, expected)


def test_memory_around_a_view_is_unchanged(backend):
    whole = torch.full((40, 50), 99.0)
    view = whole[3:20, 5:41:3]
    fl.langevin_update_(view, torch.zeros_like(view), 1.0, 1.0, backend=backend, **KEY)
    inside = torch.zeros_like(whole, dtype=torch.bool)
    inside[3:20, 5:41:3] = True
    assert (whole[~inside] == 99).all() and (whole[inside] != 99).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_shape_strides_and_dtype(data):
    if BACKENDS["cpu"].unsupported():
        pytest.skip(BACKENDS["cpu"].unsupported())
    shape = data.draw(st.lists(st.integers(0, 9), min_size=0, max_size=5))
    dtype = data.draw(st.sampled_from(DTYPES))
    order = data.draw(st.permutations(range(len(shape))))
    step = data.draw(st.integers(1, 3))
    offset = data.draw(st.integers(0, 2**40))

    def make(seed: int) -> torch.Tensor:
        base = torch.randn(
            [n * step for n in shape], generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        return base.to(dtype)[tuple(slice(None, None, step) for _ in shape)].permute(order)

    x, y, score = make(1), make(1), make(2)
    key = {"seed": data.draw(st.integers(0, 2**64 - 1)), "step": 7, "stream": data.draw(st.integers(0, 2**32 - 1))}
    fl.langevin_update_(x, score, 0.5, 0.2, offset=offset, grad_clip=1.0, backend="cpu", **key)
    fl.langevin_update_(y, score.contiguous(), 0.5, 0.2, offset=offset, grad_clip=1.0, backend="reference", **key)
    assert same_bits(x, y)


def test_empty_and_scalar_states(backend):
    empty = torch.empty(0, 3)
    assert fl.langevin_update_(empty, torch.empty(0, 3), 1.0, 1.0, backend=backend, **KEY) is empty
    scalar = torch.tensor(1.0)
    fl.langevin_update_(scalar, torch.tensor(2.0), 0.5, 0.0, backend=backend, **KEY)
    assert scalar == 2.0


def test_more_than_2_31_elements():
    """Indices have 64 bits: a large bfloat16 state, checked at its last elements only."""
    if BACKENDS["cpu"].unsupported():
        pytest.skip(BACKENDS["cpu"].unsupported())
    n = 2**31 + 5
    x = torch.empty(1, dtype=torch.bfloat16).expand(n)
    with pytest.raises(RuntimeError, match="single memory location"):
        fl.langevin_update_(x, None, None, 1.0, **KEY)
    tail = torch.zeros(5, dtype=torch.float32)
    fl.langevin_update_(tail, None, None, 1.0, offset=2**31, **KEY)
    assert torch.equal(tail, fl.noise.normal((5,), offset=2**31, backend="reference", **KEY))
    assert not torch.equal(tail, fl.noise.normal((5,), offset=0, **KEY))


@pytest.mark.parametrize("x_dense", [True, False])
@pytest.mark.parametrize("score_dense", [True, False, None])
def test_thread_count_does_not_matter(threads, x_dense, score_dense):
    """None: no score."""
    results = []
    for n in (1, 2, 5):
        threads(n)
        x, score = (
            v if dense else v.transpose(0, 2).contiguous().transpose(0, 2)
            for v, dense in zip(state((9, 11, 1013)), (x_dense, score_dense), strict=True)
        )
        arguments = (None, None) if score_dense is None else (score, 0.5)
        results.append(fl.langevin_update_(x, *arguments, 0.5, offset=3, **KEY))
    expected, score = state((9, 11, 1013))
    arguments = (None, None) if score_dense is None else (score, 0.5)
    fl.langevin_update_(expected, *arguments, 0.5, offset=3, backend="reference", **KEY)
    assert all(torch.equal(r, expected) for r in results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_option_with_tensors_equals_scalars(backend, dtype):
    x, score = state((4, 33), dtype)
    y = x.clone()
    options = {"stream": 6, "offset": 2**34 + 1, "grad_clip": 0.7, "bounds": (-1.1, 1.2), "backend": backend}
    fl.langevin_update_(x, score, 0.1, 0.2, seed=2**63 + 5, step=2**32 - 1, **options)
    eta, sigma = (torch.tensor(v, dtype=torch.float64) for v in (0.1, 0.2))
    seed, step = torch.tensor(5 - 2**63), torch.tensor(2**32 - 1)
    fl.langevin_update_(y, score, eta, sigma, seed=seed, step=step, **options)
    assert torch.equal(x, y)


def test_scalars_as_tensors(backend):
    x, score = state((4, 33))
    y = x.clone()
    fl.langevin_update_(x, score, 0.1, 0.2, seed=3, step=4, backend=backend)
    f64 = dict(dtype=torch.float64)
    eta, sigma = torch.tensor(0.1, **f64), torch.tensor([0.2], **f64)
    fl.langevin_update_(y, score, eta, sigma, seed=torch.tensor(3), step=torch.tensor(4), backend=backend)
    assert torch.equal(x, y)


def test_float64_keeps_the_step_size_s_precision(backend):
    x = torch.zeros(3, dtype=torch.float64)
    fl.langevin_update_(x, torch.ones_like(x), 0.1, None, backend=backend, **KEY)
    assert (x == 0.1).all()
    x = torch.zeros(3)
    fl.langevin_update_(x, torch.ones_like(x), 0.1, None, backend=backend, **KEY)
    assert (x == np.float32(0.1).item()).all()


# Bad input


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": torch.zeros(3, dtype=torch.int64)}, TypeError, "x must be a float32.*int64"),
        ({"x": [0.0]}, TypeError, "x must be a float32.*list"),
        ({"score": torch.zeros(4)}, ValueError, "score must have x's shape \\(3,\\), got \\(4,\\)"),
        ({"score": torch.zeros(3, dtype=torch.float64)}, ValueError, "score must have x's dtype"),
        ({"score": 1.0}, TypeError, "score must be a tensor"),
        ({"step_size": -0.1}, ValueError, "step_size must be finite and not negative, got -0.1"),
        ({"step_size": math.nan}, ValueError, "step_size must be finite"),
        ({"step_size": "1"}, TypeError, "step_size must be a float"),
        ({"step_size": torch.tensor(0.1)}, TypeError, "step_size as a tensor must be float64"),
        ({"step_size": None}, ValueError, "step_size must be given"),
        ({"step_size": math.inf}, ValueError, "step_size must be finite"),
        ({"step_size": True}, TypeError, "step_size must be a float.*True"),
        (
            {"step_size": torch.zeros(2, dtype=torch.float64)},
            TypeError,
            "step_size as a tensor must be float64 with one element, or one for each chain of x \\(3 chains\\), got",
        ),
        ({"seed": 2**64}, ValueError, "seed must fit 64 bits"),
        ({"step": 2**32}, ValueError, "step must lie in"),
        ({"stream": -1}, ValueError, "stream must lie in"),
        ({"offset": -1}, ValueError, "offset must lie in"),
        ({"grad_clip": math.nan}, ValueError, "grad_clip must be a positive number"),
        ({"bounds": (math.nan, 1.0)}, ValueError, "lo < hi"),
        ({"bounds": ("a", 1.0)}, ValueError, "bounds must be a pair"),
        ({"bounds": 1.0}, ValueError, "bounds must be a pair"),
        ({"bounds": (None, None)}, ValueError, "bounds must have at least one number"),
        ({"x": torch.zeros(2, 3), "score": torch.zeros(3, 2)}, ValueError, "score must have x's shape"),
        ({"score": torch.zeros(3, device="meta")}, ValueError, "score must have x's dtype and device"),
        ({"noise_std": -1.0}, ValueError, "noise_std must be finite and not negative"),
        ({"score": None, "noise_std": None}, ValueError, "nothing to do"),
        ({"grad_clip": 0.0}, ValueError, "grad_clip must be a positive number"),
        ({"bounds": (1.0, 1.0)}, ValueError, "lo < hi"),
        ({"bounds": (1.0,)}, ValueError, "bounds must be a pair"),
        ({"backend": "cdu"}, ValueError, "backend must be one of.*did you mean 'cpu'"),
        ({"x": torch.zeros(1).expand(3)}, RuntimeError, "single memory location"),
    ],
)
def test_bad_arguments(change, error, words):
    good = dict(x=torch.zeros(3), score=torch.zeros(3), step_size=0.1, noise_std=0.1, seed=1, step=0)
    with pytest.raises(error, match=words):
        fl.langevin_update_(**{**good, **change})


def test_explicit_backend_that_is_not_supported_is_an_error():
    x = torch.zeros(3, device="meta")
    with pytest.raises(fl.BackendUnavailable, match="backend='cpu' cannot be used: its kernels run on cpu tensors"):
        fl.langevin_update_(x, x.clone(), 1.0, 1.0, backend="cpu", **KEY)
