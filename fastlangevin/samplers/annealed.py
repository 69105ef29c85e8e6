"""`AnnealedLangevin`: Langevin dynamics through decreasing noise levels, for score-based models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..chains.annealed_chain import AnnealedChain
from ..chains.chain import Chain
from ..chains.initial import Init
from ..chains.vjp import DifferentiableChain
from ..network.inputs import Inputs, PerStep
from ..network.target import make_target
from ..validation import Bounds, check_int, check_positive, unknown
from .base import Sampler
from .noise_counter import NoiseCounter
from .options import Option

_CONDITIONS = ("sigma", "index")


class AnnealedLangevin(Sampler):
    """Annealed Langevin dynamics (Song and Ermon, NeurIPS 2019, arXiv:1907.05600, Algorithm 1): at each of the levels
    σ_1 > … > σ_L in turn, steps_per_level steps of

        x ← clamp(x + η_i·s(x, σ_i) + sqrt(2·η_i)·z),    η_i = step_size·σ_i² / σ_L²,    z ~ N(0, 1)

    where s(x, σ) is the score of the data's density smoothed by N(0, σ²). Their ε is 2·step_size, their α_i is 2·η_i.
    At σ_L it has the stationary distribution of `Langevin` with the same step_size; the levels before it carry the
    chains between modes that are far apart.

    ``consistent=True`` is the consistent annealed sampling of Jolicoeur-Martineau et al. (2020, arXiv:2009.05475,
    Algorithm 2), whose noise is such that a state with noise of standard deviation σ_i around a point of the data
    comes to have that of the next step, σ':

        x ← clamp(x + η_i·s(x, σ_i) + β·σ'·z),    β = sqrt(1 - (1 - step_size / σ_L²)²·σ_i² / σ'²)

    σ' is σ_i within a level, σ_{i+1} at its last step, and 0 at the last step of all. Algorithm 2 is that of
    steps_per_level = 1 with many levels in geometric progression.

    Args:
        energy: U(x, level), low where smoothed data is likely; `(x, level, *args, **kwargs)` with x (B, *event) to B
            numbers. A module or a function.
        log_density: f = -U up to a constant, likewise.
        score: s = ∇ log p, likewise, to x's shape. Exactly one of the three is given.
        sigmas: σ_1 > … > σ_L > 0, in the units of x: numbers, at least one.
        steps_per_level: T, at least 1.
        step_size: η_L, positive. ``consistent=True`` needs |1 - step_size / σ_L²| of at most the least σ_{i+1} / σ_i.
        consistent: whether the noise is that of consistent annealed sampling.
        denoise: whether one more step follows, x ← clamp(x + σ_L²·s(x, σ_L)), without noise: for the exact score the
            mean of the data given x.
        condition: what `level` is: "sigma" for σ_i, (B,) float32, float64 for float64 states; "index" for
            i = 0 … L - 1, (B,) int64.
        init: p0 of `sample`: "normal" for N(0, σ_1²), clamped to the bounds if there are any; "uniform" over the
            bounds, U(-1, 1) without bounds; or a callable `(shape, *, seed, step, chain_offset)`.
        bounds, precision, engine, backend, graph, unroll, seed, generator: as in `Langevin`. What an engine computes of
            the level alone it computes once a level. Captured graphs do not include the denoising step.

    A call is `sampler(x0, *args)`, without the level, which is passed to the energy after x. It takes n_steps = L·T
    steps, one more with denoise, so its own n_steps must be None. The noise steps run on from level to level.
    `sampler.energy` and `sampler.score` are of one level, which is given after x. Calls are differentiable as those of
    `Langevin`.

    Raises:
        TypeError, ValueError: an argument that is not as above; the message names it.
        BackendUnavailable: an explicit backend, engine or graph that is not available (raised by a call).

    Examples:
        >>> def score(x, sigma):  # of data at -3 and 3: (mean of the data given x - x) / σ²
        ...     variance = sigma[:, None] ** 2
        ...     return (3 * torch.tanh(3 * x / variance) - x) / variance
        >>> sigmas = [3.0, 1.0, 0.3, 0.1]
        >>> sampler = fl.AnnealedLangevin(score=score, sigmas=sigmas, steps_per_level=20, step_size=1e-3, seed=1)
        >>> x = sampler.sample((100, 1))
        >>> bool(((x.abs() - 3).abs() < 0.6).all()), sampler.n_steps
        (True, 80)
    """

    sigmas = Option["tuple[float, ...]"]()
    steps_per_level = Option[int]()
    step_size = Option[float]()
    consistent = Option[bool]()
    denoise = Option[bool]()
    condition = Option[str]()

    def __init__(
        self,
        energy: Callable[..., Tensor] | None = None,
        *,
        log_density: Callable[..., Tensor] | None = None,
        score: Callable[..., Tensor] | None = None,
        sigmas: Sequence[float] | Tensor,
        steps_per_level: int,
        step_size: float,
        consistent: bool = False,
        denoise: bool = False,
        condition: Literal["sigma", "index"] = "sigma",
        bounds: Bounds | None = None,
        init: Init = "normal",
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
                "sigmas": sigmas,
                "steps_per_level": steps_per_level,
                "step_size": step_size,
                "consistent": consistent,
                "denoise": denoise,
                "condition": condition,
                "bounds": bounds,
                "init": init,
                "precision": precision,
                "engine": engine,
                "backend": backend,
                "graph": graph,
                "unroll": unroll,
            },
        )

    @property
    def n_steps(self) -> int:  # type: ignore[override]
        """The number of steps of a call: those of all levels, and the denoising one."""
        return _n_steps(self._options)

    def _start(
        self,
        x: Tensor,
        inputs: Inputs,
        n_steps: int | None,
        chain_offset: int | None,
        step: int | None,
        mask: Tensor | None = None,
    ) -> Chain:
        if n_steps is not None:
            raise ValueError(
                f"n_steps must be None: it is {self.n_steps}, of {len(self.sigmas)} sigmas and steps_per_level="
                f"{self.steps_per_level} (which replace changes), got {n_steps!r}"
            )
        inputs = Inputs((PerStep(self._levels(x)), *inputs.args), inputs.kwargs)
        return super()._start(x, inputs, None, chain_offset, step, mask)

    def _levels(self, x: Tensor) -> list[Tensor]:
        """The level of each step, for states like x."""
        with torch.inference_mode(False):
            if self.condition == "index":
                rows = [torch.full((len(x),), i, device=x.device) for i in range(len(self.sigmas))]
            else:
                dtype = torch.promote_types(x.dtype, torch.float32)
                rows = [torch.full((len(x),), sigma, dtype=dtype, device=x.device) for sigma in self.sigmas]
        return [rows[i] for i in _indices(self._options)]

    def _chain(self, n_steps: int, **shared: Any) -> AnnealedChain:
        step_sizes, noise_stds = _coefficients(self._options)
        return AnnealedChain(
            step_sizes=step_sizes,
            noise_stds=noise_stds,
            levels=_indices(self._options),
            denoises=self.denoise,
            has_noise=True,
            kernels_may_update=True,
            grad_clip=None,
            grad_clip_norm=None,
            bounds=self.bounds,
            noise_first=False,
            noise_last=False,
            **shared,
        )

    def _steps(self, chain: Chain, x0: Tensor) -> Tensor:
        assert isinstance(chain, AnnealedChain)
        if not chain.denoises:
            return super()._steps(chain, x0)
        last = len(chain) - 1
        x = super()._steps(chain.part(0, last), x0) if last else x0.clone()
        with self._running(x.device):
            return chain.part(last, last + 1).run_(x)

    def _without_score_kernels(self, device: torch.device) -> str | None:
        return None

    def _differentiable(self, chain: Chain, x0: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        return DifferentiableChain.apply(x0, chain, run, self._running)

    @property
    def _initial_std(self) -> float:
        return self.sigmas[0]

    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        sigmas = _check_sigmas(options["sigmas"])
        options["sigmas"] = sigmas
        options["steps_per_level"] = check_int("steps_per_level", options["steps_per_level"])
        options["step_size"] = check_positive("step_size", options["step_size"])
        for name in ("consistent", "denoise"):
            if options[name] not in (True, False):
                raise unknown(name, options[name], ("True", "False"))
        if options["condition"] not in _CONDITIONS:
            raise unknown("condition", options["condition"], _CONDITIONS)
        if options["consistent"]:
            square, ratio = sigmas[-1] ** 2, min((b / a for a, b in itertools.pairwise(sigmas)), default=1.0)
            low, high = square * (1 - ratio), square * (1 + ratio)
            if not low <= options["step_size"] <= high:
                raise ValueError(
                    f"step_size must lie in {low:.6g} … {high:.6g} with consistent=True, σ_L²·(1 ∓ the least σ_(i+1) / "
                    f"σ_i), or the noise of a step is more than its level has, got {options['step_size']:.6g}"
                )
        checked = super()._check_options({**options, "n_steps": _n_steps(options)})
        del checked["n_steps"]
        return checked


def _check_sigmas(sigmas: object) -> tuple[float, ...]:
    """Returns the levels as floats. Raises ValueError for none, or such as are not positive, finite and decreasing."""
    try:
        levels = tuple(float(sigma) for sigma in sigmas)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        levels = ()
    if not levels or not all(0 < sigma < math.inf for sigma in levels):
        raise ValueError(f"sigmas must be a sequence of positive finite numbers, got {sigmas!r}")
    for i, (sigma, following) in enumerate(itertools.pairwise(levels)):
        if not following < sigma:
            raise ValueError(
                f"sigmas must decrease from level to level, got {sigma} and then {following} at {i} and {i + 1}"
            )
    return levels


def _n_steps(options: Mapping[str, Any]) -> int:
    return len(options["sigmas"]) * int(options["steps_per_level"]) + bool(options["denoise"])


def _indices(options: Mapping[str, Any]) -> list[int]:
    """The index of each step's level."""
    n_levels = len(options["sigmas"])
    return [min(k // options["steps_per_level"], n_levels - 1) for k in range(_n_steps(options))]


def _coefficients(options: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """The step sizes and the standard deviations of the noise of each step."""
    least = options["sigmas"][-1]
    sigmas = [sigma for sigma in options["sigmas"] for _ in range(options["steps_per_level"])]
    step_sizes = [options["step_size"] * (sigma / least) ** 2 for sigma in sigmas]
    if options["consistent"]:
        left = 1.0 - options["step_size"] / least**2
        noise_stds = [_missing(left * sigma, following) for sigma, following in itertools.pairwise([*sigmas, 0.0])]
    else:
        noise_stds = [math.sqrt(2.0 * eta) for eta in step_sizes]
    if options["denoise"]:
        step_sizes.append(least**2)
        noise_stds.append(0.0)
    return step_sizes, noise_stds


def _missing(present: float, wanted: float) -> float:
    """The standard deviation of the noise that turns noise of one standard deviation into that of another."""
    return math.sqrt(max(0.0, wanted**2 - present**2))
