"""States recorded along a chain."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..chains.chain import Chain
from . import trace_file
from .trace_file import Records

if TYPE_CHECKING:
    import arviz


class Trace(NamedTuple):
    """States recorded along a chain; T records of B chains.

    Where extra arguments change from step to step, a record has those of the next step, and the last record those of
    the last step.

    Attributes:
        x: (T, B, *event) states.
        energy: (T, B) energies of the states, or None if the sampler was given a score.
        score_norm: (T, B) Euclidean norms of the unclipped scores at the states.
        steps: (T,) int64, the number of steps before each record: 0, every, 2·every, …, and n_steps.
        statistics: of samplers that have some, each (T, B), NaN in the first record; "acceptance": the share of the
            proposals since the record before that were accepted; "energy_error": by how much the last proposal missed
            the conservation of energy, ΔH, whose acceptance probability was min(1, exp(-ΔH / T)). Of
            `ParallelTempering` "swaps", (T, R - 1).

    Examples:
        >>> sampler = fl.MALA(fl.energies.DoubleWell(), step_size=0.05, n_steps=100, seed=1)
        >>> trace = sampler.trace(torch.zeros(8, 2), every=50)
        >>> trace.x.shape, trace.energy.shape, trace.steps.tolist()
        (torch.Size([3, 8, 2]), torch.Size([3, 8]), [0, 50, 100])
        >>> sorted(trace.statistics)
        ['acceptance', 'energy_error']
    """

    x: Tensor
    energy: Tensor | None
    score_norm: Tensor
    steps: Tensor
    statistics: Mapping[str, Tensor] = {}

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Trace:
        """Opens a trace that `trace(out=path)` has written, without reading the states.

        The tensors of an .npz are mapped into memory: the system reads what is used of them, and writing to them leaves
        the file unchanged. The arrays of a .zarr (extra "diagnostics") are read where they are indexed: `trace.x[a:b]`
        is a tensor of the records a … b - 1, and `trace.x[:]` of all; a function of torch reads all.
        States of bfloat16 come back as float32, of which they are a part.

        A trace that was interrupted has the records that were made, and gives a warning.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is not such a trace.
            ImportError: a .zarr without the extra "diagnostics".

        Examples:
            >>> sampler = fl.Langevin(fl.energies.Rings(), step_size=0.01, noise_std=None, n_steps=100, seed=1)
            >>> _ = sampler.trace(torch.zeros(8, 2), every=10, out="trace.npz")
            >>> fl.Trace.load("trace.npz").x[-1].shape
            torch.Size([8, 2])
        """
        return _of(trace_file.load(path))

    def to_arviz(self) -> arviz.InferenceData:
        """Returns the trace as an `arviz.InferenceData` (extra "diagnostics"), with all arrays in memory.

        Group "posterior" has the states as "x", with the dimensions chain (B), draw (T) and those of the event: "event"
        or, if there are several, "event_0", "event_1", …. Group "sample_stats" has (chain, draw) "energy", "score_norm"
        and those of `statistics` that are per chain, such as "acceptance" and "energy_error". The coordinate of a draw
        is its step, so that `.sel(draw=slice(1000, None))` leaves out what came before step 1000. The first draw is x0.

        Raises:
            ImportError: ArviZ is not installed; the message says how to.

        Examples:
            >>> import arviz
            >>> trace = fl.MALA(fl.energies.DoubleWell(), step_size=0.05, seed=1).trace(torch.zeros(4, 2), n_steps=200)
            >>> posterior = trace.to_arviz().posterior["x"].sel(draw=slice(100, None))
            >>> dict(posterior.sizes)
            {'chain': 4, 'draw': 101, 'event': 2}
            >>> float(arviz.ess(posterior.values[..., 0])) > 1
            True
        """
        from .trace_arviz import inference_data

        return inference_data(self.x[:], self.energy, self.score_norm, self.steps, self.statistics)

    def __repr__(self) -> str:
        n, chains, *event = self.x.shape
        energy = "without energies" if self.energy is None else "with energies"
        return (
            f"Trace({n} records of {chains} chains of shape {tuple(event)} over {int(self.steps[-1])} steps, {energy})"
        )


def record(chain: Chain, x0: Tensor, every: int, records: Records) -> Tensor:
    """Runs a chain from x0, which is left unchanged, and records the first, every `every`-th and the last state.

    Returns the last state.
    """
    x = x0.clone()
    score = chain.bind(x)
    chain.begin_(x, score)
    at = [*range(0, len(chain), every), len(chain)]
    records.begin(len(at), len(chain))
    last = 0
    for k in at:
        energy, precomputed = score.at(min(k, len(chain) - 1)).energy_and_score(x)
        flat = precomputed.reshape(len(x), math.prod(x.shape[1:]))
        records.add(
            {
                "x": x.clone(),
                **({} if energy is None else {"energy": energy}),
                "score_norm": torch.linalg.vector_norm(flat.float(), dim=1),
                **{trace_file.STATISTICS + name: value for name, value in chain.statistics(k - last).items()},
                "steps": torch.tensor(k),
            }
        )
        last = k
        if k < len(chain):
            chain.advance_(x, k, min(k + every, len(chain)), score, precomputed)
    return x


def of_records(records: Records) -> Trace:
    """The trace of records in memory."""
    return _of(records.stacked())


def _of(arrays: Mapping[str, Tensor]) -> Trace:
    prefix = trace_file.STATISTICS
    return Trace(
        arrays["x"],
        arrays.get("energy"),
        arrays["score_norm"],
        arrays["steps"],
        {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)},
    )
