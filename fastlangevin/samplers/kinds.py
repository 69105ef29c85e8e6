"""The samplers that a training can take, by name."""

from __future__ import annotations

from ..validation import unknown
from .base import Sampler
from .hmc import HMC
from .langevin import Langevin
from .mala import MALA
from .underdamped import Underdamped

DEFAULT = "langevin"

# Of a log-density, the network: samplers of a score at several noise levels have no place here.
KINDS: dict[str, type[Sampler]] = {"langevin": Langevin, "mala": MALA, "hmc": HMC, "underdamped": Underdamped}


def of_kind(name: str, kind: object) -> type[Sampler]:
    """Returns the class of a kind.

    Args:
        name: of the argument, for the error.

    Raises:
        ValueError: no such kind.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown(name, kind, KINDS)
    return KINDS[kind]
