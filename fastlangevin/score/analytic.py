"""The engine of closed-form energies whose chains run in one kernel: mixtures and double wells."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..energies import DoubleWell, GaussianMixture
from ..errors import BackendUnavailable
from ..kernels import native, triton
from ..kernels.arguments import ChainArgs, MetropolisMemory, TransitionArgs, TransitionKind
from ..kernels.cpu import analytic_chain
from ..network.inputs import Inputs
from ..network.inspection import has_hooks
from ..network.target import Target
from . import cpu_precision
from .autograd import AutogradScore
from .base import BoundScore, Explanation, ScoreEngine

Energy = GaussianMixture | DoubleWell


class AnalyticScore(AutogradScore):
    """Whole chains by the kernels of a subclass; single scores by autograd."""

    name = "analytic"

    @staticmethod
    @abstractmethod
    def unsupported(energy: Energy, x: Tensor) -> str | None:
        """Why the kernels do not support an energy at states like x, or None if they do. May load a library."""

    def run_chain_(self, x: Tensor, args: ChainArgs) -> bool:
        if not self._fits(x) or not x.is_contiguous():
            return False  # the chain runs step by step, and the energy raises an error for an invalid x or argument
        energy = self._energy()
        if x.is_cuda and not isinstance(args.step_sizes[0], Tensor) and torch.cuda.is_current_stream_capturing():
            return False  # the caller's graph cannot copy the numbers from the host
        self._run_chain_(energy, x, args)
        return True

    def _energy(self) -> Energy:
        energy = self.target.function
        assert isinstance(energy, (GaussianMixture, DoubleWell))
        return energy

    def _fits(self, x: Tensor) -> bool:
        dimension = self._energy().mean.numel()
        return not self.inputs and x.dim() == 2 and x.shape[1] == dimension and x.dtype == torch.float32

    @abstractmethod
    def _run_chain_(self, energy: Energy, x: Tensor, args: ChainArgs) -> None: ...


class NativeAnalyticScore(AnalyticScore):
    """In C++ on a CPU."""

    updates_with = "cpu"

    @staticmethod
    def unsupported(energy: Energy, x: Tensor) -> str | None:
        if x.device.type != "cpu":
            return f"the native ones run on the CPU, not on {x.device.type}"
        return native.load_cpu()

    def _run_chain_(self, energy: Energy, x: Tensor, args: ChainArgs) -> None:
        if isinstance(energy, GaussianMixture):
            analytic_chain.mixture_(*_parameters(energy), x, args)
        else:
            analytic_chain.double_well_(energy.barrier, energy.width, x, args)

    def runs_transitions(self, x: Tensor, kind: TransitionKind) -> bool:
        return self._fits(x) and x.shape[1] <= analytic_chain.MOST_DIMENSIONS

    def run_transitions_(self, x: Tensor, memory: MetropolisMemory | Tensor, args: TransitionArgs) -> None:
        energy = self._energy()
        if isinstance(energy, GaussianMixture):
            analytic_chain.mixture_transitions_(*_parameters(energy), x, memory, args)
        else:
            analytic_chain.double_well_transitions_(energy.barrier, energy.width, x, memory, args)


class TritonAnalyticScore(AnalyticScore):
    """In Triton on a GPU."""

    updates_with = "triton"

    @staticmethod
    def unsupported(energy: Energy, x: Tensor) -> str | None:
        if x.device.type != triton.DEVICE:
            return f"those in Triton run on {triton.DEVICE} tensors, not on {x.device.type}"
        why = triton.unsupported()
        if why is not None or isinstance(energy, DoubleWell):
            return why
        from ..kernels.triton import analytic_chain as kernel

        return kernel.unsupported(energy.means.shape[1])

    def _run_chain_(self, energy: Energy, x: Tensor, args: ChainArgs) -> None:
        from ..kernels.triton import analytic_chain as kernel

        if isinstance(energy, GaussianMixture):
            kernel.mixture_(*_parameters(energy), x, args)
        else:
            kernel.double_well_(energy.barrier, energy.width, x, args)


class AnalyticEngine(ScoreEngine):
    """All steps of `fl.energies.GaussianMixture` and `DoubleWell` in one call, in float32: in C++ on a CPU, in Triton
    on a GPU. Single scores are computed by autograd.

    Raises (by `bind`):
        BackendUnavailable: the target, the device or the precision is not supported.
    """

    name = "analytic"
    implementations: ClassVar[tuple[type[AnalyticScore], ...]] = (NativeAnalyticScore, TritonAnalyticScore)

    def bind(self, x: Tensor, inputs: Inputs) -> BoundScore:
        implementation = self.choose(self.target, self.precision, x)
        if isinstance(implementation, str):
            raise BackendUnavailable(f"engine='analytic' cannot be used for this {self.target.kind}: {implementation}")
        return implementation(self.target, "fp32", inputs)

    def explain(self, device: torch.device, shape: tuple[int, ...] | None = None) -> Explanation:
        return Explanation(self.name, "fp32", [])

    @classmethod
    def choose(cls, target: Target, precision: str, x: Tensor) -> type[AnalyticScore] | str:
        """What computes chains of a target at states like x, or why nothing does. May load the native library."""
        energy = target.function
        if target.kind != "energy" or type(energy) not in (GaussianMixture, DoubleWell):
            return "it supports only fl.energies.GaussianMixture and DoubleWell, given as energy"
        assert isinstance(energy, nn.Module) and isinstance(energy, (GaussianMixture, DoubleWell))
        if has_hooks(energy) or "forward" in vars(energy):
            return "the energy has hooks or a user-defined forward, which must run at each evaluation"
        if "fp32" not in cpu_precision.ways(precision, x.device):
            return f"its kernels compute in fp32, not in {precision}"
        if any(b.dtype != torch.float32 for b in (x, *energy.buffers())):
            return "its kernels need float32 states and parameters"
        if any(b.device != x.device for b in energy.buffers()):
            return f"its kernels need parameters on the states' device, {x.device}"
        reasons = []
        for implementation in cls.implementations:
            why = implementation.unsupported(energy, x)
            if why is None:
                return implementation
            reasons.append(why)
        return "; ".join(reasons)


def _parameters(energy: GaussianMixture) -> tuple[Tensor, Tensor, Tensor]:
    return energy.constants.contiguous(), energy.means.contiguous(), energy.precisions.contiguous()
