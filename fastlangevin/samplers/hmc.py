"""`HMC`: Hamiltonian Monte Carlo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..chains.initial import Init
from ..chains.metropolis_chain import HmcChain
from ..chains.schedule import Schedule
from ..network.target import make_target
from ..validation import Bounds, check_int
from .masses import check_mass, momentum
from .metropolis import Metropolis
from .noise_counter import NoiseCounter
from .options import Option


class HMC(Metropolis):
    """Hamiltonian Monte Carlo (Duane et al., Physics Letters B 195, 1987; Neal, Handbook of MCMC, 2011): n_steps of

        v ~ N(0, T / m)
        n_leapfrog times:    v ← v + ε/2·s(x)/m,    x ← x + ε·v,    v ← v + ε/2·s(x)/m
        the end of the trajectory with probability min(1, exp(-ΔH / T)), else x stays

    for every chain of a batch, with p(x) ∝ exp(-U(x) / T), its score s = -∇U and H = U(x) + Σ m v² / 2. The leapfrog
    steps are reversible and preserve volume, so p is invariant whatever the step size ε; the energy error ΔH is O(ε²).
    Each transition evaluates the score n_leapfrog times, once with the energy, and a call once more at x0. One leapfrog
    step is MALA with η = ε² / 2.

    `warm_up` finds the step size at which 0.8 of the proposals are accepted. Where the density is nearly Gaussian, a
    trajectory of n_leapfrog·ε near 2π standard deviations comes back to its start and is accepted, and the chain hardly
    moves: choose n_leapfrog such that the product is about π/2 standard deviations of the widest direction, and look at
    the effective sample size.

    The energy must be the same function of x at each evaluation: call `eval()` on a network with dropout or batch norm.

    The numbers of z are those of `Langevin` (stream 0), those of the test a uniform number a chain and step (stream 3).

    Args:
        energy: U, `(x, *args, **kwargs)` with x (B, *event) to B numbers. A module or a function.
        log_density: f = -U up to a constant, likewise. One of the two is given.
        step_size: ε, positive: a number, a sequence of n_steps numbers, or a callable of k = 0 … n_steps - 1.
        n_leapfrog: number of leapfrog steps of a transition, at least 1.
        mass: m, positive: a number, or a tensor of the shape of a chain's state, best the inverse of the variances.
        n_steps: number of transitions of a call, at least 1.
        temperature: T, positive.
        bounds: (lo, hi), limits of the state, beyond which p is 0: trajectories that end there are rejected, so x0 must
            lie within. (lo, None) or (None, hi) on one side. None: no limits.
        init, precision, engine, backend, graph, unroll, seed, generator: as for `Langevin`.

    Warns:
        RuntimeWarning: a chain rejected 100 proposals in a row at the end of a call, of those of the call.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        BackendUnavailable: an explicit backend, engine or graph that is not available (raised by a call).

    Examples:
        >>> energy = fl.energies.Gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 0.25]])
        >>> sampler = fl.HMC(energy, step_size=0.2, n_leapfrog=8, mass=torch.tensor([1.0, 4.0]), n_steps=20, seed=1)
        >>> x = sampler.sample((1000, 2))
        >>> bool((x.var(0) - torch.tensor([1.0, 0.25])).abs().max() < 0.2)
        True
    """

    target_acceptance = 0.8

    n_leapfrog = Option[int]()
    mass = Option["float | Tensor"]()

    def __init__(
        self,
        energy: Callable[..., Tensor] | None = None,
        *,
        log_density: Callable[..., Tensor] | None = None,
        step_size: Schedule,
        n_leapfrog: int = 10,
        mass: float | Tensor = 1.0,
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
                "n_leapfrog": n_leapfrog,
                "mass": mass,
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

    def _chain(self, n_steps: int, **shared: Any) -> HmcChain:
        sizes = self._step_sizes(n_steps)
        return HmcChain(
            step_sizes=sizes,
            half_steps=[size / 2 for size in sizes],
            n_leapfrog=self.n_leapfrog,
            momentum=momentum(self.mass, shared["event"], shared["device"], shared["dtype"]),
            temperature=self.temperature,
            bounds=self.bounds,
            **shared,
        )

    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        options = super()._check_options(options)
        options["n_leapfrog"] = check_int("n_leapfrog", options["n_leapfrog"])
        options["mass"] = check_mass(options["mass"])
        return options
