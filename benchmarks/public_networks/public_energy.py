"""What a public code samples: an energy, and its chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn


def he_(module: nn.Module) -> nn.Module:
    """He initialisation of the weights for LeakyReLU(0.2), in place: then an untrained network's score is not tiny."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, a=0.2)
    return module


@dataclass(frozen=True)
class PublicEnergy:
    """`fl.Langevin(**{kind: module}, **options)(x0, *args)`.

    Attributes:
        kind: of `module`, the name of the argument of `Langevin`: "energy", "log_density" or "score".
        x0: initial states, drawn as the code draws them, (B, *event).
        args: further arguments of `module`, by chain.
        options: of the sampler, with the code's own values; n_steps, step_size and noise_std at least.
    """

    name: str
    title: str
    module: nn.Module
    kind: Literal["energy", "log_density", "score"]
    x0: Tensor
    args: tuple[Tensor, ...]
    options: Mapping[str, Any]
