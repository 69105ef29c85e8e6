"""`MALA`: the Metropolis-adjusted Langevin algorithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..chains.initial import Init
from ..chains.metropolis_chain import MalaChain, langevin_noise_stds
from ..chains.schedule import Schedule
from ..network.target import make_target
from ..validation import Bounds
from .metropolis import Metropolis
from .noise_counter import NoiseCounter


class MALA(Metropolis):
    """The Metropolis-adjusted Langevin algorithm (Roberts and Tweedie, Bernoulli 2, 1996): n_steps of

        y = x + η·s(x) + sqrt(2ηT)·z,    z ~ N(0, 1)
        x ← y with probability min(1, p(y) q(x | y) / (p(x) q(y | x))), else x stays

    for every chain of a batch, with p(x) ∝ exp(-U(x) / T), its score s = -∇U, and q the density of the proposal. It
    leaves p invariant whatever the step size, unlike `Langevin`, whose proposals these are. Each transition evaluates
    energy and score once, and a call once more at x0.

    The step size of `Langevin` with ``noise_std=None`` is that of MALA; in d dimensions it may grow like d^(-1/3)
    (Roberts and Rosenthal, JRSS B 60, 1998), where 0.574 of the proposals should be accepted. `warm_up` finds it.

    The normal numbers of z are those of `Langevin` (stream 0), those of the test a uniform number a chain and step
    (stream 3): a split batch, other threads and a resumed run accept the same proposals. Across devices decisions agree
    as long as energies and scores do.

    The energy must be the same function of x at each evaluation: call `eval()` on a network with dropout or batch norm.

    Args:
        energy: U, `(x, *args, **kwargs)` with x (B, *event) to B numbers. A module or a function.
        log_density: f = -U up to a constant, likewise. One of the two is given.
        step_size: η, positive: a number, a sequence of n_steps numbers, or a callable of k = 0 … n_steps - 1.
        n_steps: number of transitions of a call, at least 1.
        temperature: T, positive.
        bounds: (lo, hi), limits of the state, beyond which p is 0: proposals there are rejected, so x0 must lie within.
            (lo, None) or (None, hi) on one side. None: no limits.
        init, precision, engine, backend, graph, unroll, seed, generator: as for `Langevin`.

    Warns:
        RuntimeWarning: a chain rejected 100 proposals in a row at the end of a call, of those of the call.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        BackendUnavailable: an explicit backend, engine or graph that is not available (raised by a call).

    Examples:
        >>> energy = fl.energies.Gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 0.25]])
        >>> sampler = fl.MALA(energy, step_size=0.1, n_steps=200, seed=1)
        >>> trace = sampler.trace(torch.zeros(1000, 2), every=100)
        >>> bool(trace.statistics["acceptance"][1:].mean() > 0.8)
        True
        >>> bool((trace.x[-1].var(0) - torch.tensor([1.0, 0.25])).abs().max() < 0.2)
        True
    """

    target_acceptance = 0.574

    def __init__(
        self,
        energy: Callable[..., Tensor] | None = None,
        *,
        log_density: Callable[..., Tensor] | None = None,
        step_size: Schedule,
        n_steps: int = 100,
        temperature: float = 1.0,
        bounds: Bounds | None = None,
        init: Init = "uniform",
        precision: str = "fp32",
        engine: str = "auto",
        backend: str = "auto",
        graph: bool | Literal["auto"] = "auto",
        unroll: int | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            make_target(energy=energy, log_density=log_density),
            NoiseCounter(seed, generator),
            {
                "step_size": step_size,
                "n_steps": n_steps,
                "temperature": temperature,
                "bounds": bounds,
                "init": init,
                "precision": precision,
                "engine": engine,
                "backend": backend,
                "graph": graph,
                "unroll": unroll,
            },
        )

    def _chain(self, n_steps: int, **shared: Any) -> MalaChain:
        sizes = self._step_sizes(n_steps)
        return MalaChain(
            step_sizes=sizes,
            noise_stds=langevin_noise_stds(sizes, self.temperature),
            temperature=self.temperature,
            bounds=self.bounds,
            **shared,
        )
