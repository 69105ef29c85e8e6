"""`ParallelTempering`: replica exchange between chains at several temperatures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from ..chains.initial import Init, check_state
from ..chains.metropolis_chain import langevin_noise_stds
from ..chains.tempering_chain import TemperingChain, TemperingMemory
from ..network.inputs import make_inputs
from ..network.target import make_target
from ..validation import Bounds, check_int, check_positive, dtype_and_shape
from .base import Sampler
from .graph_break import outside_graphs
from .noise_counter import NoiseCounter
from .options import Option


class ParallelTempering(Sampler):
    """Parallel tempering, or replica exchange (Geyer, Computing Science and Statistics, 1991; Hukushima and Nemoto,
    Journal of the Physical Society of Japan 65, 1996): every chain of a batch has a replica at each of R temperatures
    T_0 < … < T_{R-1}. n_steps of a transition of `MALA` at each temperature,

        y = x_r + η_r·s(x_r) + sqrt(2·η_r·T_r)·z,    accepted as by `MALA` for exp(-U / T_r)

    and after every swap_every of them neighbours exchange their states with probability

        min(1, exp((1/T_r - 1/T_{r+1})·(U(x_r) - U(x_{r+1}))))

    for even r and odd r in turn. This leaves Π_r exp(-U(x_r) / T_r) invariant, so that the chains at T_0 sample
    exp(-U / T_0); they reach other modes by way of the high temperatures, which cross between them. A call takes and
    returns the chains at T_0; all replicas start from x0. `with_replicas` takes and returns those of all temperatures.

    Each step evaluates energies and scores at R·B states: at once, or for one temperature after another if an extra
    argument is a tensor, or if kernels run whole chains of `MALA` for the energy.

    The chains at T_0 draw from the streams of `MALA`, the temperature picks those of others (`fl.noise.Stream`), so
    that chain_offset counts chains, and a split batch has the same bits.

    Args:
        energy: U, `(x, *args, **kwargs)` with x (B, *event) to B numbers. A module or a function.
        log_density: f = -U up to a constant, likewise. One of the two is given.
        temperatures: T_0 < … < T_{R-1}, positive, at least two. Neighbours whose energies overlap exchange states:
            ratios T_{r+1} / T_r of about 1 + sqrt(2 / d) for d elements. `trace` has the rates.
        step_size: η, positive: a number for all temperatures, at which a Gaussian density accepts alike, because the
            noise grows with T; or a sequence of R numbers.
        swap_every: transitions between exchanges, at least 1: after noise steps swap_every - 1, 2·swap_every - 1, ….
        n_steps: number of transitions of a call, a multiple of swap_every.
        bounds: (lo, hi), limits of the state, beyond which the density is 0, as for `MALA`. None: no limits.
        init, precision, engine, backend, graph, unroll, seed, generator: as for `Langevin`.

    `trace` records states, energies and acceptance at T_0, and "swaps", (T, R - 1): the share of the exchanges of r and
    r + 1 since the record before that took place, over the chains of the call; NaN where there were none.

    Warns:
        RuntimeWarning: a chain rejected 100 proposals in a row at one of the temperatures: lower its step_size.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        BackendUnavailable: an explicit backend, engine or graph that is not available (raised by a call).

    Examples:
        >>> wells = fl.energies.DoubleWell(dimension=1, barrier=5.0)  # at ±1
        >>> sampler = fl.ParallelTempering(wells, temperatures=[1.0, 2.5, 6.0], step_size=0.02, n_steps=500, seed=1)
        >>> trace = sampler.trace(torch.ones(200, 1), every=100)  # all chains start in one well
        >>> bool(0.3 < (trace.x[-1] < 0).float().mean() < 0.7)
        True
        >>> trace.statistics["swaps"].shape
        torch.Size([6, 2])
    """

    _whole_chains_on = ("cpu",)

    temperatures = Option["tuple[float, ...]"]()
    swap_every = Option[int]()
    step_size = Option["float | tuple[float, ...]"]()

    def __init__(
        self,
        energy: Callable[..., Tensor] | None = None,
        *,
        log_density: Callable[..., Tensor] | None = None,
        temperatures: Sequence[float],
        step_size: float | Sequence[float],
        swap_every: int = 10,
        n_steps: int = 100,
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
                "temperatures": temperatures,
                "step_size": step_size,
                "swap_every": swap_every,
                "n_steps": n_steps,
                "bounds": bounds,
                "init": init,
                "precision": precision,
                "engine": engine,
                "backend": backend,
                "graph": graph,
                "unroll": unroll,
            },
        )

    @outside_graphs
    def with_replicas(
        self,
        replicas: Tensor,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        n_steps: int | None = None,
        chain_offset: int | None = None,
        step: int | None = None,
    ) -> Tensor:
        """Runs the replicas at all temperatures, and returns their last states, a new tensor.

        Calls one after another are one run: their states are those of one call of as many steps.

        Other arguments, and errors, are those of a call.

        Args:
            replicas: (R, B, *event), replicas[r] at temperatures[r]; left unchanged. `x0.expand(R, *x0.shape)` is what
                a call starts from.

        Examples:
            >>> wells = fl.energies.DoubleWell()
            >>> sampler = fl.ParallelTempering(wells, temperatures=[1.0, 3.0], step_size=0.02, n_steps=10, seed=1)
            >>> replicas = sampler.with_replicas(torch.zeros(2, 100, 2))
            >>> replicas.shape, replicas[0].shape  # the states at temperature 1
            (torch.Size([2, 100, 2]), torch.Size([100, 2]))
        """
        n = len(self.temperatures)
        if not isinstance(replicas, Tensor) or replicas.dim() < 2 or len(replicas) != n:
            raise ValueError(f"replicas must have shape ({n}, B, *event), got {dtype_and_shape(replicas)}")
        check_state("replicas", replicas, self.target)
        replicas = replicas.detach()
        chain = self._start(replicas[0], make_inputs(self.target, args, kwargs), n_steps, chain_offset, step)
        assert isinstance(chain, TemperingChain)
        x = self._run(dataclasses.replace(chain, replicas=replicas[1:].contiguous()), replicas[0])
        return torch.cat([x[None], TemperingMemory(*chain.memory).states])

    def _chain(self, n_steps: int, **shared: Any) -> TemperingChain:
        if self.target.kind == "score":
            raise TypeError("ParallelTempering compares energies: it needs an energy or a log_density, not a score")
        _check_n_steps(n_steps, self.swap_every)
        given = self.step_size
        sizes = given if isinstance(given, tuple) else (given,) * len(self.temperatures)
        return TemperingChain(
            temperatures=self.temperatures,
            step_sizes=[[size] * n_steps for size in sizes],
            noise_stds=[
                langevin_noise_stds([size] * n_steps, temperature)
                for size, temperature in zip(sizes, self.temperatures, strict=True)
            ],
            swap_every=self.swap_every,
            bounds=self.bounds,
            **shared,
        )

    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        options = super()._check_options(options)
        options["temperatures"] = temperatures = _numbers("temperatures", options["temperatures"])
        if len(temperatures) < 2:
            raise ValueError(f"temperatures must be at least two, got {len(temperatures)}")
        for r in range(len(temperatures) - 1):
            if not temperatures[r] < temperatures[r + 1]:
                below, above = temperatures[r : r + 2]
                raise ValueError(f"temperatures must increase, got {below} and then {above} at {r} and {r + 1}")
        if isinstance(options["step_size"], Real):
            options["step_size"] = check_positive("step_size", options["step_size"])
        else:
            options["step_size"] = _numbers("step_size", options["step_size"])
            if len(options["step_size"]) != len(temperatures):
                raise ValueError(
                    f"step_size as a sequence must have one number for each of {len(temperatures)} temperatures, got "
                    f"{len(options['step_size'])}"
                )
        options["swap_every"] = check_int("swap_every", options["swap_every"])
        _check_n_steps(options["n_steps"], options["swap_every"])
        return options


def _check_n_steps(n_steps: int, swap_every: int) -> None:
    if n_steps % swap_every:
        raise ValueError(f"n_steps must be a multiple of swap_every = {swap_every}, got {n_steps}")


def _numbers(name: str, values: object) -> tuple[float, ...]:
    """Returns a sequence or tensor of positive finite numbers as floats. Raises ValueError for anything else."""
    try:
        numbers = tuple(float(value) for value in values)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(0 < number < math.inf for number in numbers):
        raise ValueError(f"{name} must be a sequence of positive finite numbers, got {values!r}")
    return numbers
