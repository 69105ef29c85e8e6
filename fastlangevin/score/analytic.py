"""The engine of closed-form energies whose chains run in one kernel: mixtures and double wells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..energies import DoubleWell, GaussianMixture
from ..errors import BackendUnavailable
from ..kernels import native
from ..kernels.arguments import ChainArgs
from ..kernels.cpu import analytic_chain
from ..network.inputs import Inputs
from ..network.inspection import has_hooks
from ..network.target import Target
from .autograd import AutogradScore
from .base import BoundScore, ScoreEngine


class AnalyticEngine(ScoreEngine):
    """All steps of `fl.energies.GaussianMixture` and `DoubleWell` in one call on a CPU (`kernels/cpu/analytic_chain`),
    in float32. Single scores are computed by autograd.

    Raises (by `bind`):
        BackendUnavailable: the target, the device or the precision is not supported.
    """

    name = "analytic"

    def bind(self, x: Tensor, inputs: Inputs) -> BoundScore:
        why = self.unsupported(self.target, self.precision, x)
        if why is not None:
            raise BackendUnavailable(f"engine='analytic' cannot be used for this {self.target.kind}: {why}")
        return AnalyticScore(self.target, self.precision, inputs)

    @staticmethod
    def unsupported(target: Target, precision: str, x: Tensor) -> str | None:
        """Why it does not support a target at states like x, or None if it does. May load the native library."""
        energy = target.function
        if target.kind != "energy" or type(energy) not in (GaussianMixture, DoubleWell):
            return "it supports only fl.energies.GaussianMixture and DoubleWell, given as energy"
        assert isinstance(energy, nn.Module)
        if has_hooks(energy) or "forward" in vars(energy):
            return "the energy has hooks or a user-defined forward, which must run at each evaluation"
        if x.device.type != "cpu" or precision != "fp32":
            return f"its kernels compute in fp32 on the CPU, not in {precision} on {x.device.type}"
        if any(b.dtype != torch.float32 for b in (x, *energy.buffers())):
            return "its kernels need float32 states and parameters"
        return native.load_cpu()


class AnalyticScore(AutogradScore):
    """Whole chains by a kernel; single scores by autograd."""

    name = "analytic"
    updates_with = "cpu"

    def run_chain_(self, x: Tensor, args: ChainArgs) -> bool:
        energy: Any = self.target.function
        fits = x.dim() == 2 and x.shape[1] == energy.mean.numel() and x.dtype == torch.float32 and x.is_contiguous()
        if self.inputs or not fits:
            return False  # the chain runs step by step, and the energy raises an error for an invalid x or argument
        if isinstance(energy, GaussianMixture):
            constants, means, precisions = energy.constants, energy.means, energy.precisions
            analytic_chain.mixture_(constants.contiguous(), means.contiguous(), precisions.contiguous(), x, args)
        else:
            analytic_chain.double_well_(energy.barrier, energy.width, x, args)
        return True
