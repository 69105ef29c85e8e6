"""Diagonal preconditioners of Langevin dynamics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.arguments import Momentum
from ..validation import check_positive


@dataclass(frozen=True)
class RMSprop:
    """The preconditioner of Li et al. (AAAI 2016, arXiv:1512.07666, Algorithm 1), for `fl.Langevin(preconditioner=…)`:
    each step divides by the root of a moving average of the squared score, element-wise,

        V ← decay·V + (1 - decay)·s²,    P = 1 / (eps + sqrt(V))

    from V = 0 at the start of a call. s is the score after its limits. V is kept for each chain alone, so that a chain
    does not depend on the others.

    The term Γ = T·∂P/∂x, which would correct for a P that depends on the state, is left out. That is a bias which does
    not vanish with the step size η (Rensmeyer and Niggemann, arXiv:2403.08609). The weights of V reach 1 / (1 - decay)
    steps back: where the chain mixes within these steps, P is nearly constant and the bias small. Where
    η / (1 - decay) → 0 instead, P follows the state, and in one dimension the stationary density becomes that of
    exp(-U / T)·(eps + |s|).

    Where a score is near 0 while V is still small, at the start of a call or with a small decay, P is up to 1 / eps and
    a step far larger than later ones. eps of a tenth of the typical magnitude of the score prevents that; one long call
    is better than many short ones.

    Args:
        decay: of V, in [0, 1).
        eps: positive, in units of the score: P is at most 1 / eps, where the score is 0.

    Raises:
        ValueError: a number that is not as above.

    Examples:
        >>> energy = fl.energies.Gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1e-4]])  # 100 times as wide as narrow
        >>> rmsprop = fl.RMSprop(decay=0.99, eps=0.1)
        >>> sampler = fl.Langevin(energy, step_size=0.01, noise_std=None, preconditioner=rmsprop, seed=1)
        >>> bool(sampler(torch.zeros(100, 2), n_steps=500).isfinite().all())
        True
    """

    decay: float = 0.99
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if not isinstance(self.decay, (int, float)) or isinstance(self.decay, bool) or not 0 <= self.decay < 1:
            raise ValueError(f"decay must be a number in [0, 1), got {self.decay!r}")
        check_positive("eps", self.eps)

    def update_(self, v: Tensor, score: Tensor) -> Momentum:
        """Updates V, of the score's shape, and returns P as the inverse masses. Each operation rounds once, in V's
        type.
        """
        s = score.to(v.dtype)
        v.mul_(self.decay).add_((s * s).mul_(1.0 - self.decay))
        p = v.sqrt().add_(self.eps).reciprocal_()
        return Momentum(None, p.flatten(), p.sqrt().flatten())


Preconditioner = Tensor | RMSprop | None


def check_preconditioner(preconditioner: object) -> Preconditioner:
    """Returns a preconditioner, a tensor as a float64 copy.

    Raises:
        TypeError, ValueError: neither a tensor of positive finite numbers nor `RMSprop`.
    """
    if preconditioner is None or isinstance(preconditioner, RMSprop):
        return preconditioner
    if not isinstance(preconditioner, Tensor) or preconditioner.is_complex() or preconditioner.dtype == torch.bool:
        raise TypeError(
            "preconditioner must be a tensor of numbers of the shape of a chain's state, an fl.RMSprop or None, got "
            f"{preconditioner!r}"
        )
    values = preconditioner.detach().to(torch.float64, copy=True)
    if not ((values > 0) & (values < math.inf)).all():
        raise ValueError(f"preconditioner must be positive and finite, got {values.min()} … {values.max()}")
    return values


def constant(preconditioner: Tensor, event: torch.Size, device: torch.device, dtype: torch.dtype) -> Momentum:
    """A constant P for the elements of a chain of states of `dtype`, as the inverse masses.

    Raises:
        ValueError: another shape than the event's.
    """
    if preconditioner.shape != event:
        raise ValueError(
            f"preconditioner must have the shape of a chain's state {tuple(event)}, got {tuple(preconditioner.shape)}"
        )
    values = (1 / preconditioner, preconditioner, preconditioner.sqrt())
    return Momentum(*(v.to(device, torch.promote_types(dtype, torch.float32)).flatten() for v in values))
