"""`Langevin`: unadjusted Langevin dynamics, and short-run MCMC."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ..chains import schedule
from ..chains.chain import Chain
from ..chains.initial import Init, check_state
from ..chains.langevin_chain import LangevinChain
from ..chains.last_step import last_step
from ..chains.momentum import UNIT_MASS
from ..chains.preconditioned_chain import PreconditionedChain
from ..chains.preconditioner import Preconditioner, RMSprop, check_preconditioner, constant
from ..chains.schedule import Schedule, Values
from ..chains.vjp import DifferentiableChain
from ..network.inputs import make_inputs
from ..network.target import make_target
from ..validation import Bounds, check_grad_clip, unknown
from .base import Sampler
from .graph_break import outside_graphs
from .noise_counter import NoiseCounter
from .options import Option

_STEP_SIZE, _NOISE_STD = 1.0, 0.01  # Nijkamp et al., NeurIPS 2019, Section 3.1


class Paper(enum.Enum):
    """A default that depends on the other options."""

    DEFAULT = "default"

    def __repr__(self) -> str:
        return "<default>"


class Langevin(Sampler):
    """Unadjusted Langevin dynamics: n_steps of

        s = clip(∇ log p(x)·min(1, grad_clip_norm / ‖∇ log p(x)‖₂), ±grad_clip)
        x ← clamp(x + step_size·s + noise_std·z),    z ~ N(0, 1)

    for every chain of a batch, with counter-based noise: one seed gives the same z on every backend, for any split of
    the batch and any number of threads. Each call takes n_steps score evaluations.

    step_size and noise_std are given together:

    - Neither: the short-run MCMC of Nijkamp et al. (NeurIPS 2019, arXiv:1904.09770, Eq. 4), step_size 1 and
      noise_std 0.01, from uniform noise.
    - step_size and ``noise_std=None``: noise_std = sqrt(2·step_size·temperature), the sampler of Welling and Teh (ICML
      2011), whose stationary distribution tends to exp(-U / temperature) as the step size goes to 0.
    - step_size and a number for noise_std: a short run with decoupled noise. A temperature other than 1 is an error.
    - noise_std only: step_size is 1. step_size only: an error.

    With a preconditioner P, diagonal and positive, the step is

        x ← clamp(x + step_size·P·s + noise_std·sqrt(P)·z)

    whose stationary distribution still tends to exp(-U / temperature) for ``noise_std=None`` and a constant P, best the
    variances of the elements. `RMSprop` adapts P to the scores, at the price of a bias that it states.

    No side effects: x0, gradients, flags, modes and (given a seed or generator) torch's random state do not change.
    A network in train mode still has the side effects of its evaluation: dropout draws from torch's random state, and
    batch norm updates its averages.

    If x0 requires grad, so does the result of a call. Its gradient is vᵀ ∂x_K/∂x0 with the weights as constants
    (`vjp.chain_vjp`). It is exact, and free for piecewise linear networks without bounds, where it is v. No gradient
    flows to the weights, and none through `sample` and `trace`.

    Args:
        energy: U, low where data is likely (a network of `train` or `load` is a log-density); `(x, *args, **kwargs)`
            with x (B, *event) to B numbers, in any shape. A module or a function.
        log_density: f = -U up to a constant, likewise (the network of the paper).
        score: ∇ log p, `(x, *args, **kwargs)` to x's shape. Exactly one of the three is given.
        n_steps: K, at least 1.
        step_size: η: a number; over steps, a sequence of n_steps numbers or a callable of k = 0 … n_steps - 1; over
            chains, a tensor (B,); over both, a tensor (n_steps, B). Finite and not negative; tensors are copied. A
            chain's entry is that of its place in the whole batch, so a call with `chain_offset` reads its part.
            Default: 1.
        noise_std: σ, likewise; None for sqrt(2·step_size·temperature). Default: 0.01, if step_size is not given.
        temperature: T, for noise_std=None: a number, or over steps or chains like step_size (to anneal, or for chains
            at several temperatures).
        grad_clip: limit on the magnitude of every element of the score. None: no limit.
        grad_clip_norm: limit on the Euclidean norm of each chain's score. None: no limit.
        bounds: (lo, hi), limits on the state after every step; (lo, None) or (None, hi) on one side. None: no limits.
        noise_first: True for x̃ = x + σz, x ← clamp(x̃ + η·clip(s(x̃))) (Du and Mordatch, NeurIPS 2019); "clamp" for the
            same with x̃ clamped too, which needs bounds.
        noise_last: True for x ← clamp(x + η·clip(s(x))) + σz, the order of some loops after JEM (Grathwohl et al., ICLR
            2020), whose states leave the bounds by their noise. Needs bounds, and excludes noise_first.
        preconditioner: P: a tensor of the shape of a chain's state, positive and finite, which is copied; an `RMSprop`;
            or None for none. Steps are then taken one by one, the same numbers hold for all chains, noise_first and
            noise_last must be False, and there is neither a gradient to x0 nor `with_last_step`.
        init: p0 of `sample`: "uniform" over the bounds, which must then be on both sides (U(-1, 1) without bounds),
            "normal" (clamped to the bounds), or a callable `(shape, *, seed, step, chain_offset)`.
        precision: of the network, at least: "fp32" (strict), "tf32", "bf16" or "fp16". On a CPU "fp16" is
            computed in fp32, and "bf16" where that is faster (`plan.precision`). The state keeps its dtype.
        engine: how the score is computed. "autograd": for any energy. "convnet": in closed form, for consecutive known
            layers (`network.tracing`). It reads their weights once per call (spectral norm iterates once per call).
            "mlp" and "analytic": by kernels that run a whole chain, for fully connected networks,
            `energies.GaussianMixture` and `DoubleWell`. "compiled": by torch.compile, which compiles for seconds to
            minutes at the first call for a shape. "auto": at each call the fastest of the first four that recognises
            the energy. `plan` names it and gives the reasons.
        backend: of the update: "reference", "cpu", "triton", "cuda", or "auto" for the fastest on the state's device.
        graph: whether to capture the steps as CUDA graphs and replay them. "auto": on CUDA, if the energy can be
            captured; else it runs eagerly, after one warning that gives the reason. True: raise an error if they cannot
            be captured. False: never.
        unroll: number of steps in one captured graph, a divisor of n_steps. None: the fastest, measured at the first
            call.
        seed: 64 bits. None: drawn once by the constructor, from `generator` or else from torch's default generator.
        generator: of the seed. Mutually exclusive with `seed`.

    Options are read-only attributes; `replace` returns a sampler with other options.

    The step counter starts at 0. Each call of the sampler, `sample` and `trace` uses the noise steps from the counter
    on and advances it by the number of steps; `step=` overrides the counter for one call and does not advance it. A
    copy (deepcopy, pickle, a forked worker) has its own counter with the same value, and so draws the same noise. One
    sampler may be used from several threads.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        BackendUnavailable: an explicit backend, engine or graph that is not available (raised by a call).

    Examples:
        Langevin dynamics of a density, at temperature 1:

        >>> sampler = fl.Langevin(fl.energies.DoubleWell(), step_size=0.02, noise_std=None, n_steps=200, seed=1)
        >>> x = sampler.sample((1000, 2))
        >>> x.shape, sampler.step
        (torch.Size([1000, 2]), 200)

        Short runs of a network, from given states:

        >>> network = fl.models.ConvNet(image_size=8, channels=1, features=8)
        >>> options = {"n_steps": 10, "step_size": 1.0, "noise_std": 0.01, "bounds": (-1, 1)}
        >>> short_run = fl.Langevin(log_density=network, **options, seed=1)
        >>> x = short_run(torch.zeros(4, 1, 8, 8))
        >>> bool(x.abs().max() <= 1)
        True
    """

    step_size = Option[Schedule]()
    noise_std = Option["Schedule | None"]()
    temperature = Option[Schedule]()
    grad_clip = Option["float | None"]()
    grad_clip_norm = Option["float | None"]()
    noise_first = Option["bool | Literal['clamp']"]()
    noise_last = Option[bool]()
    preconditioner = Option[Preconditioner]()

    def __init__(
        self,
        energy: Callable[..., Tensor] | None = None,
        *,
        log_density: Callable[..., Tensor] | None = None,
        score: Callable[..., Tensor] | None = None,
        n_steps: int = 100,
        step_size: Schedule | Paper = Paper.DEFAULT,
        noise_std: Schedule | Paper | None = Paper.DEFAULT,
        temperature: Schedule = 1.0,
        grad_clip: float | None = None,
        grad_clip_norm: float | None = None,
        bounds: Bounds | None = None,
        noise_first: bool | Literal["clamp"] = False,
        noise_last: bool = False,
        preconditioner: Preconditioner = None,
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
                "n_steps": n_steps,
                "step_size": step_size,
                "noise_std": noise_std,
                "temperature": temperature,
                "grad_clip": grad_clip,
                "grad_clip_norm": grad_clip_norm,
                "bounds": bounds,
                "noise_first": noise_first,
                "noise_last": noise_last,
                "preconditioner": preconditioner,
                "init": init,
                "precision": precision,
                "engine": engine,
                "backend": backend,
                "graph": graph,
                "unroll": unroll,
            },
        )

    @outside_graphs
    def with_last_step(
        self,
        x0: Tensor,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        n_steps: int | None = None,
        chain_offset: int | None = None,
        step: int | None = None,
    ) -> Tensor:
        """Returns the last states of a call, up to rounding, with a graph through the last step to the weights θ:

            x_K = clamp(x̃ + step_size·clip(s_θ(x̃)) + noise_std·z),    x̃ a constant

        where x̃ is the state at which the last score is evaluated: x_{K-1}, plus its noise if noise_first. No gradient
        flows to x0. This gives the gradient of the term that contrastive divergence neglects, E_q[U(x)] for the chain's
        distribution q_θ with U's weights held constant (Du, Li, Tenenbaum and Mordatch, ICML 2021, arXiv:2012.01316).
        For a sampler created from a score, the graph goes through the score.

        Arguments, counter and errors are those of a call. The first n_steps - 1 steps run as in a call (so `unroll`
        must divide their number), the last step by autograd, in the sampler's precision. Under torch.no_grad there is
        no graph.

        Examples:
            >>> network = fl.models.MLP(2, hidden=(16,))
            >>> sampler = fl.Langevin(log_density=network, step_size=0.1, noise_std=None, n_steps=10, seed=1)
            >>> x = sampler.with_last_step(torch.zeros(8, 2))
            >>> loss = -network(x).mean()  # a training holds the weights of this evaluation constant
            >>> loss.backward()
            >>> all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
            True
        """
        if self.preconditioner is not None:
            raise ValueError("with_last_step needs preconditioner=None")
        check_state("x0", x0, self.target)
        chain = self._start(x0, make_inputs(self.target, args, kwargs), n_steps, chain_offset, step)
        assert isinstance(chain, LangevinChain)
        x = self._run(chain.part(0, len(chain) - 1), x0) if len(chain) > 1 else x0
        with self._running(x0.device), torch.enable_grad():
            x = last_step(chain, x)
        self._settle(chain, x0, x.detach())
        return x if torch.is_grad_enabled() else x.detach()

    def _chain(self, n_steps: int, **shared: Any) -> LangevinChain:
        step_sizes, noise_stds = _coefficients(self._options, n_steps)
        where = (n_steps, shared["chains"], shared["device"])
        kind: Callable[..., LangevinChain] = LangevinChain
        if isinstance(self.preconditioner, RMSprop):
            kind = functools.partial(PreconditionedChain, momentum=UNIT_MASS, rmsprop=self.preconditioner)
        elif self.preconditioner is not None:
            momentum = constant(self.preconditioner, shared["event"], shared["device"], shared["dtype"])
            kind = functools.partial(PreconditionedChain, momentum=momentum, rmsprop=None)
        return kind(
            step_sizes=schedule.of_chains("step_size", step_sizes, *where),
            noise_stds=schedule.of_chains("noise_std", noise_stds, *where),
            has_noise=self.noise_first is not False or isinstance(noise_stds, Tensor) or any(noise_stds),
            kernels_may_update=self._without_score_kernels(shared["device"]) is None,
            grad_clip=self.grad_clip,
            grad_clip_norm=self.grad_clip_norm,
            bounds=self.bounds,
            noise_first=self.noise_first,
            noise_last=self.noise_last,
            **shared,
        )

    def _without_score_kernels(self, device: torch.device) -> str | None:
        for name in ("step_size", "noise_std", "temperature"):
            if isinstance(self._options[name], Tensor) and self._options[name].dim():
                return f"{name} differs between chains"
        if self.grad_clip_norm is not None:
            return "they do not compute the norm of the score, which grad_clip_norm limits"
        if self.preconditioner is not None:
            return "they have no preconditioner"
        if self.noise_last:
            return "they apply the bounds after the noise, not before it (noise_last=True)"
        return None

    def _differentiable(self, chain: Chain, x0: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        if self.preconditioner is not None:
            raise ValueError("x0 must not require grad with a preconditioner, through which there is none: detach it")
        return DifferentiableChain.apply(x0, chain, run, self._running)

    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        options = super()._check_options(options)
        options["temperature"] = schedule.check("temperature", options["temperature"])
        schedule.resolve("temperature", options["temperature"], options["n_steps"])
        for name in ("grad_clip", "grad_clip_norm"):
            options[name] = check_grad_clip(options[name], name)
        noise_first = options["noise_first"]
        if noise_first not in (True, False, "clamp"):
            raise unknown("noise_first", noise_first, ("True", "False", "clamp"))
        if noise_first == "clamp" and options["bounds"] is None:
            raise ValueError("noise_first='clamp' needs bounds, got None")
        if options["noise_last"] not in (True, False):
            raise unknown("noise_last", options["noise_last"], ("True", "False"))
        if options["noise_last"] and (noise_first or options["bounds"] is None):
            given = f"noise_first={noise_first!r}" if noise_first else "bounds=None"
            raise ValueError(f"noise_last=True needs bounds, and noise_first=False, got {given}")
        options["preconditioner"] = check_preconditioner(options["preconditioner"])
        if options["preconditioner"] is not None:
            _check_without(options)
        check_pair(options)
        for name, default in (("step_size", _STEP_SIZE), ("noise_std", _NOISE_STD)):
            if options[name] is Paper.DEFAULT:
                options[name] = default
            options[name] = schedule.check(name, options[name])
        _coefficients(options, options["n_steps"])
        return options


def _check_without(options: Mapping[str, Any]) -> None:
    """Raises ValueError for options that do not go with a preconditioner."""
    for name in ("noise_first", "noise_last"):
        if options[name]:
            raise ValueError(f"{name} must be False with a preconditioner, got {options[name]!r}")
    for name in ("step_size", "noise_std", "temperature"):
        if isinstance(options[name], Tensor) and options[name].dim():
            raise ValueError(
                f"{name} must be the same for all chains with a preconditioner, got a tensor of shape "
                f"{tuple(options[name].shape)}"
            )


def check_pair(options: Mapping[str, Any]) -> None:
    """Checks that the given options determine the noise.

    Raises:
        ValueError: step_size without noise_std, or a temperature other than 1 without noise_std=None.
    """
    step_size, noise_std = (options.get(name, Paper.DEFAULT) for name in ("step_size", "noise_std"))
    temperature = options.get("temperature", 1.0)
    if step_size is not Paper.DEFAULT and noise_std is Paper.DEFAULT:
        raise ValueError(
            "noise_std must be given with step_size: noise_std=None for Langevin dynamics at a temperature, with noise "
            "sqrt(2·step_size·temperature), or a number for a short run whose noise is decoupled from the step size, "
            f"such as the paper's {_NOISE_STD}"
        )
    if noise_std is not None and not (isinstance(temperature, (int, float)) and temperature == 1):
        given = _NOISE_STD if noise_std is Paper.DEFAULT else noise_std
        raise ValueError(
            f"temperature must be 1 unless noise_std=None, where the noise is sqrt(2·step_size·temperature), got "
            f"temperature={temperature!r} and noise_std={given!r}"
        )


def _coefficients(options: Mapping[str, Any], n_steps: int) -> tuple[Values, Values]:
    """η_k and σ_k of each step."""
    step_sizes = schedule.resolve("step_size", options["step_size"], n_steps)
    if options["noise_std"] is None:
        temperatures = schedule.resolve("temperature", options["temperature"], n_steps)
        return step_sizes, schedule.langevin_noise(step_sizes, temperatures)
    return step_sizes, schedule.resolve("noise_std", options["noise_std"], n_steps)
