"""The masses of samplers with velocities."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..chains.momentum import UNIT_MASS
from ..kernels.arguments import Momentum
from ..validation import check_positive


def check_mass(mass: object) -> float | Tensor:
    """Returns a mass: a float, or a float64 copy of a tensor.

    Raises:
        TypeError, ValueError: neither a number nor a tensor of numbers, or one that is not positive and finite.
    """
    if isinstance(mass, (np.ndarray, list, tuple)):
        mass = torch.as_tensor(mass)
    if isinstance(mass, Tensor) and mass.dim():
        if mass.is_complex() or mass.dtype == torch.bool:
            raise TypeError(f"mass must be a number or a tensor of numbers, got {mass.dtype} {tuple(mass.shape)}")
        values = mass.detach().to(torch.float64, copy=True)
        if not ((values > 0) & (values < math.inf)).all():
            raise ValueError(f"mass must be positive and finite, got {values.min()} … {values.max()}")
        return values
    return check_positive("mass", mass)


def momentum(mass: float | Tensor, event: torch.Size, device: torch.device, dtype: torch.dtype) -> Momentum:
    """Masses, their inverses and the roots of those, for the elements of a chain of states of `dtype`.

    Raises:
        ValueError: a tensor of another shape than the event's.
    """
    if isinstance(mass, float):
        if mass == 1:
            return UNIT_MASS
        mass = torch.tensor([mass], dtype=torch.float64)
    elif mass.shape != event:
        raise ValueError(
            f"mass must be a number or of the shape of a chain's state {tuple(event)}, got {tuple(mass.shape)}"
        )
    values = (mass, 1 / mass, mass.rsqrt())
    return Momentum(*(v.to(device, torch.promote_types(dtype, torch.float32)).flatten() for v in values))
