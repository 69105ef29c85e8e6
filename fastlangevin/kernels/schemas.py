"""Schemas and fakes of all operators of the package. The implementations are in the native libraries and `triton`."""

from __future__ import annotations

import torch
from torch import Tensor

LIBRARY = torch.library.Library("fastlangevin", "FRAGMENT")
BACKENDS = ("cpu", "cuda", "triton")

_UPDATE_TAIL = "SymInt stream, SymInt offset, float? grad_clip, float? lo, float? hi) -> ()"
_FILL_TAIL = "SymInt stream, SymInt offset, bool uniform) -> ()"
_CHAIN_TAIL = (
    "float[] step_sizes, float[] noise_stds, bool has_noise, SymInt seed, SymInt step, SymInt offset, "
    "float? grad_clip, float? lo, float? hi, int noise_first) -> ()"
)
_CHAINS = {
    "mlp_chain_cpu_": "Tensor[] weights, Tensor?[] biases, int[] activations, float[] parameters, Tensor last, "
    "float prior",
    "mixture_chain_cpu_": "Tensor constants, Tensor means, Tensor precisions",
    "double_well_chain_cpu_": "float barrier, float width",
    "convnet_chain_cpu_": "Tensor packed, int[] geometry, float[] slopes, bool bfloat16",
    "program_chain_cpu_": "Tensor code, Tensor shared, Tensor per_sample",
}


def update_name(backend: str) -> str:
    return f"langevin_update_{backend}_"


def fill_name(backend: str) -> str:
    return f"noise_{backend}_"


def _define(schema: str) -> None:
    LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)


def _fake_update(x: Tensor, score: Tensor | None, *_: object) -> None:
    if score is not None:
        torch._check(score.shape == x.shape, lambda: f"score has shape {tuple(score.shape)}, x {tuple(x.shape)}")


def _fake_nothing(*_: object) -> None:
    return None


def _fake_score(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


for _backend in BACKENDS:
    _update, _fill = update_name(_backend), fill_name(_backend)
    _define(
        f"{_update}(Tensor(a!) x, Tensor? score, float? step_size, float? noise_std, SymInt seed, SymInt step, "
        + _UPDATE_TAIL
    )
    _define(
        f"{_update}.tensor(Tensor(a!) x, Tensor? score, Tensor? step_size, Tensor? noise_std, Tensor seed, "
        "Tensor step, " + _UPDATE_TAIL
    )
    _define(f"{_fill}(Tensor(a!) out, SymInt seed, SymInt step, " + _FILL_TAIL)
    _define(f"{_fill}.tensor(Tensor(a!) out, Tensor seed, Tensor step, " + _FILL_TAIL)
    for _overload in ("", ".tensor"):
        torch.library.register_fake(f"fastlangevin::{_update}{_overload}", _fake_update, lib=LIBRARY)
        torch.library.register_fake(f"fastlangevin::{_fill}{_overload}", _fake_nothing, lib=LIBRARY)

for _name, _energy in _CHAINS.items():
    _define(f"{_name}(Tensor(a!) x, {_energy}, {_CHAIN_TAIL}")
    torch.library.register_fake(f"fastlangevin::{_name}", _fake_nothing, lib=LIBRARY)

_define(
    "convnet_pack_cpu(Tensor[] weights, Tensor?[] biases, Tensor last, int[] geometry, float[] slopes, bool bfloat16) "
    "-> Tensor"
)
_define("convnet_score_cpu(Tensor x, Tensor packed, int[] geometry, float[] slopes, bool bfloat16) -> Tensor")
torch.library.register_fake("fastlangevin::convnet_score_cpu", _fake_score, lib=LIBRARY)

_define("program_score_cpu(Tensor x, Tensor code, Tensor shared, Tensor per_sample) -> Tensor")
torch.library.register_fake("fastlangevin::program_score_cpu", _fake_score, lib=LIBRARY)
