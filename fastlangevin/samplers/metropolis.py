"""`Metropolis`: the base class of samplers with a Metropolis test, and the search for their step size."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from ..chains import schedule
from ..chains.initial import check_state
from ..chains.metropolis_chain import MetropolisChain
from ..chains.schedule import Schedule
from ..network.inputs import make_inputs
from ..validation import check_int, check_positive
from .base import Sampler
from .dual_averaging import DualAveraging
from .graph_break import outside_graphs
from .options import Option

M = TypeVar("M", bound="Metropolis")


class Metropolis(Sampler):
    """Samplers of exp(-U / temperature) whose proposals a Metropolis test accepts or rejects.

    A subclass defines `_chain`, which returns a `MetropolisChain`, and the acceptance at which it is most efficient.
    """

    step_size = Option[Schedule]()
    temperature = Option[float]()

    target_acceptance: float
    _whole_chains_on = ("cpu",)

    @abc.abstractmethod
    def _chain(self, n_steps: int, **shared: Any) -> MetropolisChain: ...

    def _step_sizes(self, n_steps: int) -> list[float]:
        """The step size of each step. Raises TypeError for a target whose values are not known."""
        if self.target.kind == "score":
            raise TypeError(
                f"{type(self).__name__} compares energies: it needs an energy or a log_density, not a score"
            )
        return schedule.positive_step_sizes(self.step_size, n_steps)

    @outside_graphs
    def warm_up(
        self: M,
        x0: Tensor,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        n_steps: int = 200,
        target_acceptance: float | None = None,
        chain_offset: int | None = None,
        step: int | None = None,
    ) -> tuple[M, Tensor]:
        """Finds the step size at which the mean acceptance probability is `target_acceptance`, by dual averaging
        (Hoffman and Gelman, JMLR 15, 2014, Section 3.2, with its constants γ = 0.05, t₀ = 10, κ = 0.75), in a run from
        x0 whose step size changes at each step. Such a run has no stationary distribution: what it visits is no sample.
        The step size that it returns is fixed.

        The step size begins with that of the sampler, at its first step. On torch.distributed each rank finds that of
        its own chains. Other arguments are those of a call.

        Args:
            n_steps: of the run, which the noise counter advances by.
            target_acceptance: in (0, 1). None: where the sampler is most efficient in many dimensions.

        Returns:
            The sampler with the step size that was found, which shares the noise counter (`replace`), and the last
            states of the run, (B, *event), from which to go on.

        Examples:
            >>> sampler = fl.MALA(fl.energies.DoubleWell(), step_size=1.0, seed=1)
            >>> sampler, x = sampler.warm_up(torch.zeros(500, 2), n_steps=100)
            >>> trace = sampler.trace(x, n_steps=100, every=100)
            >>> bool((trace.statistics["acceptance"][-1].mean() - 0.574).abs() < 0.1)
            True
        """
        target = self.target_acceptance if target_acceptance is None else target_acceptance
        if not isinstance(target, (int, float)) or not 0 < target < 1:
            raise ValueError(f"target_acceptance must be a number in (0, 1), got {target_acceptance!r}")
        check_state("x0", x0, self.target)
        if not len(x0):
            raise ValueError("x0 must have at least one chain, got none")
        first = schedule.resolve("step_size", self.step_size, self.n_steps)[0]
        search = DualAveraging(float(first), float(target))
        inputs = make_inputs(self.target, args, kwargs)
        sampler = self.replace(step_size=float(first))
        chain = sampler._start(x0, inputs, check_int("n_steps", n_steps), chain_offset, step)
        assert isinstance(chain, MetropolisChain)
        x = x0.clone()
        with self._running(x.device):
            score = chain.bind(x)
            chain.begin_(x, score)
            for k in range(n_steps):
                part = chain.part(k, k + 1).with_step_sizes([search.value])
                part.advance_(x, 0, 1, score.at(k))
                search.update(part.acceptance())
        self._settle(chain, x0, x)
        return self.replace(step_size=search.average), x

    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        options = super()._check_options(options)
        options["temperature"] = check_positive("temperature", options["temperature"])
        schedule.positive_step_sizes(options["step_size"], options["n_steps"])
        return options
