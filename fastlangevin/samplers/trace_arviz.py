"""A trace as ArviZ's `InferenceData` (extra "diagnostics")."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..extras import require

if TYPE_CHECKING:
    import arviz

_NOT_PER_CHAIN = ("swaps",)  # between neighbouring temperatures


def inference_data(
    x: Tensor, energy: Tensor | None, score_norm: Tensor, steps: Tensor, statistics: Mapping[str, Tensor]
) -> arviz.InferenceData:
    """See `Trace.to_arviz`."""
    event = x.shape[2:]
    dims = ["event"] if len(event) == 1 else [f"event_{i}" for i in range(len(event))]
    per_chain = {
        **({} if energy is None else {"energy": energy}),
        "score_norm": score_norm,
        **{name: values for name, values in statistics.items() if name not in _NOT_PER_CHAIN},
    }
    return from_dict(
        posterior={"x": by_chain(x)},
        sample_stats={name: by_chain(values) for name, values in per_chain.items()},
        dims={"x": dims},
        coords={"draw": steps.cpu().numpy()},
    )


def from_dict(**groups: Any) -> arviz.InferenceData:
    """`arviz.from_dict`, which takes more chains than draws for an array of another order and warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "More chains", UserWarning)
        return require("arviz", "diagnostics").from_dict(**groups)


def by_chain(values: Tensor) -> np.ndarray:
    """(T, B, …) records as a (B, T, …) array."""
    values = values[:].detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).transpose(0, 1).numpy()
