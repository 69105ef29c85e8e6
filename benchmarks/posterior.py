"""The posterior of examples/bayesian_logistic.py by blackjax: a long reference, and effective samples per second.

    python benchmarks/posterior.py --reference    # writes examples/bayesian_logistic.json, in about five minutes
    python benchmarks/posterior.py --docs         # the table of docs/posterior.md, in about two minutes

The reference is NUTS in float64 with the density in jax.numpy, written from the data and not from the example's module.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

import bayesian_logistic as example
import blackjax
import jax
import page_table
import torch
from jax import numpy as jnp

COMMAND = "python benchmarks/posterior.py --reference"
N_CHAINS, N_WARM_UP, N_DRAWS = 16, 1_000, 12_000  # of the reference
SEED = 0


def energy(dtype: Any) -> Callable[[Any], Any]:
    """U of one β, (d,) to (), from the labels 0 and 1: log(1 + exp(x_iᵀβ)) - y_i x_iᵀβ is the loss of item i."""
    x, y, _ = example.load()
    x, y = jnp.asarray(x.numpy(), dtype), jnp.asarray(y.numpy(), dtype)

    def at(beta: Any) -> Any:
        logits = x @ beta
        return jnp.sum(jnp.logaddexp(0, logits) - y * logits) + 0.5 * jnp.sum((beta / example.PRIOR_STD) ** 2)

    return at


def mode(u: Callable[[Any], Any], d: int) -> tuple[Any, Any]:
    """The mode by Newton's method from 0, and the Hessian there."""
    gradient, hessian = jax.grad(u), jax.jit(jax.hessian(u))
    beta = jnp.zeros(d)
    for _ in range(30):
        beta = beta - jnp.linalg.solve(hessian(beta), gradient(beta))
    return beta, hessian(beta)


def reference() -> dict[str, Any]:
    jax.config.update("jax_enable_x64", True)
    u = energy(jnp.float64)
    d = len(example.load()[2])
    keys = jax.random.split(jax.random.key(SEED), 3)
    beta, hessian = mode(u, d)
    # Twice the covariance of Laplace's approximation: draws of the prior lie so high that most trajectories diverge.
    x0 = jax.random.multivariate_normal(keys[0], beta, 2 * jnp.linalg.inv(hessian), (N_CHAINS,))
    warm_up = blackjax.window_adaptation(blackjax.nuts, lambda beta: -u(beta), target_acceptance_rate=0.9)
    (_, parameters), _ = warm_up.run(keys[1], x0[0], N_WARM_UP)
    nuts = blackjax.nuts(lambda beta: -u(beta), **parameters)

    def chain(key: Any, beta: Any) -> tuple[Any, Any]:
        def step(state: Any, key: Any) -> tuple[Any, Any]:
            state, info = nuts.step(key, state)
            return state, (state.position, info.is_divergent)

        return jax.lax.scan(step, nuts.init(beta), jax.random.split(key, N_WARM_UP + N_DRAWS))[1]

    draws, diverged = jax.jit(jax.vmap(chain))(jax.random.split(keys[2], N_CHAINS), x0)
    draws, diverged = draws[:, N_WARM_UP:], diverged[:, N_WARM_UP:]
    mean, sd = draws.mean((0, 1)), draws.std((0, 1), ddof=1)
    ess = blackjax.ess(draws)
    squares = (draws - mean) ** 2
    return {
        "command": COMMAND,
        "versions": {name: importlib.metadata.version(name) for name in ("blackjax", "jax", "scikit-learn")},
        "chains": N_CHAINS,
        "draws": N_DRAWS,
        "divergences": int(diverged.sum()),
        "largest_rhat": float(blackjax.rhat(draws).max()),
        "smallest_ess": float(ess.min()),
        "mode": beta.tolist(),
        "mean": mean.tolist(),
        "sd": sd.tolist(),
        "mean_error": (sd / jnp.sqrt(ess)).tolist(),
        # The delta method: sd is the root of the mean of the squares.
        "sd_error": (squares.std((0, 1)) / jnp.sqrt(blackjax.ess(squares)) / (2 * sd)).tolist(),
    }


Row = tuple[str, float, float, float, float, float]  # the columns of the table


def peer(name: str, kernel: Any, x: Any, n_records: int, every: int) -> Row:
    """blackjax's kernel, jitted over all chains and transitions; the time is without compiling."""

    def chain(key: Any, position: Any) -> Any:
        def step(state: Any, key: Any) -> tuple[Any, None]:
            return kernel.step(key, state)[0], None

        def record(state: Any, key: Any) -> tuple[Any, Any]:
            state, _ = jax.lax.scan(step, state, jax.random.split(key, every))
            return state, state.position

        return jax.lax.scan(record, kernel.init(position), jax.random.split(key, n_records))[1]

    run = jax.jit(jax.vmap(chain, out_axes=1)).lower(jax.random.split(jax.random.key(1), len(x)), x).compile()
    seconds, draws = timed(lambda: run(jax.random.split(jax.random.key(1), len(x)), x).block_until_ready())
    return row(name, torch.from_dlpack(draws), seconds)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds of the second of two runs, and what it returns."""
    run()
    started = time.perf_counter()
    found = run()
    return time.perf_counter() - started, found


def row(name: str, draws: torch.Tensor, seconds: float) -> Row:
    """draws: (T, B, d). The effective samples of the coefficient that has the fewest, by blackjax for all samplers."""
    ess = float(blackjax.ess_bulk(jnp.asarray(draws.transpose(0, 1).numpy())).min())
    return (name, *example.compare(draws, example.Reference.read()), ess, ess / seconds)


def rows() -> Iterator[Row]:
    x, y, _ = example.load()
    energy_of_torch, u = example.Posterior(x.float(), y), energy(jnp.float32)
    x0, step_sizes = example.start(energy_of_torch), {}
    for name, run in example.RUNS.items():
        sampler, at = example.warmed_up(run, energy_of_torch, x0)
        step_sizes[name] = float(sampler.step_size)
        seconds, draws = timed(functools.partial(run.draws, sampler, at))
        yield row(f"fl.{name}", draws, seconds)
    begin, mala, hmc = jnp.asarray(at.numpy()), example.RUNS["MALA"], example.RUNS["HMC"]

    def log_density(beta: Any) -> Any:
        return -u(beta)

    kernel = blackjax.mala(log_density, step_sizes["MALA"])
    yield peer("blackjax.mala", kernel, begin, mala.n_records, mala.every)
    kernel = blackjax.hmc(log_density, step_sizes["HMC"], jnp.ones(begin.shape[1]), example.N_LEAPFROG)
    yield peer("blackjax.hmc", kernel, begin, hmc.n_records, hmc.every)
    warm_up = blackjax.window_adaptation(blackjax.nuts, log_density)
    (_, parameters), _ = warm_up.run(jax.random.key(2), begin[0], N_WARM_UP)
    yield peer("blackjax.nuts", blackjax.nuts(log_density, **parameters), begin, hmc.n_records, hmc.every)


def table() -> Iterator[str]:
    yield "| sampler | largest error of a mean, sd | ratios of sd | effective samples | a second |"
    yield "| --- | --- | --- | --- | --- |"
    for name, error, low, high, ess, rate in rows():
        yield f"| `{name}` | {error:.3f} | {low:.3f} to {high:.3f} | {ess:,.0f} | {rate:,.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", action="store_true", help=f"write {example.REFERENCE.name}")
    parser.add_argument("--docs", action="store_true", help="write the table to docs/posterior.md")
    options = parser.parse_args()
    if options.reference:
        example.REFERENCE.write_text(json.dumps(reference(), indent=1) + "\n")
        print(f"written: {example.REFERENCE}")
    else:
        page_table.show(table(), "posterior.md" if options.docs else None, "benchmarks/posterior.py")


if __name__ == "__main__":
    main()
