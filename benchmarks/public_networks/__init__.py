"""The energies of public codes, rebuilt: the operations, batch, state and chain of each, at a size for two CPU cores.

Each is seeded: two calls give equal weights, states and arguments. Weights are untrained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from . import igebm, improved_cd, jem, latent, ncsn, small, spectral, swish_cnn
from .public_energy import PublicEnergy

PUBLIC_ENERGIES: dict[str, Callable[..., PublicEnergy]] = {
    "swish-cnn": swish_cnn.seeded,
    "jem": jem.seeded,
    "jem-label": functools.partial(jem.seeded, by_label=True),
    **{f"igebm-{norm}": functools.partial(igebm.seeded, norm) for norm in spectral.NORMS},
    "improved-cd": improved_cd.seeded,
    "latent-prior": latent.prior,
    "latent-posterior": latent.posterior,
    "mlp-classifier": small.classifier,
    "ncsn": ncsn.seeded,
    **{f"formula-{k}": functools.partial(small.counted_ring, k) for k in (1, 20, 100)},
}
__all__ = ["PUBLIC_ENERGIES", "PublicEnergy"]
