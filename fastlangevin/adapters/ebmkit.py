"""ebmkit's samplers, with their signatures, on fastlangevin's engines."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..extras import require
from ..samplers.annealed import AnnealedLangevin
from ..samplers.base import Sampler
from ..samplers.hmc import HMC as FastHMC
from ..samplers.langevin import Langevin
from ..samplers.mala import MALA as FastMALA
from ..samplers.noise_counter import NoiseCounter
from ..validation import check_int

if TYPE_CHECKING:
    from ebm import samplers
else:
    samplers = require("ebm.samplers", "ebmkit")

__all__ = ["HMC", "MALA", "AnnealedLangevinDynamics", "LangevinDynamics", "PreconditionedLangevin"]

Energy = Callable[..., Tensor]
Graph = bool | Literal["auto"]

# Steps of a call with an energy that was not that of the call before, such as a function made for it: below these it
# costs less to compute the energy by autograd than to recognise what it computes.
_WORTH_RECOGNISING = 20


class _OnEngines(samplers.Sampler):
    """What the samplers share: the energy of a call as the target, and seeds.

    Attributes:
        sampler: the sampler that ran the last call; None before the first one.
    """

    sampler: Sampler | None
    _energy: Energy | None

    def _set_up(self, seed: int | None, precision: str, engine: str, backend: str, graph: Graph) -> None:
        self.sampler, self._energy, self._seed = None, None, seed
        self._fixed = {"precision": precision, "engine": engine, "backend": backend, "graph": graph}

    @abc.abstractmethod
    def _made(self, **options: Any) -> Sampler:
        """A new sampler of fastlangevin."""

    @abc.abstractmethod
    def _options(self, x: Tensor, n_steps: int) -> dict[str, Any]:
        """Its options of a call, from the attributes, which may have changed since the call before."""

    def _chains(self, energy: Energy, n_steps: int, options: dict[str, Any]) -> Sampler:
        """The sampler of a call of n_steps steps, with its noise seeded."""
        is_new = energy is not self._energy
        fixed = dict(self._fixed)
        if is_new and n_steps < _WORTH_RECOGNISING and fixed["engine"] == "auto":
            fixed["engine"] = "autograd"
        if self.sampler is None:
            self.sampler = self._made(energy=energy, seed=self._seed or 0, **fixed, **options)
        else:
            target = {"energy": energy} if is_new else {}
            self.sampler = self.sampler.replace(**target, **fixed, **options)
        self._energy = energy
        if self._seed is None:
            self.sampler.load_state_dict({**self.sampler.state_dict(), "seed": NoiseCounter().seed, "step": 0})
        return self.sampler

    @property
    def _chain_offset(self) -> int | None:
        """0 where each of several ranks has a seed of its own, and the chains therefore other noise."""
        return 0 if self._seed is None else None

    @torch.no_grad()
    def sample(
        self, energy: Energy, x_init: Tensor, *, steps: int | None = None, return_trajectory: bool = False
    ) -> Tensor:
        """Runs the chains from x_init, (B, *event), which is left unchanged.

        Args:
            energy: U, a module or a function from (B, *event) to (B,).
            steps: number of transitions, of `AnnealedLangevinDynamics` at each level. None: that of the constructor.
            return_trajectory: whether to return all states, (transitions + 1, B, *event), of which x_init is the first,
                instead of the last ones.
        """
        n_steps, x = check_int("steps", self.steps if steps is None else steps, 0), x_init.detach()
        if not n_steps:
            return x.expand(1, *x.shape).clone() if return_trajectory else x.clone()
        chains = self._chains(energy, n_steps, self._options(x, n_steps))
        return self._trajectory(chains, x) if return_trajectory else self._last(chains, x, n_steps)

    def _last(self, chains: Sampler, x: Tensor, n_steps: int) -> Tensor:
        return chains(x, chain_offset=self._chain_offset)

    def _trajectory(self, chains: Sampler, x: Tensor) -> Tensor:
        return chains.trace(x, chain_offset=self._chain_offset).x


class _Tested(_OnEngines):
    """Samplers with a Metropolis test, whose `last_accept_rate` is that of the last transition."""

    def _last(self, chains: Sampler, x: Tensor, n_steps: int) -> Tensor:
        if n_steps > 1:
            x = chains(x, n_steps=n_steps - 1, chain_offset=self._chain_offset)
        trace = chains.trace(x, n_steps=1, chain_offset=self._chain_offset)
        self._last_accept = trace.statistics["acceptance"][-1].mean()
        return trace.x[-1].clone()

    def _trajectory(self, chains: Sampler, x: Tensor) -> Tensor:
        trace = chains.trace(x, chain_offset=self._chain_offset)
        self._last_accept = trace.statistics["acceptance"][-1].mean()
        return trace.x


class LangevinDynamics(_OnEngines, samplers.LangevinDynamics):
    """`ebm.LangevinDynamics`, of which it is a subclass, by `fl.Langevin`:

        x ← clamp(x - ε·clip(∇U(x)) + noise_scale·z)

    Constructor, `sample` and attributes are ebmkit's. What differs in this and the other samplers here: the random
    numbers are those of fastlangevin's stream (`fl.noise`), and chains that end in NaN or infinity raise
    `ChainDiverged`. `step`, a single transition, as `ebm.ParallelTempering` takes of its base, is ebmkit's own.

    Args:
        step_size: ε, not negative.
        steps: number of steps of a call.
        noise_scale: standard deviation of the noise. None: sqrt(2 ε).
        grad_clip: limit on the magnitude of every element of the gradient. None: no limit.
        clamp: (lo, hi), limits on the state after every step. None: no limits.
        seed: 64 bits, of the noise, which goes on from call to call. None: each call draws a seed from torch's default
            generator, so that `torch.manual_seed` repeats it.
        precision, engine, backend, graph: as for `fl.Langevin`.

    Attributes:
        sampler: the `fl.Langevin` that ran the last call, for its `plan` and, with a seed, its `state_dict`; None
            before the first call.

    Raises:
        ImportError: (by the import) ebmkit, the extra "ebmkit", is not installed.
        TypeError, ValueError: (by a call) an argument that is not as above; the message names it.
        ChainDiverged: (by a call) a state is not finite at the end of the chain.

    Examples:
        >>> from fastlangevin.adapters.ebmkit import LangevinDynamics
        >>> sampler = LangevinDynamics(step_size=0.01, steps=20, seed=1)
        >>> sampler.sample(lambda x: x.square().sum(1), torch.zeros(8, 2)).shape
        torch.Size([8, 2])
    """

    def __init__(
        self,
        step_size: float = 1e-2,
        steps: int = 100,
        noise_scale: float | None = None,
        grad_clip: float | None = None,
        clamp: tuple[float, float] | None = None,
        *,
        seed: int | None = None,
        precision: str = "fp32",
        engine: str = "auto",
        backend: str = "auto",
        graph: Graph = "auto",
    ) -> None:
        super().__init__(step_size, steps, noise_scale, grad_clip, clamp)
        self._set_up(seed, precision, engine, backend, graph)

    def _made(self, **options: Any) -> Langevin:
        return Langevin(**options)

    def _options(self, x: Tensor, n_steps: int) -> dict[str, Any]:
        return {
            "n_steps": n_steps,
            "step_size": self.step_size,
            "noise_std": self.noise_scale,
            "grad_clip": self.grad_clip,
            "bounds": self.clamp,
        }


class PreconditionedLangevin(_OnEngines, samplers.PreconditionedLangevin):
    """`ebm.PreconditionedLangevin`, of which it is a subclass, by `fl.Langevin(preconditioner=…)`:

        x ← x - ε·M ∇U(x) + sqrt(2 ε M)·z

    Args:
        precond: M, positive, of a shape that broadcasts to that of a chain's state.
        step_size: ε, not negative.
        steps: number of steps of a call.
        seed, precision, engine, backend, graph: as for `LangevinDynamics`, with the same attribute and errors.

    Examples:
        >>> from fastlangevin.adapters.ebmkit import PreconditionedLangevin
        >>> sampler = PreconditionedLangevin(torch.tensor([1.0, 100.0]), step_size=0.01, steps=20, seed=1)
        >>> sampler.sample(lambda x: x.square().sum(1), torch.zeros(8, 2)).shape
        torch.Size([8, 2])
    """

    def __init__(
        self,
        precond: Tensor,
        step_size: float = 1e-2,
        steps: int = 100,
        *,
        seed: int | None = None,
        precision: str = "fp32",
        engine: str = "auto",
        backend: str = "auto",
        graph: Graph = "auto",
    ) -> None:
        super().__init__(precond, step_size, steps)
        self._set_up(seed, precision, engine, backend, graph)

    def _made(self, **options: Any) -> Langevin:
        return Langevin(**options)

    def _options(self, x: Tensor, n_steps: int) -> dict[str, Any]:
        return {
            "n_steps": n_steps,
            "step_size": self.step_size,
            "noise_std": None,
            "preconditioner": self._precond.to(x.device).expand(x.shape[1:]),
        }


class MALA(_Tested, samplers.MALA):
    """`ebm.MALA`, of which it is a subclass, by `fl.MALA`: Langevin proposals and a Metropolis test. Energy and
    gradient are evaluated once a step, not twice.

    Args:
        step_size: ε, positive.
        steps: number of transitions of a call.
        seed, precision, engine, backend, graph: as for `LangevinDynamics`, with the same attribute and errors.

    Examples:
        >>> from fastlangevin.adapters.ebmkit import MALA
        >>> sampler = MALA(step_size=0.01, steps=20, seed=1)
        >>> x = sampler.sample(lambda x: x.square().sum(1), torch.zeros(8, 2))
        >>> 0 <= sampler.last_accept_rate <= 1
        True
    """

    def __init__(
        self,
        step_size: float = 1e-2,
        steps: int = 100,
        *,
        seed: int | None = None,
        precision: str = "fp32",
        engine: str = "auto",
        backend: str = "auto",
        graph: Graph = "auto",
    ) -> None:
        super().__init__(step_size, steps)
        self._set_up(seed, precision, engine, backend, graph)

    def _made(self, **options: Any) -> FastMALA:
        return FastMALA(**options)

    def _options(self, x: Tensor, n_steps: int) -> dict[str, Any]:
        return {"n_steps": n_steps, "step_size": self.step_size}


class HMC(_Tested, samplers.HMC):
    """`ebm.HMC`, of which it is a subclass, by `fl.HMC`: momenta from N(0, 1), leapfrog steps and a Metropolis test.

    Args:
        step_size: ε, positive.
        leapfrog_steps: of a transition.
        steps: number of transitions of a call.
        seed, precision, engine, backend, graph: as for `LangevinDynamics`, with the same attribute and errors.

    Examples:
        >>> from fastlangevin.adapters.ebmkit import HMC
        >>> sampler = HMC(step_size=0.1, leapfrog_steps=5, steps=20, seed=1)
        >>> sampler.sample(lambda x: x.square().sum(1), torch.zeros(8, 2), return_trajectory=True).shape
        torch.Size([21, 8, 2])
    """

    def __init__(
        self,
        step_size: float = 0.1,
        leapfrog_steps: int = 10,
        steps: int = 50,
        *,
        seed: int | None = None,
        precision: str = "fp32",
        engine: str = "auto",
        backend: str = "auto",
        graph: Graph = "auto",
    ) -> None:
        super().__init__(step_size, leapfrog_steps, steps)
        self._set_up(seed, precision, engine, backend, graph)

    def _made(self, **options: Any) -> FastHMC:
        return FastHMC(**options)

    def _options(self, x: Tensor, n_steps: int) -> dict[str, Any]:
        return {"n_steps": n_steps, "step_size": self.step_size, "n_leapfrog": self.leapfrog_steps}


class AnnealedLangevinDynamics(_OnEngines, samplers.AnnealedLangevinDynamics):
    """`ebm.AnnealedLangevinDynamics`, of which it is a subclass, by `fl.AnnealedLangevin`: of an energy U(x, σ), with
    σ (B,), at each level σ_i in turn, steps of

        x ← x - α_i/2·∇U(x, σ_i) + sqrt(α_i)·z,    α_i = step_size·σ_i² / σ_L²

    Args:
        sigmas: σ_1 > … > σ_L > 0.
        step_size: α_L, positive.
        steps_per_sigma: number of steps at each level.
        seed, precision, engine, backend, graph: as for `LangevinDynamics`, with the same attribute and errors.

    Examples:
        >>> from fastlangevin.adapters.ebmkit import AnnealedLangevinDynamics
        >>> sampler = AnnealedLangevinDynamics(torch.tensor([1.0, 0.5, 0.1]), steps_per_sigma=10, seed=1)
        >>> sampler.sample(lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2), torch.zeros(8, 2)).shape
        torch.Size([8, 2])
    """

    def __init__(
        self,
        sigmas: Tensor,
        step_size: float = 2e-5,
        steps_per_sigma: int = 100,
        *,
        seed: int | None = None,
        precision: str = "fp32",
        engine: str = "auto",
        backend: str = "auto",
        graph: Graph = "auto",
    ) -> None:
        super().__init__(sigmas, step_size, steps_per_sigma)
        self._set_up(seed, precision, engine, backend, graph)

    def _made(self, **options: Any) -> AnnealedLangevin:
        return AnnealedLangevin(**options)

    def _options(self, x: Tensor, n_steps: int) -> dict[str, Any]:
        return {"sigmas": self.sigmas.tolist(), "step_size": self.step_size / 2, "steps_per_level": n_steps}
