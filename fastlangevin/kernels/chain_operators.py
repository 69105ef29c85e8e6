"""The operators of whole chains: all steps in one call. Implementations are a library's.

They share these arguments, after the state and what describes the energy: step_sizes, noise_stds (η_k and σ_k),
has_noise, seed, step (of the first update), offset (the first element's number), grad_clip, lo, hi, noise_first (0: no,
1: yes, 2: "clamp").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .schemas import LIBRARY, written

_TAIL = (
    "float[] step_sizes, float[] noise_stds, bool has_noise, SymInt seed, SymInt step, SymInt offset, "
    "float? grad_clip, float? lo, float? hi, int noise_first) -> ()"
)
_MOST_UPDATES = 2**24  # of single elements in one call: a second or so
_ENERGIES = {
    "mlp_chain_cpu_": "Tensor[] weights, Tensor?[] biases, int[] activations, float[] parameters, Tensor last, "
    "float prior",
    "mixture_chain_cpu_": "Tensor constants, Tensor means, Tensor precisions",
    "double_well_chain_cpu_": "float barrier, float width",
}
for _name, _energy in _ENERGIES.items():
    LIBRARY.define(f"{_name}(Tensor(a!) x, {_energy}, {_TAIL}", tags=torch.Tag.pt2_compliant_tag)
    torch.library.register_fake(f"fastlangevin::{_name}", lambda *_: None, lib=LIBRARY)


def run_(
    name: str,
    x: Tensor,  # (B, d), contiguous float32
    energy: Sequence[object],
    step_sizes: Sequence[float],
    noise_stds: Sequence[float],
    has_noise: bool,
    seed: int,
    steps: Sequence[int],
    offset: int,
    grad_clip: float | None,
    lo: float | None,
    hi: float | None,
    noise_first: bool | Literal["clamp"],
) -> None:
    """Calls the operator, in place, and tells autograd that x was written to."""
    if x.dim() != 2 or x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"x must be (B, d), contiguous and float32, got {x.dtype} {tuple(x.shape)}")
    if not len(steps) == len(step_sizes) == len(noise_stds):
        raise ValueError("steps, step_sizes and noise_stds must be of one length")
    if not steps or not len(x):
        return
    order = 2 if noise_first == "clamp" else int(noise_first)
    n_steps = max(1, _MOST_UPDATES // max(1, x.numel()))
    for k in range(0, len(steps), n_steps):  # Python meets signals between calls
        eta, sigma = list(step_sizes[k : k + n_steps]), list(noise_stds[k : k + n_steps])
        tail = (eta, sigma, has_noise, seed, int(steps[k]), offset, grad_clip, lo, hi, order)
        getattr(torch.ops.fastlangevin, name).default(x, *energy, *tail)
    written(x)
