"""Dual averaging against the sums of Hoffman and Gelman's Equation 6, written out."""

from __future__ import annotations

import math

import pytest

from fastlangevin.samplers.dual_averaging import DualAveraging


def test_step_sizes_are_those_of_the_equation():
    """log ε_{t+1} = log(10 ε_1) - sqrt(t)/0.05 · H̄_t with H̄_t = Σ (target - α_i)·w_i, where H̄_t weights its newest term
    by 1 / (t + 10), and their averages log ε̄_t the newest by t^-0.75.
    """
    search, first, target = DualAveraging(0.3, 0.6), 0.3, 0.6
    errors, log_average = [], 0.0
    for t, acceptance in enumerate([0.9, 0.2, 0.7, 1.0, 0.5, 0.61], start=1):
        search.update(acceptance)
        errors.append(target - acceptance)
        weights = [math.prod(1 - 1 / (j + 10) for j in range(i + 1, t + 1)) / (i + 10) for i in range(1, t + 1)]
        mean = sum(w * error for w, error in zip(weights, errors, strict=True))
        log = math.log(10 * first) - math.sqrt(t) / 0.05 * mean
        log_average = t**-0.75 * log + (1 - t**-0.75) * log_average
        assert search.value == pytest.approx(math.exp(log), rel=1e-12)
        assert search.average == pytest.approx(math.exp(log_average), rel=1e-12)


def test_nothing_is_accepted():
    """Not a number counts as a rejection, and the step size does not underflow."""
    search, other = DualAveraging(1.0, 0.6), DualAveraging(1.0, 0.6)
    search.update(math.nan)
    other.update(0.0)
    assert search.value == other.value < 10.0
    for _ in range(10_000):
        search.update(0.0)
    assert search.value == pytest.approx(1e-10) and search.average > 0
