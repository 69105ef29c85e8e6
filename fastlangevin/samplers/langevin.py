"""`Langevin`: the sampler that the rest of an EBM code calls."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .. import kernels
from ..chains import initial
from ..chains.chain import Chain
from ..chains.cuda_capture import being_captured
from ..chains.cuda_graph import GraphCache
from ..chains.divergence import PendingCheck, report
from ..chains.last_step import last_step, without_last_step
from ..chains.schedule import Schedule, langevin_noise, resolve
from ..chains.vjp import DifferentiableChain
from ..errors import BackendUnavailable
from ..noise import STREAM_VERSION, check_seed
from ..score import check_engine, make_score
from ..score import precision as precisions
from ..validation import STATE_DTYPES, check_bounds, check_grad_clip, check_int, check_shape, unknown
from .checks import (
    COUNTER_END,
    check_counter,
    check_noise_position,
    check_state,
    check_temperature,
    make_seed,
    make_target,
)


class Trace(NamedTuple):
    """States recorded along a chain; T records of B chains.

    Attributes:
        x: (T, B, *event) states.
        energy: (T, B) energies of the states, or None where only a score was given.
        score_norm: (T, B) Euclidean norms of the unclipped scores at the states.
        steps: (T,) how many steps had been taken: 0, every, 2·every, …, and n_steps.
    """

    x: Tensor
    energy: Tensor | None
    score_norm: Tensor
    steps: Tensor


@dataclass(frozen=True)
class Plan:
    """How a sampler runs on a device: what its "auto" options came to, and why."""

    device: str
    engine: str
    backend: str
    graph: bool
    precision: str
    reasons: tuple[str, ...]


class Langevin:
    """Unadjusted Langevin dynamics: n_steps of

        s = clip(∇ log p(x), ±grad_clip)
        x ← clamp(x + step_size·s + noise_std·z),    z ~ N(0, 1)

    for every chain of a batch, with counter-based noise: one seed gives the same z on every backend, batch split and
    number of threads. As short-run MCMC (Nijkamp et al., NeurIPS 2019, arXiv:1904.09770, Eq. 4): step_size 1, noise_std
    0.01, n_steps 100, from uniform noise, which are the defaults. With noise_std=None it is the sampler of Welling and
    Teh (ICML 2011) at a temperature: noise_std = sqrt(2·step_size·temperature), stationary at exp(-U / T) as the step
    goes to 0. n_steps score evaluations a call.

    The caller's x0, gradients, flags, modes and (given a seed or generator) global random state are left as they were.
    Only what the network itself does at each evaluation happens: in train mode, dropout draws from torch's random state
    and batch norm moves its averages.

    Where x0 requires grad, so does the result of a call: its gradient is vᵀ ∂x_K/∂x0 with the weights as constants
    (`vjp.chain_vjp`), exact, and for piecewise linear networks without bounds free, for there it is v. Nothing flows to
    the weights, and nothing through `sample` and `trace`.

    Args:
        energy: U, low where data is likely; `(x, *args)` with x (B, *event) to (B,) or (B, 1). A module or a function.
        log_density: f = -U up to a constant, likewise (the paper's network).
        score: ∇ log p, `(x, *args)` to x's shape. Exactly one of the three is given.
        n_steps: K, at least 1.
        step_size: η: a number, a sequence of n_steps numbers, or a callable of k = 0 … n_steps - 1.
        noise_std: σ, likewise; None for sqrt(2·step_size·temperature).
        temperature: T, read only where noise_std is None.
        grad_clip: limit on every element of the score.
        bounds: (lo, hi), limits on the state after every step.
        noise_first: True for x̃ = x + σz, x ← clamp(x̃ + η·clip(s(x̃))) (Du and Mordatch, NeurIPS 2019); "clamp" for the
            same with x̃ clamped too.
        init: p0 of `sample`: "uniform" over the bounds (else U(-1, 1)), "normal", or a callable
            `(shape, *, seed, step, chain_offset)`.
        precision: what the network runs in: "fp32" (strict), "tf32", "bf16" or "fp16". The state keeps its own type.
        engine: how the score is computed: "autograd", for any energy; "convnet", in closed form, for known layers in a
            row (`score.tracing`), whose weights it reads once a call (spectral norm iterates once a call); "mlp" and
            "analytic", by kernels that run a whole chain, for fully connected networks, `energies.GaussianMixture` and
            `DoubleWell`; "compiled", by torch.compile, which at the first call for a shape compiles for seconds to
            minutes; or "auto": at each call the fastest of the first four that recognises the energy. `plan` says
            which, and why.
        backend: of the update: "reference", "cpu", "triton", "cuda", or "auto" for the fastest on the state's device.
        graph: capture the steps as CUDA graphs and replay them. "auto" does on CUDA, and runs eagerly, after one
            warning that says why, where the energy cannot be captured; True raises there; False never captures.
        unroll: steps in one captured graph, a divisor of n_steps; None measures what is fastest at the first call.
        seed: 64 bits. None: drawn once, here, from `generator` or else from torch's default generator.
        generator: where a seed is drawn from; excludes `seed`.

    The step counter starts at 0. A call, `sample` and `trace` each draw their noise from the counter on and advance it
    by the number of steps; `step=` overrides the counter for one call and leaves it alone. A copy (deepcopy, pickle, a
    forked worker) has the counter's value, not the counter, and so the same noise to come. One sampler may be used
    from several threads.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        BackendUnavailable: an explicit backend, engine or graph that cannot be had (at a call).
    """

    def __init__(
        self,
        energy: Callable[..., Tensor] | None = None,
        *,
        log_density: Callable[..., Tensor] | None = None,
        score: Callable[..., Tensor] | None = None,
        n_steps: int = 100,
        step_size: Schedule = 1.0,
        noise_std: Schedule | None = 0.01,
        temperature: float = 1.0,
        grad_clip: float | None = None,
        bounds: tuple[float, float] | None = None,
        noise_first: bool | Literal["clamp"] = False,
        init: initial.Init = "uniform",
        precision: str = "fp32",
        engine: str = "auto",
        backend: str = "auto",
        graph: bool | Literal["auto"] = "auto",
        unroll: int | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.target = make_target(energy=energy, log_density=log_density, score=score)
        self.n_steps = check_int("n_steps", n_steps)
        self.step_size = step_size
        self.noise_std = noise_std
        self.temperature = check_temperature(temperature)
        self.grad_clip = check_grad_clip(grad_clip)
        self.bounds = check_bounds(bounds)
        if noise_first not in (True, False, "clamp"):
            raise unknown("noise_first", noise_first, ("True", "False", "clamp"))
        if noise_first == "clamp" and bounds is None:
            raise ValueError("noise_first='clamp' needs bounds, got None")
        self.noise_first = noise_first
        self.init = initial.check(init)
        self.precision = precisions.check(precision)
        self.engine = check_engine(engine)
        if backend != "auto" and backend not in kernels.BACKENDS:
            raise unknown("backend", backend, ("auto", *kernels.BACKENDS))
        self.backend = backend
        if graph not in (True, False, "auto"):
            raise unknown("graph", graph, ("True", "False", "auto"))
        self.graph = graph
        self.unroll = None if unroll is None else check_int("unroll", unroll)
        self._seed = make_seed(seed, generator)
        self._step = 0
        self._lock = threading.Lock()
        self._pending: PendingCheck | None = None
        self._graphs = GraphCache(graph, unroll)
        self._score = make_score(self.target, self.engine, precision)
        self._coefficients(self.n_steps)

    def __call__(
        self, x0: Tensor, *args: Any, n_steps: int | None = None, chain_offset: int = 0, step: int | None = None
    ) -> Tensor:
        """Runs the chains from x0 and returns their last states, a new tensor of x0's shape, dtype and layout.

        Args:
            x0: (B, *event), floating point and finite; left as it is.
            args: further inputs of the energy (class labels).
            n_steps: instead of the sampler's own.
            chain_offset: index of x0's first chain in the whole batch, for a shard or a micro-batch.
            step: instead of the counter, which then stays as it is.

        Raises:
            ChainDiverged: a state is not finite at the end of the chain (on CUDA: raised by the next call or `check`).
        """
        check_state("x0", x0, self.target)
        chain = self._chain(x0, args, n_steps, chain_offset, step)
        if x0.requires_grad and torch.is_grad_enabled():
            return DifferentiableChain.apply(x0, chain, functools.partial(self._run, chain), self._running)
        return self._run(chain, x0)

    def with_last_step(
        self, x0: Tensor, *args: Any, n_steps: int | None = None, chain_offset: int = 0, step: int | None = None
    ) -> Tensor:
        """The last states of a call, to rounding, with a graph through the last step to the energy's weights θ:

            x_K = clamp(x̃ + step_size·clip(s_θ(x̃)) + noise_std·z),    x̃ a constant

        where x̃ is the state that the last score is taken at: x_{K-1}, with its noise in it where noise_first. Nothing
        flows to x0. Contrastive divergence's neglected term, E_q[U(x)] for the chain's distribution q_θ and U's weights
        held constant, gets its gradient from it (Du, Li, Tenenbaum and Mordatch, ICML 2021, arXiv:2012.01316). A
        sampler made from a score differentiates through that.

        Arguments, counter and errors are those of a call. The first n_steps - 1 steps run as there (so it is their
        number that an `unroll` has to divide), the last by autograd, in the sampler's precision. Under torch.no_grad
        there is no graph.
        """
        check_state("x0", x0, self.target)
        chain = self._chain(x0, args, n_steps, chain_offset, step)
        x = self._run(without_last_step(chain), x0) if len(chain) > 1 else x0
        with self._running(x0.device), torch.enable_grad():
            x = last_step(chain, x)
        self._settle(chain, x0, x.detach())
        return x if torch.is_grad_enabled() else x.detach()

    def sample(
        self,
        shape: Sequence[int],
        *args: Any,
        n_steps: int | None = None,
        chain_offset: int = 0,
        step: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """A short run from fresh initial states: (B, *event) samples. The arguments are those of a call.

        Args:
            shape: (B, *event).
            device: of the chains; None: the network's, else the first tensor's among args, else the CPU.
            dtype: of the chains' state.
        """
        empty = self._empty(shape, args, device, dtype)
        chain = self._chain(empty, args, n_steps, chain_offset, step)
        x0 = self._initial(empty, int(chain.steps[0]), chain_offset)
        return self._run(chain, x0)

    def initial(
        self,
        shape: Sequence[int],
        *,
        chain_offset: int = 0,
        step: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """(B, *event) initial states z ~ p0: those from which `sample` with the same arguments runs.

        The counter stays as it is: `sampler(sampler.initial(shape))` is `sampler.sample(shape)`.
        """
        step = self._step if step is None else check_counter(step)
        return self._initial(self._empty(shape, (), device, dtype), step, check_int("chain_offset", chain_offset, 0))

    def trace(
        self,
        x0: Tensor,
        *args: Any,
        every: int = 1,
        n_steps: int | None = None,
        chain_offset: int = 0,
        step: int | None = None,
    ) -> Trace:
        """Runs the chains as a call does (the same states, the counter advances) and records them along the way.

        Args:
            every: record after every so many steps; the first and the last state are always recorded.
        """
        check_int("every", every)
        check_state("x0", x0, self.target)
        chain = self._chain(x0, args, n_steps, chain_offset, step)
        states, energies, norms, steps = [], [], [], []
        with self._running(x0.device):
            x = x0.clone()
            score = chain.bind(x)
            for k in [*range(0, len(chain), every), len(chain)]:
                energy, known = score.energy_and_score(x)
                states.append(x.clone())
                energies.append(energy)
                flat = known.reshape(len(x), math.prod(x.shape[1:]))
                norms.append(torch.linalg.vector_norm(flat.float(), dim=1))
                steps.append(k)
                if k < len(chain):
                    chain.advance_(x, k, min(k + every, len(chain)), score, known)
        self._settle(chain, x0, x)
        return Trace(
            torch.stack(states),
            None if self.target.kind == "score" else torch.stack([e for e in energies if e is not None]),
            torch.stack(norms),
            torch.tensor(steps),
        )

    def energy(self, x: Tensor, *args: Any) -> Tensor:
        """(B,) energies at (B, *event) states, in the sampler's precision."""
        if self.target.kind == "score":
            raise ValueError("energy is not known: the sampler was given a score")
        check_state("x", x, self.target)
        with self._running(x.device):
            energy = self._score.bind(x, args).energy(x)
        assert energy is not None
        return energy

    def score(self, x: Tensor, *args: Any) -> Tensor:
        """∇ log p at (B, *event) states, unclipped, in the sampler's precision."""
        check_state("x", x, self.target)
        with self._running(x.device):
            return self._score.bind(x, args)(x)

    def check(self) -> None:
        """Raises `ChainDiverged` if the last call's chains were not finite (on a CPU that call itself has raised)."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.raise_if_diverged()

    @property
    def seed(self) -> int:
        return self._seed

    @property
    def step(self) -> int:
        """The counter: the noise step that the next call begins with."""
        return self._step

    @property
    def plan(self) -> Plan:
        """How the sampler runs on the network's device (the CPU, where that is not known)."""
        return self.plan_for(self._device(()))

    def plan_for(self, device: torch.device | str) -> Plan:
        """How the sampler runs on `device`. May compile or load a kernel library."""
        device = torch.device(device)
        backend = self._backend(device)
        precisions.check(self.precision, device)
        engine, skipped = self._score.explain(device)
        kernels_of_the_engine = "cpu" if device.type == "cpu" else "triton"
        if engine in ("mlp", "analytic") and self.backend not in ("auto", kernels_of_the_engine):
            skipped.append(f"steps are taken one by one: backend={self.backend!r} was asked for")
        for other in kernels.BACKENDS.values():
            if other is backend:
                break
            skipped.append(f"backend {other.name!r} passed over: {other.refuses(device) or 'not asked for'}")
        no_graph = self._graphs.refuses(device)
        if no_graph is not None:
            skipped.append(f"no graph: {no_graph}")
        return Plan(device.type, engine, backend.name, no_graph is None, self.precision, tuple(skipped))

    def state_dict(self) -> dict[str, int]:
        """Where the noise stands: seed, step and stream version, as ints."""
        return {"seed": self._seed, "step": self._step, "stream_version": STREAM_VERSION}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from `state_dict()`: the same calls then draw the same noise."""
        seed, step = check_noise_position(state)
        with self._lock:
            self._seed, self._step = seed, step

    def __repr__(self) -> str:
        function = self.target.module or self.target.function
        name = type(function).__name__ if self.target.module is not None else getattr(function, "__name__", "…")
        options = [f"{self.target.kind}={name}", f"n_steps={self.n_steps}"]
        for key in ("step_size", "noise_std"):
            value = getattr(self, key)
            options.append(f"{key}={value if isinstance(value, (int, float, type(None))) else 'schedule'}")
        for key, default in (("grad_clip", None), ("bounds", None), ("noise_first", False), ("precision", "fp32")):
            if getattr(self, key) != default:
                options.append(f"{key}={getattr(self, key)!r}")
        options += [
            f"engine={self._score.explain(self._device(()))[0]!r}",
            f"backend={self.backend!r}",
            f"seed={self._seed}",
            f"step={self._step}",
        ]
        return f"Langevin({', '.join(options)})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_pending": None, "_graphs": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        graphs = GraphCache(state["graph"], state["unroll"])  # captured graphs stay with the original
        self.__dict__.update(state, _lock=threading.Lock(), _graphs=graphs)

    def _backend(self, device: torch.device) -> kernels.Backend:
        """The backend on `device`; raises for an explicit backend or graph that cannot be had there."""
        backend = kernels.select(self.backend, device)
        no_graph = self._graphs.refuses(device)
        if self.graph is True and no_graph is not None:
            raise BackendUnavailable(f"graph=True cannot be met: {no_graph}")
        return backend

    def _coefficients(self, n_steps: int) -> tuple[list[float], list[float]]:
        step_sizes = resolve("step_size", self.step_size, n_steps)
        if self.noise_std is None:
            return step_sizes, langevin_noise(step_sizes, self.temperature)
        return step_sizes, resolve("noise_std", self.noise_std, n_steps)

    def _chain(
        self, x: Tensor, args: tuple[Any, ...], n_steps: int | None, chain_offset: int, step: int | None
    ) -> Chain:
        """The steps of one call; advances the counter, once everything else is seen to be right."""
        if not being_captured():
            self.check()
        precisions.check(self.precision, x.device)
        offset = check_int("chain_offset", chain_offset, 0) * math.prod(x.shape[1:])
        if offset + x.numel() > 2**63:
            raise ValueError(f"chain_offset must leave every element an index below 2^63, got {chain_offset}")
        with torch.inference_mode(False):  # autograd saves no inference tensors
            args = tuple(a.clone() if isinstance(a, Tensor) and a.is_inference() else a for a in args)
        step_sizes, noise_stds = self._coefficients(self.n_steps if n_steps is None else check_int("n_steps", n_steps))
        backend = self._backend(x.device)
        first_step = self._reserve(len(step_sizes), step)
        return Chain(
            score=self._score,
            args=args,
            backend=backend,
            step_sizes=step_sizes,
            noise_stds=noise_stds,
            seed=int(check_seed(self._seed)),
            steps=range(first_step, first_step + len(step_sizes)),
            has_noise=self.noise_first is not False or any(noise_stds),
            offset=offset,
            grad_clip=self.grad_clip,
            bounds=self.bounds,
            noise_first=self.noise_first,
            update=self.backend,
        )

    def _reserve(self, n_steps: int, step: int | None) -> int:
        with self._lock:
            first = self._step if step is None else check_counter(step)
            if first + n_steps > COUNTER_END:
                raise OverflowError(
                    f"the step counter would pass 2^32 (it stands at {first}, and {n_steps} steps are asked for): "
                    "make a sampler with another seed"
                )
            if step is None:
                self._step += n_steps
            return first

    def _empty(
        self, shape: Sequence[int], args: tuple[Any, ...], device: torch.device | str | None, dtype: torch.dtype
    ) -> Tensor:
        shape = check_shape(shape)
        if not shape:
            raise ValueError("shape must be (B, *event), got ()")
        if dtype not in STATE_DTYPES:
            raise ValueError(f"dtype must be float32, float64, bfloat16 or float16, got {dtype}")
        return torch.empty(shape, dtype=dtype, device=self._device(args) if device is None else device)

    def _initial(self, like: Tensor, step: int, chain_offset: int) -> Tensor:
        x0 = initial.draw(
            self.init,
            like.shape,
            bounds=self.bounds,
            seed=self._seed,
            step=step,
            chain_offset=chain_offset,
            offset=chain_offset * math.prod(like.shape[1:]),
            device=like.device,
            dtype=like.dtype,
            backend=self._backend(like.device).name,
        )
        if callable(self.init):
            check_state("init's state", x0, self.target)
        return x0

    def _run(self, chain: Chain, x0: Tensor) -> Tensor:
        with self._running(x0.device):
            x = self._graphs.run(chain, x0) if self._graphs.refuses(x0.device) is None else None
            if x is None:
                x = chain.run_(x0.clone())
        self._settle(chain, x0, x)
        return x

    @contextlib.contextmanager
    def _running(self, device: torch.device) -> Iterator[None]:
        with torch.inference_mode(False), torch.no_grad(), precisions.running(self.precision, device):
            yield

    def _settle(self, chain: Chain, x0: Tensor, x: Tensor) -> None:
        """Raises for chains that are not finite: at once on a CPU, by the next call or `check` on CUDA."""
        if being_captured():
            return  # the caller's own graph: nothing is known until it is replayed
        if x.is_cuda:
            self._pending = PendingCheck(x, int(chain.steps[0]))
            return
        if not torch.isfinite(x).all():
            with self._running(x0.device):
                raise report(x, int(chain.steps[0]), chain.first_divergence(x0))

    def _device(self, args: Sequence[object]) -> torch.device:
        device = self.target.device()
        if device is not None:
            return device
        return next((a.device for a in args if isinstance(a, Tensor)), torch.device("cpu"))


def check_pair(options: Mapping[str, Any]) -> None:
    """Checks that options, as a user gave them, say which noise a step size or a temperature goes with.

    Raises:
        ValueError: step_size without noise_std; or a temperature other than 1 unless noise_std is None.
    """
    if "step_size" in options and "noise_std" not in options:
        raise ValueError(
            f"step_size={options['step_size']!r} needs noise_std: None for sqrt(2·step_size·temperature), or a "
            "number for a decoupled short run"
        )
    temperature, noise_std = options.get("temperature", 1.0), options.get("noise_std", 0.01)
    if temperature != 1 and noise_std is not None:
        raise ValueError(
            f"temperature={temperature!r} is read only with noise_std=None, for sqrt(2·step_size·temperature), got "
            f"noise_std={noise_std!r}"
        )
