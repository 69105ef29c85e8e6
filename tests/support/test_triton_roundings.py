"""The bounds of formulas in Triton, beside those written out."""

from __future__ import annotations

import pytest
import torch

from support.error_bounds import U
from support.triton_roundings import ERF, EXP, LOG, bounds

triton = pytest.importorskip("triton")
tl = triton.language

Z = torch.linspace(-4, 4, 21, dtype=torch.float64)


@triton.jit
def logistic(a):
    return 1.0 / (1.0 + tl.exp(-a))


@triton.jit
def formula(z, KIND: tl.constexpr, parameters):
    if KIND == 0:
        return logistic(z), 2.0 * logistic(2.0 * z) - 1.0
    elif KIND == 1:
        return z * tl.load(parameters), z * tl.load(parameters + 1) / tl.load(parameters + 1)
    elif KIND == 2:
        return tl.where(z > 0, z * 0.7, -1.0), tl.where(z < 0, 1.0, tl.load(parameters))
    else:
        tl.static_assert(KIND == 3)
        return tl.log(1.0 + tl.abs(z)), tl.erf(z)


def check(kind, *expected, parameters=(0.0, 0.0)):
    for bound, each in zip(bounds(formula, Z, kind, parameters), expected, strict=True):
        torch.testing.assert_close(bound, U * each, rtol=1e-12, atol=1e-22)


def test_a_rounding_for_each_operation():
    """Of e^-a, of the sum and of the quotient; twice it is exact."""
    s, t = torch.sigmoid(Z), torch.sigmoid(2 * Z)
    error = lambda s: s * ((1 - s) * EXP + 2)
    check(0, error(s), 2 * error(t) + (2 * t - 1).abs())


def test_parameters_are_of_float32():
    """0.25 is exact. A factor's error is none of a quotient by the same number."""
    slope = abs(float(torch.tensor(0.2)) - 0.2) / (0.2 * U)
    check(1, 0.25 * Z.abs(), 2 * Z.abs(), parameters=(0.25, 0.2))
    check(1, 0.2 * Z.abs() * (1 + slope), 2 * Z.abs(), parameters=(0.2, 0.25))


def test_a_choice_has_the_errors_of_what_it_takes():
    seven = abs(float(torch.tensor(0.7)) - 0.7) / U
    slope = abs(float(torch.tensor(0.2)) - 0.2) / U
    check(2, (Z > 0) * Z * (0.7 + seven), (Z >= 0).double() * slope, parameters=(0.2, 0.0))


def test_functions():
    check(3, 1 + LOG * torch.log1p(Z.abs()), ERF * torch.erf(Z).abs())


def test_an_exponent_beyond_float32_has_a_bound():
    (bound, _) = bounds(formula, torch.tensor([-1e5, -100.0, 100.0, 1e5]), 0, ())
    assert (bound[:2] < 1e-40).all() and (bound[2:] <= 2 * U).all()
