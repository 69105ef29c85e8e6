"""torchebm's Langevin dynamics and Hamiltonian Monte Carlo, with their signatures, on fastlangevin's engines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..extras import require
from ..samplers.base import Sampler
from ..samplers.hmc import HMC
from ..samplers.langevin import Langevin
from ..samplers.noise_counter import NoiseCounter
from ..validation import check_int

if TYPE_CHECKING:
    from torchebm import core, integrators, samplers
else:
    samplers, core, integrators = (
        require(f"torchebm.{name}", "torchebm") for name in ("samplers", "core", "integrators")
    )

__all__ = ["HamiltonianMonteCarlo", "LangevinDynamics"]

_PRECISIONS = {torch.float16: "fp16", torch.bfloat16: "bf16"}  # of a sampler's autocast


class _OnEngines(core.BaseSampler):
    """What the two samplers share: the model as a target, seeds, and the values of schedulers.

    Attributes:
        sampler: the sampler that runs the chains.
    """

    sampler: Sampler
    _own_gradient: ClassVar[tuple[str, type]]  # the kind of target of a model with a gradient of its own, and its class

    def _set_up(self, made: type[Sampler], seed: int | None, options: dict[str, Any]) -> None:
        self._given, self._has_seed, self._precision = self._target(), seed is not None, options["precision"]
        target = {self._given[0]: self._given[1]}
        self.sampler = made(**target, step_size=1.0, init="normal", seed=seed or 0, **options)  # type: ignore[call-arg]

    def _with(self, **options: Any) -> Sampler:
        """The sampler with these options, and with model and precision as they are now."""
        given = self._target()
        if given != self._given:
            self._given, options[given[0]] = given, given[1]
        mixed = self.use_mixed_precision and self.autocast_available
        options["precision"] = _PRECISIONS[self._amp_dtype] if mixed else self._precision
        self.sampler = self.sampler.replace(**options)
        return self.sampler

    @property
    def _chain_offset(self) -> int | None:
        """0 where each of several ranks has a seed of its own, and the chains therefore other noise."""
        return None if self._has_seed else 0

    def _target(self) -> tuple[str, Any]:
        model = self.model
        if not callable(getattr(model, "gradient", None)):
            raise TypeError(
                f"model must be a torchebm.core.BaseModel, or have its gradient(x), got {type(model).__name__}"
            )
        inherits = getattr(type(model), "gradient", None) is core.BaseModel.gradient and "gradient" not in vars(model)
        in_another_precision = getattr(model, "use_mixed_precision", False) or (
            getattr(model, "force_fp32_gradient", False) and self.dtype != torch.float32
        )
        if inherits and not in_another_precision:
            return "energy", model
        kind, function = self._own_gradient
        return kind, function(model)

    def _start(
        self,
        x: Tensor | None,
        dim: int | tuple[int, ...] | None,
        n_samples: int,
        reset_schedulers: bool,
        generator: torch.Generator | None,
    ) -> Tensor:
        """The initial states of a call, whose noise is seeded."""
        if self._has_seed and generator is not None:
            raise ValueError("generator must be None for a sampler with a seed: the two are mutually exclusive")
        if reset_schedulers:
            self.reset_schedulers()
        if self._has_seed and x is None and dim is not None:
            shape = (n_samples, *((dim,) if isinstance(dim, int) else dim))
            return self.sampler.initial(shape, device=self.device, dtype=self.dtype)
        x = self._init_state(x, dim, n_samples, generator)
        if not self._has_seed:
            seed = NoiseCounter(None, generator).seed
            self.sampler.load_state_dict({**self.sampler.state_dict(), "seed": seed, "step": 0})
        return x

    def _blocks(self, names: tuple[str, ...], n_steps: int, one_by_one: bool = False) -> Iterator[list[list[float]]]:
        """Yields, for steps that may run at once, the values of scheduled parameters at each, and advances schedulers
        as a loop over the steps would.
        """
        length = 1 if one_by_one or _has_schedules(self.model) else max(n_steps, 1)
        for _ in range(0, n_steps, length):
            values: list[list[float]] = [[] for _ in names]
            for k in range(length):
                if k:
                    self.step_schedulers()
                for name, column in zip(names, values, strict=True):
                    column.append(float(self.get_scheduled_value(name)))
            yield values
            self.step_schedulers()


class _Kept:
    """What a call returns besides the last states."""

    def __init__(
        self, owner: _OnEngines, x: Tensor, kwargs: dict[str, Any], n_kept: int, states: bool, names: tuple[str, ...]
    ) -> None:
        self._owner, self._kwargs, self._n = owner, kwargs, 0
        self._trajectory = x.new_empty(len(x), n_kept, *x.shape[1:]) if states else None
        shape = {"mean": x.shape[1:], "var": x.shape[1:]}
        self._diagnostics = {name: x.new_empty(n_kept, *shape.get(name, ())) for name in names}

    def __bool__(self) -> bool:
        return self._trajectory is not None or bool(self._diagnostics)

    def add(self, x: Tensor, acceptance: Tensor | None = None) -> None:
        i, diagnostics = self._n, self._diagnostics
        if self._trajectory is not None:
            self._trajectory[:, i] = x
        if diagnostics:
            diagnostics["mean"][i] = x.mean(0)
            diagnostics["var"][i] = x.var(0, unbiased=False).clamp(1e-10, 1e10) if len(x) > 1 else 0.0
            with self._owner.autocast_context():
                diagnostics["energy"][i] = self._owner._model_energy(x, self._kwargs).mean()
        if acceptance is not None:
            diagnostics["acceptance_rate"][i] = acceptance
        self._n += 1

    def result(self, x: Tensor) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        states = x if self._trajectory is None else self._trajectory
        return (states, self._diagnostics) if self._diagnostics else states


@dataclass(frozen=True, eq=True)
class _Score:
    """-∇U by the model's own gradient."""

    model: Any

    def __call__(self, x: Tensor, **kwargs: Any) -> Tensor:
        return -_gradient(self.model, x, kwargs)


@dataclass(frozen=True, eq=True)
class _EnergyWithGradient:
    """U, whose gradient is the model's own."""

    model: Any

    def __call__(self, x: Tensor, **kwargs: Any) -> Tensor:
        return _OwnGradient.apply(x, self.model, kwargs)


class _OwnGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, model: Any, kwargs: dict[str, Any]) -> Tensor:
        ctx.model, ctx.kwargs = model, kwargs
        ctx.save_for_backward(x)
        return model(x, **kwargs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grad.view(-1, *[1] * (x.dim() - 1)) * _gradient(ctx.model, x, ctx.kwargs), None, None


class LangevinDynamics(_OnEngines, samplers.LangevinDynamics):
    """`torchebm.samplers.LangevinDynamics`, of which it is a subclass, by `fl.Langevin`:

        x ← clamp(x - η·∇U(x) + noise_scale·sqrt(2η)·z)

    The constructor and `sample` take torchebm's arguments in their order and return what torchebm's return; schedulers
    are read, reset and advanced as there. What differs:

    - the normal numbers z, but not the initial states of ``x=None``, are those of fastlangevin's stream (`fl.noise`);
    - chains that end in NaN or infinity raise `ChainDiverged` instead of being returned;
    - the only integrator is "euler_maruyama".

    A model whose `gradient` is that of `BaseModel` is an energy to the engines; where a model defines its own, or
    computes it in another precision, that is called at each step. `sampler.plan` says how chains run. Where schedulers
    of the model itself change it, steps are taken one by one.

    Args:
        model: U, a `torchebm.core.BaseModel`, or another module with its `gradient`.
        step_size: η, a positive number or a scheduler.
        noise_scale: a positive number or a scheduler.
        decay: without effect, as in torchebm.
        clamp: (min, max), limits on the state after every step. None: no limits.
        dtype, device: of the states, where the model has no parameters that say so.
        integrator: None, "euler_maruyama" or an `EulerMaruyamaIntegrator`.
        seed: 64 bits, of the initial states of ``x=None`` and of the noise, which goes on from call to call. None: each
            call draws its seed from `generator`, or else from torch's default one, as `torch.manual_seed` repeats it.
        precision, engine, backend, graph: as for `fl.Langevin`. After ``setup_mixed_precision(True)`` on a GPU the
            precision is that of its `amp_dtype`.

    Attributes:
        sampler: the `fl.Langevin` that runs the chains, for its `plan` and, with a seed, its `state_dict`. Its numbers
            are those of the last call.

    Raises:
        ImportError: (by the import) torchebm, the extra "torchebm", is not installed.
        TypeError, ValueError: an argument that is not as above; the message names it.
        ChainDiverged: (by `sample`) a state is not finite at the end of the chain.

    Examples:
        >>> from torchebm.core import DoubleWellModel
        >>> from fastlangevin.adapters.torchebm import LangevinDynamics
        >>> sampler = LangevinDynamics(DoubleWellModel(), step_size=0.01, seed=1)
        >>> sampler.sample(dim=2, n_samples=8, n_steps=20).shape
        torch.Size([8, 2])
    """

    sampler: Langevin
    _own_gradient = ("score", _Score)

    def __init__(
        self,
        model: nn.Module,
        step_size: float | core.BaseScheduler = 1e-3,
        noise_scale: float | core.BaseScheduler = 1.0,
        decay: float = 0.0,
        clamp: tuple[float, float] | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        integrator: str | core.BaseSDERungeKuttaIntegrator | None = None,
        *,
        seed: int | None = None,
        precision: str = "fp32",
        engine: str = "auto",
        backend: str = "auto",
        graph: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(model, step_size, noise_scale, decay, clamp, dtype, device, integrator)
        _check_integrator(self.integrator, integrators.EulerMaruyamaIntegrator)
        options = {"precision": precision, "engine": engine, "backend": backend, "graph": graph}
        self._set_up(Langevin, seed, {"noise_std": None, **options})

    @torch.no_grad()
    def sample(
        self,
        x: Tensor | None = None,
        dim: int | tuple[int, ...] | None = None,
        n_steps: int = 100,
        n_samples: int = 1,
        thin: int = 1,
        return_trajectory: bool = False,
        return_diagnostics: bool = False,
        reset_schedulers: bool = True,
        *,
        y: Tensor | None = None,
        model_kwargs: dict[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Runs the chains.

        Args:
            x: (B, *event) initial states. None: n_samples states of the shape `dim` from N(0, 1).
            n_steps: number of steps.
            thin: number of steps between states that are kept.
            return_trajectory: whether to return those states, (B, n_steps // thin, *event), instead of the last ones.
            return_diagnostics: whether to return a pair with a dict of the same steps: "mean" and "var" over the
                chains, (n_steps // thin, *event), and "energy", the mean energy, (n_steps // thin,).
            reset_schedulers: whether schedulers begin with their first value.
            y, model_kwargs: keyword arguments of the model.
            generator: of the initial states and the seed of the noise.
        """
        thin, n_steps = _check_thin(thin), check_int("n_steps", n_steps, 0)
        x = self._start(x, dim, n_samples, reset_schedulers, generator)
        kwargs = self._prepare_model_kwargs(self._merge_condition(model_kwargs, y))
        names = ("mean", "var", "energy") if return_diagnostics else ()
        place = {"kwargs": kwargs, "chain_offset": self._chain_offset}
        kept = _Kept(self, x, kwargs, n_steps // thin, return_trajectory, names)
        done = 0

        def observe(k: int, state: Tensor) -> None:
            if (done + k) % thin == 0:
                kept.add(state)

        for sizes, scales in self._blocks(("step_size", "noise_scale"), n_steps):
            n = len(sizes)
            stds = [abs(scale) * math.sqrt(2 * max(size, 0.0)) for size, scale in zip(sizes, scales, strict=True)]
            chains = self._with(n_steps=n, step_size=_same(sizes), noise_std=_same(stds), bounds=self.clamp)
            x = chains(x, callback=observe if kept else None, every=min(thin, n), **place)
            done += n
        return kept.result(x)


class HamiltonianMonteCarlo(_OnEngines, samplers.HamiltonianMonteCarlo):
    """`torchebm.samplers.HamiltonianMonteCarlo`, of which it is a subclass, by `fl.HMC`: momenta from N(0, mass), the
    leapfrog steps of a trajectory, and a Metropolis test of its end.

    The constructor and `sample` take torchebm's arguments in their order and return what torchebm's return. What
    differs: random numbers are those of fastlangevin's stream; states may have any shape, (B, *event); a trajectory
    that leaves the finite numbers is rejected, where torchebm puts zeros for NaN and limits forces to 1e6; the only
    integrator is "leapfrog". With diagnostics transitions are run one by one.

    Args:
        model: U, a `torchebm.core.BaseModel`. Trajectories follow its `gradient`, also one that it defines itself.
        step_size: ε, a positive number or a scheduler, which advances with each transition.
        n_leapfrog_steps: of a transition.
        mass: a number, or a tensor over the last dimension of the states. None: 1.
        dtype, device: of the states, where the model has no parameters that say so.
        integrator: None, "leapfrog" or a `LeapfrogIntegrator`.
        seed, precision, engine, backend, graph: as for `LangevinDynamics`.

    Attributes:
        sampler: the `fl.HMC` that runs the chains, as for `LangevinDynamics`.

    Raises:
        ImportError: (by the import) torchebm, the extra "torchebm", is not installed.
        TypeError, ValueError: an argument that is not as above; the message names it.
        ChainDiverged: (by `sample`) an initial state is not finite.

    Examples:
        >>> from torchebm.core import DoubleWellModel
        >>> from fastlangevin.adapters.torchebm import HamiltonianMonteCarlo
        >>> sampler = HamiltonianMonteCarlo(DoubleWellModel(), step_size=0.1, n_leapfrog_steps=5, seed=1)
        >>> sampler.sample(dim=2, n_samples=8, n_steps=20).shape
        torch.Size([8, 2])
    """

    sampler: HMC
    _own_gradient = ("energy", _EnergyWithGradient)

    def __init__(
        self,
        model: nn.Module,
        step_size: float | core.BaseScheduler = 1e-3,
        n_leapfrog_steps: int = 10,
        mass: float | Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        integrator: str | core.BaseSymplecticIntegrator | None = None,
        *,
        seed: int | None = None,
        precision: str = "fp32",
        engine: str = "auto",
        backend: str = "auto",
        graph: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(model, step_size, n_leapfrog_steps, mass, dtype, device, integrator)
        _check_integrator(self.integrator, integrators.LeapfrogIntegrator)
        options = {"precision": precision, "engine": engine, "backend": backend, "graph": graph}
        self._set_up(HMC, seed, options)

    @torch.no_grad()
    def sample(
        self,
        x: Tensor | None = None,
        dim: int | None = None,
        n_steps: int = 100,
        n_samples: int = 1,
        thin: int = 1,
        return_trajectory: bool = False,
        return_diagnostics: bool = False,
        reset_schedulers: bool = True,
        *,
        y: Tensor | None = None,
        model_kwargs: dict[str, Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Runs the chains. Arguments and results are those of `LangevinDynamics.sample`, and n_steps counts
        transitions. `dim` is that of `model.mean` where the model has one. Diagnostics have "acceptance_rate" too, the
        share of the chains that accepted the last transition before, (n_steps // thin,).
        """
        thin, n_steps = _check_thin(thin), check_int("n_steps", n_steps, 0)
        mean = getattr(self.model, "mean", None)
        if x is None and dim is None and isinstance(mean, Tensor):
            dim = mean.shape[0]
        x = self._start(x, dim, n_samples, reset_schedulers, generator)
        kwargs = self._prepare_model_kwargs(self._merge_condition(model_kwargs, y))
        names = ("mean", "var", "energy", "acceptance_rate") if return_diagnostics else ()
        place = {"kwargs": kwargs, "chain_offset": self._chain_offset}
        kept = _Kept(self, x, kwargs, n_steps // thin, return_trajectory, names)
        mass = 1.0 if self.mass is None else self._mass_of(x)
        done = 0

        def observe(k: int, state: Tensor) -> None:
            if (done + k) % thin == 0:
                kept.add(state)

        for (sizes,) in self._blocks(("step_size",), n_steps, one_by_one=return_diagnostics):
            n = len(sizes)
            chains = self._with(n_steps=n, step_size=_same(sizes), n_leapfrog=self.n_leapfrog_steps, mass=mass)
            if return_diagnostics and (done + n) % thin == 0:
                trace = chains.trace(x, **place)
                x = trace.x[-1]
                kept.add(x, trace.statistics["acceptance"][-1].mean())
            else:
                x = chains(x, callback=observe if kept else None, every=min(thin, n), **place)
            done += n
        return kept.result(x)

    def _mass_of(self, x: Tensor) -> float | Tensor:
        mass = self.mass
        if not isinstance(mass, Tensor) or mass.numel() == 1:
            return float(mass)
        return mass.expand(x.shape[1:]) if mass.dim() == 1 and mass.shape == x.shape[-1:] else mass


def _check_integrator(integrator: object, only: type) -> None:
    if type(integrator) is not only:
        raise ValueError(
            f"integrator must be that of fastlangevin's kernels, {only.__name__} (or None), got "
            f"{type(integrator).__name__}: torchebm's own sampler takes others"
        )


def _check_thin(thin: int) -> int:
    if not isinstance(thin, int) or thin < 1:
        raise ValueError(f"thin must be >= 1, an int, got {thin!r}")
    return thin


def _gradient(model: Any, x: Tensor, kwargs: dict[str, Any]) -> Tensor:
    return model.gradient(x, model_kwargs=kwargs) if kwargs else model.gradient(x)


def _has_schedules(model: object) -> bool:
    """Whether schedulers of the model change it from step to step."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    schedulers = (s for m in modules if isinstance(m, core.Schedulable) for s in m.schedulers.values())
    return any(not isinstance(scheduler, core.ConstantScheduler) for scheduler in schedulers)


def _same(values: list[float]) -> float | list[float]:
    """One number for a schedule of equal ones."""
    return values[0] if values.count(values[0]) == len(values) else values
