"""`Underdamped`: underdamped Langevin dynamics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ..chains.initial import Init, check_state
from ..chains.schedule import Schedule, positive_step_sizes
from ..chains.underdamped_chain import UnderdampedChain, UnderdampedMemory
from ..network.inputs import make_inputs
from ..network.target import make_target
from ..validation import check_positive, dtype_and_shape
from .base import Sampler
from .graph_break import outside_graphs
from .masses import check_mass, momentum
from .noise_counter import NoiseCounter
from .options import Option


class Underdamped(Sampler):
    """Underdamped Langevin dynamics by the splitting BAOAB (Leimkuhler and Matthews, Applied Mathematics Research
    eXpress, 2013): n_steps of

        v ← v + h/2·s(x)/m
        x ← x + h/2·v
        v ← c·v + sqrt((1 - c²)·T/m)·z,    c = exp(-friction·h),    z ~ N(0, 1)
        x ← x + h/2·v
        v ← v + h/2·s(x)/m

    for every chain of a batch. As h → 0 the stationary density of (x, v) is exp(-(U(x) + Σ m v² / 2) / T). For a finite
    h that of x has a bias of O(h²), of O(h⁴) in the limit of high friction, and none for a Gaussian density. With high
    friction and m = 1 the dynamics tends to that of `Langevin` with step size h² / 2.
    Each step evaluates the score once, and a call once more at x0.

    A call draws the velocities at its start from N(0, T / m) (stream 5 at its first step); `with_velocity` takes and
    returns them, so that chains go on from call to call. The numbers of z are those of `Langevin` (stream 0).

    Args:
        energy: U, `(x, *args, **kwargs)` with x (B, *event) to B numbers. A module or a function.
        log_density: f = -U up to a constant, likewise.
        score: s = ∇ log-density, likewise to x's shape. Exactly one of the three is given.
        step_size: h, positive: a number, a sequence of n_steps numbers, or a callable of k = 0 … n_steps - 1.
        friction: γ, positive, in units of 1 / h. `math.inf` draws new velocities at each step.
        mass: m, positive: a number, or a tensor of the shape of a chain's state.
        temperature: T, positive.
        n_steps: number of steps of a call, at least 1.
        init: p0 of `sample`: "uniform" for U(-1, 1), "normal", or a callable `(shape, *, seed, step, chain_offset)`.
        precision, engine, backend, graph, unroll, seed, generator: as for `Langevin`.

    There are no bounds: a velocity does not end at one.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        BackendUnavailable: an explicit backend, engine or graph that is not available (raised by a call).

    Examples:
        >>> sampler = fl.Underdamped(fl.energies.DoubleWell(), step_size=0.1, friction=1.0, n_steps=100, seed=1)
        >>> sampler.sample((1000, 2)).shape
        torch.Size([1000, 2])
    """

    step_size = Option[Schedule]()
    friction = Option[float]()
    mass = Option["float | Tensor"]()
    temperature = Option[float]()

    bounds = None
    _whole_chains_on = ("cpu",)

    def __init__(
        self,
        energy: Callable[..., Tensor] | None = None,
        *,
        log_density: Callable[..., Tensor] | None = None,
        score: Callable[..., Tensor] | None = None,
        step_size: Schedule,
        friction: float = 1.0,
        mass: float | Tensor = 1.0,
        temperature: float = 1.0,
        n_steps: int = 100,
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
            make_target(energy=energy, log_density=log_density, score=score),
            NoiseCounter(seed, generator),
            {
                "step_size": step_size,
                "friction": friction,
                "mass": mass,
                "temperature": temperature,
                "n_steps": n_steps,
                "init": init,
                "precision": precision,
                "engine": engine,
                "backend": backend,
                "graph": graph,
                "unroll": unroll,
            },
        )

    @outside_graphs
    def with_velocity(
        self,
        x0: Tensor,
        *args: Any,
        velocity: Tensor | None = None,
        kwargs: Mapping[str, Any] | None = None,
        n_steps: int | None = None,
        chain_offset: int | None = None,
        step: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Runs the chains from (x0, velocity) and returns their last states and velocities, new tensors.

        The states are those of a call, which draws the velocities as this does. Other arguments, and errors, are those
        of a call.

        Args:
            velocity: of x0's shape and device, float64 for float64 states, else float32; left unchanged. None, and
                elements that are NaN, as a `ReplayBuffer` returns for chains that begin: drawn.

        Examples:
            >>> sampler = fl.Underdamped(fl.energies.DoubleWell(), step_size=0.1, n_steps=50, seed=1)
            >>> x, v = sampler.with_velocity(torch.zeros(100, 2))
            >>> x, v = sampler.with_velocity(x, velocity=v)  # the same chains go on
            >>> x.shape, v.shape, sampler.step
            (torch.Size([100, 2]), torch.Size([100, 2]), 100)
        """
        check_state("x0", x0, self.target)
        wanted = torch.promote_types(x0.dtype, torch.float32)
        if velocity is not None and (
            not isinstance(velocity, Tensor)
            or velocity.shape != x0.shape
            or velocity.dtype != wanted
            or velocity.device != x0.device
        ):
            raise ValueError(
                f"velocity must be {wanted} {tuple(x0.shape)} on {x0.device}, got {dtype_and_shape(velocity)}"
            )
        chain = self._start(x0, make_inputs(self.target, args, kwargs), n_steps, chain_offset, step)
        assert isinstance(chain, UnderdampedChain)
        given = None if velocity is None else velocity.detach()
        chain = dataclasses.replace(chain, velocity=given, continues=True)
        x = self._run(chain, x0)
        return x, UnderdampedMemory(*chain.memory).velocity

    def _chain(self, n_steps: int, **shared: Any) -> UnderdampedChain:
        sizes = positive_step_sizes(self.step_size, n_steps)
        decays = [math.exp(-self.friction * size) for size in sizes]
        return UnderdampedChain(
            step_sizes=sizes,
            half_steps=[size / 2 for size in sizes],
            decays=decays,
            noise_stds=[math.sqrt(-math.expm1(-2 * self.friction * size) * self.temperature) for size in sizes],
            has_equal_steps=len(set(sizes)) == 1,
            momentum=momentum(self.mass, shared["event"], shared["device"], shared["dtype"]),
            temperature=self.temperature,
            velocity=None,
            **shared,
        )

    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        options = super()._check_options(options)
        friction = options["friction"]
        if not (isinstance(friction, float) and friction == math.inf):
            options["friction"] = check_positive("friction", options["friction"])
        options["mass"] = check_mass(options["mass"])
        options["temperature"] = check_positive("temperature", options["temperature"])
        positive_step_sizes(options["step_size"], options["n_steps"])
        return options
