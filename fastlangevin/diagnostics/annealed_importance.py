"""`log_partition`: log Z of an energy by annealed importance sampling, to compare models."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..network.target import Target, make_target
from ..samplers.mala import MALA
from ..validation import Bounds, check_bounds, check_int, check_positive, check_states_shape

_ENOUGH = 100  # effective chains, below which the standard error is uncertain itself
_SIGMOID_ENDS = 4.0  # of Grosse, Ghahramani and Adams 2015
_PILOT_CHAINS, _PILOT_BETAS, _PILOT_STEPS = 64, 12, 30


class LogPartition(NamedTuple):
    """An estimate of log Z.

    Attributes:
        value: of log Z, in nats.
        standard_error: of `value`, one standard deviation.
        effective_sample_size: (Σ w)² / Σ w² of the chains' weights w, 1 … B.
        log_weights: (B,) float64, log w of each chain, of which E w = Z.

    Examples:
        >>> narrow = fl.energies.Gaussian([0.0], [[0.25]])
        >>> first, second = (fl.log_partition(narrow, shape=(500, 1), betas=20, step_size=0.1, seed=s) for s in (1, 2))
        >>> both = fl.LogPartition.from_log_weights(torch.cat([first.log_weights, second.log_weights]))
        >>> bool(abs(both.value - math.log(0.5 * (2 * math.pi) ** 0.5)) < 5 * both.standard_error)
        True
    """

    value: float
    standard_error: float
    effective_sample_size: float
    log_weights: Tensor

    @staticmethod
    def from_log_weights(log_weights: Tensor) -> LogPartition:
        """Returns the estimate of all chains, for example of `torch.cat` of the log weights of several parts.

            log Z = log (1/B) Σ w,    standard error sd(w) / (mean(w) sqrt(B))   (the delta method)

        Warns:
            UserWarning: an effective sample size below 100: few chains decide, and the standard error says too little.
        """
        return _estimate(log_weights, stacklevel=3)

    def __repr__(self) -> str:
        return (
            f"LogPartition({self.value:.6g} ± {self.standard_error:.2g}, "
            f"{self.effective_sample_size:.4g} effective chains of {len(self.log_weights)})"
        )


def log_partition(
    energy: Callable[[Tensor], Tensor] | None = None,
    *,
    log_density: Callable[[Tensor], Tensor] | None = None,
    shape: Sequence[int],
    scale: float | None = None,
    bounds: Bounds | None = None,
    betas: int | Sequence[float] = 200,
    n_steps: int = 5,
    step_size: float | Sequence[float] | None = None,
    chain_offset: int = 0,
    seed: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    precision: str = "fp32",
    engine: str = "auto",
    backend: str = "auto",
) -> LogPartition:
    """Estimates log Z = log ∫ exp(-U(x)) dx by annealed importance sampling (Neal, Statistics and Computing 11, 2001).

    Chains start at exact draws of a normalised base exp(-U₀), and go along 0 = β₀ < β₁ < … < β_K = 1:

        log w ← log w - (β_k - β_{k-1}) (U(x) - U₀(x)),   then n_steps transitions of `MALA` on (1 - β_k) U₀ + β_k U

    With any number of betas and steps E w = Z; more of them make the weights equal. By Jensen's inequality `value` is
    too low on average: a log-likelihood computed with it flatters the model, unless weights are nearly equal.

    Args:
        energy: U, `(x,)` with x (B, *event) to B numbers. A module or a function.
        log_density: f = -U, likewise. One of the two is given.
        shape: (B, *event): the number of chains, such as 1000, and the shape of a state.
        scale: s of the base N(0, s²) of each element. It should cover the density: wider rather than narrower. None: 1.
        bounds: (lo, hi), both finite: the base is uniform between them, and Z the integral there. Without `scale`.
        betas: K, for β_k ∝ sigmoid(4 (2k/K - 1)), dense at both ends (Grosse, Ghahramani and Adams, arXiv:1511.02543);
            or β₀ … β_K themselves.
        n_steps: of MALA at each β from β₁ on (those at β_K do not change the estimate and are left out).
        step_size: η of MALA: a number, or one for each of β₁ … β_K. None: found by `MALA.warm_up` at some of the betas
            in a run of 64 other chains.
        chain_offset: index of the first chain in the whole batch. Parts of a batch with one seed give the log weights
            that the batch gives; `LogPartition.from_log_weights` puts them together.
        seed: of the noise, as for `MALA`.
        device, dtype: of the states; None: the network's device, else the CPU.
        precision, engine, backend: as for `MALA`.

    Raises:
        TypeError, ValueError: an argument that is not as above, or an energy that is not finite at a draw of the base.

    Warns:
        UserWarning: as for `LogPartition.from_log_weights`.

    Examples:
        >>> narrow = fl.energies.Gaussian([0.0, 0.0], [[0.25, 0.0], [0.0, 0.25]])
        >>> estimate = fl.log_partition(narrow, shape=(1000, 2), betas=20, step_size=0.1, seed=1)
        >>> bool(abs(estimate.value - math.log(2 * math.pi * 0.25)) < 5 * estimate.standard_error)
        True
    """
    target = make_target(energy=energy, log_density=log_density)
    n_chains, *event = check_states_shape(shape)
    if n_chains == 0:
        raise ValueError(f"shape must have at least one chain, got {tuple(shape)}")
    path = _Path(target, _base(scale, bounds, math.prod(event)))
    schedule = _checked_betas(betas)
    sampler = MALA(
        path,
        step_size=path.base.step_size,
        n_steps=check_int("n_steps", n_steps),
        bounds=path.base.bounds,
        init="normal" if path.base.bounds is None else "uniform",
        precision=precision,
        engine=engine,
        backend=backend,
        seed=seed,
    )
    where = torch.device(device or target.device() or "cpu")

    def start(n: int, offset: int) -> Tensor:
        return path.base.scaled(sampler.initial((n, *event), chain_offset=offset, device=where, dtype=dtype))

    if step_size is None:
        sizes = _found_step_sizes(sampler, start(_PILOT_CHAINS, 0), schedule)
    else:
        sizes = _checked_step_sizes(step_size, len(schedule) - 1)
    x = start(n_chains, check_int("chain_offset", chain_offset, 0))
    log_weights = torch.zeros(n_chains, dtype=torch.float64, device=where)
    one = x.new_ones(())
    for k, (before, beta) in enumerate(pairwise(schedule)):
        if k:
            x = sampler.replace(step_size=sizes[k - 1])(x, x.new_tensor(before), chain_offset=chain_offset)
        away = sampler.energy(x, one).double() - path.base.energy(x.double())
        if not torch.isfinite(away).all():
            raise ValueError(f"energy must be finite at states of the base, got {away[~torch.isfinite(away)][0]}")
        log_weights -= (beta - before) * away
    return _estimate(log_weights, stacklevel=3)


def _estimate(log_weights: Tensor, stacklevel: int) -> LogPartition:
    n = len(log_weights)
    log_weights = log_weights.double()
    value = torch.logsumexp(log_weights, 0) - math.log(n)
    weights = torch.exp(log_weights - value)  # of mean 1
    error = float(weights.std() / math.sqrt(n)) if n > 1 else math.inf
    effective = float(weights.sum().square() / weights.square().sum())
    if not effective >= _ENOUGH:
        warnings.warn(
            f"log Z rests on {effective:.3g} effective chains of {n}, fewer than {_ENOUGH}: it is likely too low, and "
            "more uncertain than its standard error says. Take more betas, more steps at each, more chains, or a base "
            "nearer to the density (scale)",
            stacklevel=stacklevel,
        )
    return LogPartition(float(value), error, effective, log_weights)


class _Base:
    """The base: N(0, scale²) of each of d elements, or uniform within bounds."""

    def __init__(self, scale: float, bounds: tuple[float, float] | None, d: int) -> None:
        self.scale, self.bounds, self.d = scale, bounds, d
        width = scale if bounds is None else (bounds[1] - bounds[0]) / math.sqrt(12)
        self.step_size = 0.3 * width**2 / max(1, d) ** (1 / 3)

    def scaled(self, x: Tensor) -> Tensor:
        """A draw of N(0, 1), or within the bounds, as one of the base."""
        return self.scale * x if self.bounds is None else x

    def energy(self, x: Tensor) -> Tensor:
        """U₀, of which Z is 1."""
        if self.bounds is None:
            return self.quadratic(x) + 0.5 * self.d * math.log(2 * math.pi * self.scale**2)
        return x.new_full((len(x),), self.d * math.log(self.bounds[1] - self.bounds[0]))

    def quadratic(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1).square().sum(dim=1) * (0.5 / self.scale**2)


class _Path(nn.Module):
    """(1 - β) U₀ + β U up to a constant."""

    def __init__(self, target: Target, base: _Base) -> None:
        super().__init__()
        self.function, self.base = target.function, base
        self.sign = 1.0 if target.kind == "energy" else -1.0

    def forward(self, x: Tensor, beta: Tensor) -> Tensor:
        energy = self.sign * self.function(x).reshape(len(x))
        if self.base.bounds is not None:
            return beta * energy
        return beta * energy + (1 - beta) * self.base.quadratic(x)


def _found_step_sizes(sampler: MALA, x: Tensor, betas: Sequence[float]) -> list[float]:
    """The step size at β₁ … β_K, log-linear in k between those betas at which it is searched for."""
    places = np.unique(np.linspace(1, len(betas) - 1, min(_PILOT_BETAS, len(betas) - 1)).astype(int))
    found = []
    for k in places:
        sampler, x = sampler.warm_up(x, x.new_tensor(betas[k]), n_steps=_PILOT_STEPS, chain_offset=0)
        assert isinstance(sampler.step_size, float)
        found.append(math.log(sampler.step_size))
    return np.exp(np.interp(np.arange(1, len(betas)), places, found)).tolist()


def _checked_betas(betas: int | Sequence[float]) -> list[float]:
    if isinstance(betas, int):
        n = check_int("betas", betas)
        sigmoid = 1 / (1 + np.exp(-_SIGMOID_ENDS * np.linspace(-1, 1, n + 1)))
        return ((sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])).tolist()
    values = [float(beta) for beta in betas]
    if len(values) < 2 or values[0] != 0 or values[-1] != 1 or not all(a < b for a, b in pairwise(values)):
        raise ValueError(f"betas must be an int, or increase from 0 to 1, got {betas!r}")
    return values


def _checked_step_sizes(step_size: float | Sequence[float], n: int) -> list[float]:
    if not isinstance(step_size, Sequence):
        return [check_positive("step_size", step_size)] * n
    if len(step_size) != n:
        raise ValueError(f"step_size must be a number, or one for each of the {n} betas after 0, got {len(step_size)}")
    return [check_positive(f"step_size[{k}]", size) for k, size in enumerate(step_size)]


def _base(scale: float | None, bounds: Bounds | None, d: int) -> _Base:
    checked = check_bounds(bounds)
    if checked is None:
        return _Base(1.0 if scale is None else check_positive("scale", scale), None, d)
    if not all(map(math.isfinite, checked)):
        raise ValueError(f"bounds must be two finite numbers, got {bounds!r}")
    if scale is not None:
        raise ValueError(f"scale must be None with bounds, between which the base is uniform, got {scale!r}")
    return _Base(1.0, checked, d)
