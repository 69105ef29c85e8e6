"""Dual averaging: the search for the step size at which a share of the proposals is accepted."""

from __future__ import annotations

import math

_GAMMA, _T0, _KAPPA = 0.05, 10.0, 0.75  # Hoffman and Gelman, JMLR 15, 2014, Section 3.2.1
_LOWEST = 1e-10  # times the first step size: what bad starting points can lower it to, and no less


class DualAveraging:
    """log ε_{t+1} = μ - sqrt(t) / γ · H̄_t, with H̄_t the average of target - acceptance, weighted towards late steps.

    Hoffman and Gelman, JMLR 15, 2014, Equation 6; μ = log(10 ε_1).

    Attributes:
        value: the step size to try next.
        average: exp of the average of the logarithms of those tried, weighted by t^-κ: the step size to keep.
    """

    def __init__(self, first: float, target: float) -> None:
        self.value = self.average = first
        self._target, self._mu, self._least = target, math.log(10 * first), math.log(first * _LOWEST)
        self._t, self._error, self._log_average = 0, 0.0, 0.0

    def update(self, acceptance: float) -> None:
        """Takes the mean acceptance probability at `value`; NaN counts as 0."""
        self._t += 1
        t = self._t
        weight = 1 / (t + _T0)
        miss = self._target - (0.0 if math.isnan(acceptance) else acceptance)
        self._error = (1 - weight) * self._error + weight * miss
        log = max(self._mu - math.sqrt(t) / _GAMMA * self._error, self._least)
        weight = t**-_KAPPA
        self._log_average = weight * log + (1 - weight) * self._log_average
        self.value, self.average = math.exp(log), math.exp(self._log_average)
