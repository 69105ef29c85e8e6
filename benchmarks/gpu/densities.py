"""Chains of two-dimensional densities in closed form on one GPU: one launch for all steps, torch's operators in a
captured graph, and the handwritten loop.
"""

from __future__ import annotations

import functools

import checks
import works
from contenders import Chain, eager
from timing import spread
from torch import Tensor

import fastlangevin as fl
from gpu.timing import Row, failed, ratio, times

ENGINES = ("analytic", "autograd")


def chains() -> list[Row]:
    """A chain of K = 100 steps of 10,000 states, of a mixture and of a double well."""
    return [row for make in (works.mixture, works.double_well) for row in chain(make())]


def chain(work: works.Work) -> list[Row]:
    """The time of each contender that agrees with the handwritten loop; a failed row for any other."""
    runs: dict[str, Chain] = {"eager": eager.make(work)}
    rows: list[Row] = []
    expected = checks.Expected.of(work)
    for engine in ENGINES:
        try:
            runs[engine] = by_engine(work, engine)
            why = checks.disagreement(work, runs[engine], expected)
            if why:
                raise AssertionError(why)
        except Exception as error:  # the others are still timed
            runs.pop(engine, None)
            rows.append(failed(f"{work.title}, {engine}", f"{type(error).__name__}: {error}"))
    calls = {name: functools.partial(run, work.x0, work.n_steps, work.noise_std) for name, run in runs.items()}
    seconds = times(calls, rounds=15)
    for name, values in seconds.items():
        value, quartiles = spread([s * 1e6 for s in values])
        row: Row = {"what": f"{work.title}, {name}", "value": value, "unit": "µs", "quartiles": quartiles}
        rows.append(row if name == "eager" else row | ratio(seconds["eager"], values, "eager"))
    return rows


def by_engine(work: works.Work, engine: str) -> Chain:
    """Its samplers as a user calls them, one a noise level, which keep their graphs."""

    @functools.cache
    def sampler(noise_std: float) -> fl.Langevin:
        return fl.Langevin(work.module, engine=engine, step_size=work.step_size, noise_std=noise_std, seed=1)

    def run(x0: Tensor, n_steps: int, noise_std: float) -> Tensor:
        return sampler(noise_std)(x0, n_steps=n_steps)

    return run
