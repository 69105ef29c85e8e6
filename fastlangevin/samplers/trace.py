"""States recorded along a chain."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..chains.chain import Chain


class Trace(NamedTuple):
    """States recorded along a chain; T records of B chains.

    Where extra arguments change from step to step, a record has those of the next step, and the last record those of
    the last step.

    Attributes:
        x: (T, B, *event) states.
        energy: (T, B) energies of the states, or None if the sampler was given a score.
        score_norm: (T, B) Euclidean norms of the unclipped scores at the states.
        steps: (T,) int64, the number of steps before each record: 0, every, 2·every, …, and n_steps.
    """

    x: Tensor
    energy: Tensor | None
    score_norm: Tensor
    steps: Tensor

    def __repr__(self) -> str:
        n, chains, *event = self.x.shape
        energy = "without energies" if self.energy is None else "with energies"
        return (
            f"Trace({n} records of {chains} chains of shape {tuple(event)} over {int(self.steps[-1])} steps, {energy})"
        )


def record(chain: Chain, x0: Tensor, every: int) -> Trace:
    """Runs a chain from x0, which is left unchanged, and records the first, every `every`-th and the last state."""
    states, energies, norms, steps = [], [], [], []
    x = x0.clone()
    score = chain.bind(x)
    for k in [*range(0, len(chain), every), len(chain)]:
        energy, precomputed = score.at(min(k, len(chain) - 1)).energy_and_score(x)
        states.append(x.clone())
        if energy is not None:
            energies.append(energy)
        flat = precomputed.reshape(len(x), math.prod(x.shape[1:]))
        norms.append(torch.linalg.vector_norm(flat.float(), dim=1))
        steps.append(k)
        if k < len(chain):
            chain.advance_(x, k, min(k + every, len(chain)), score, precomputed)
    return Trace(
        torch.stack(states), torch.stack(energies) if energies else None, torch.stack(norms), torch.tensor(steps)
    )
