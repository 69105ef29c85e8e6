"""Schemas and fakes of all operators of the package. The implementations are in the native libraries and `triton`."""

from __future__ import annotations

import torch
from torch import Tensor

LIBRARY = torch.library.Library("fastlangevin", "FRAGMENT")
BACKENDS = ("cpu", "cuda", "triton")

_UPDATE_TAIL = "SymInt stream, SymInt offset, float? grad_clip, float? lo, float? hi) -> ()"
_FILL_TAIL = "SymInt stream, SymInt offset, bool uniform) -> ()"
_MOVE_HEAD = "Tensor(a!) x, Tensor(b!) v, Tensor? score, Tensor? weights, Tensor? roots, bool draws, "
_MOVE_TAIL = "SymInt stream, SymInt offset) -> ()"
_TEST_HEAD = (
    "Tensor(a!) x, Tensor(b!) energy, Tensor(c!) score, Tensor(d!) log_ratio, Tensor(e!) n_accepted, "
    "Tensor(f!) n_rejected, Tensor y, Tensor new_score, Tensor new_energy, "
)
_TEST_TAIL = "SymInt test_stream, SymInt first_chain) -> ()"
_CHAIN_TAIL = (
    "float[] step_sizes, float[] noise_stds, bool has_noise, SymInt seed, SymInt step, SymInt offset, "
    "float? grad_clip, float? lo, float? hi, int noise_first) -> ()"
)
_TRANSITIONS_TAIL = (
    "Tensor(b!)? energies, Tensor(c!)? log_ratio, Tensor(d!)? n_accepted, Tensor(e!)? n_rejected, Tensor(f!)? v, "
    "int kind, float[] step_sizes, float[] noise_stds, float[] decays, int n_leapfrog, float temperature, "
    "Tensor? masses, Tensor? inverse_masses, Tensor? roots, float lo, float hi, SymInt seed, SymInt step, "
    "SymInt stream, SymInt offset, SymInt test_stream, SymInt first_chain, bool opens, bool closes) -> ()"
)
_MLP = (
    "Tensor[] weights, Tensor?[] biases, int[] activations, float[] parameters, Tensor last, float prior, bool bfloat16"
)
_MIXTURE = "Tensor constants, Tensor means, Tensor precisions"
_DOUBLE_WELL = "float barrier, float width"
_CONVNET = "Tensor packed, int[] geometry, float[] slopes, bool bfloat16"
_PROGRAM = "Tensor code, Tensor shared, Tensor per_sample"
_TRANSITIONS = {
    "convnet_transitions_cpu_": f"{_CONVNET}, float energy_offset",
    "program_transitions_cpu_": _PROGRAM,
    "mlp_transitions_cpu_": _MLP,
    "mixture_transitions_cpu_": _MIXTURE,
    "double_well_transitions_cpu_": _DOUBLE_WELL,
}
_CHAINS = {
    "mlp_chain_cpu_": _MLP,
    "mixture_chain_cpu_": _MIXTURE,
    "double_well_chain_cpu_": _DOUBLE_WELL,
    "convnet_chain_cpu_": _CONVNET,
    "program_chain_cpu_": _PROGRAM,
}


def update_name(backend: str) -> str:
    return f"langevin_update_{backend}_"


def fill_name(backend: str) -> str:
    return f"noise_{backend}_"


def move_names(backend: str) -> tuple[str, str, str]:
    """The operators of `velocity_move`, `mala_test` and `hmc_test`."""
    return f"velocity_move_{backend}_", f"mala_test_{backend}_", f"hmc_test_{backend}_"


def _define(schema: str) -> None:
    LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)


def _fake_update(x: Tensor, score: Tensor | None, *_: object) -> None:
    if score is not None:
        torch._check(score.shape == x.shape, lambda: f"score has shape {tuple(score.shape)}, x {tuple(x.shape)}")


def _fake_nothing(*_: object) -> None:
    return None


def _fake_score(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_energy(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(len(x))


def _fake_energy_and_score(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return _fake_energy(x), _fake_score(x)


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

for _backend in BACKENDS:
    _move, _mala, _hmc = move_names(_backend)
    for _overload, _float, _int in (("", "float", "SymInt"), (".tensor", "Tensor", "Tensor")):
        _numbers = f"{_float} temperature, float lo, float hi, {_int} seed, {_int} step, "
        _define(
            f"{_move}{_overload}({_MOVE_HEAD}{_float}? kick, int n_kicks, {_float} drift, {_float}? decay, "
            f"{_float} noise_std, {_int} seed, {_int} step, {_MOVE_TAIL}"
        )
        _define(f"{_mala}{_overload}({_TEST_HEAD}{_float} step_size, {_numbers}{_TEST_TAIL}")
        _define(
            f"{_hmc}{_overload}({_TEST_HEAD}Tensor v, Tensor? masses, Tensor? weights, Tensor? roots, {_float} kick, "
            f"{_float} noise_std, {_numbers}SymInt stream, SymInt offset, {_TEST_TAIL}"
        )
        for _name in (_move, _mala, _hmc):
            torch.library.register_fake(f"fastlangevin::{_name}{_overload}", _fake_nothing, lib=LIBRARY)

for _name, _energy in _CHAINS.items():
    _define(f"{_name}(Tensor(a!) x, {_energy}, {_CHAIN_TAIL}")
    torch.library.register_fake(f"fastlangevin::{_name}", _fake_nothing, lib=LIBRARY)

for _name, _energy in _TRANSITIONS.items():
    _define(f"{_name}(Tensor(a!) x, {_energy}, {_TRANSITIONS_TAIL}")
    torch.library.register_fake(f"fastlangevin::{_name}", _fake_nothing, lib=LIBRARY)

_define(
    "convnet_pack_cpu(Tensor[] weights, Tensor?[] biases, Tensor last, int[] geometry, float[] slopes, bool bfloat16) "
    "-> Tensor"
)
_define(f"convnet_score_cpu(Tensor x, {_CONVNET}) -> Tensor")
torch.library.register_fake("fastlangevin::convnet_score_cpu", _fake_score, lib=LIBRARY)
for _name, _results, _fake in (
    ("convnet_energy_cpu", "Tensor", _fake_energy),
    ("convnet_energy_and_score_cpu", "(Tensor, Tensor)", _fake_energy_and_score),
):
    _define(f"{_name}(Tensor x, {_CONVNET}, float offset) -> {_results}")
    torch.library.register_fake(f"fastlangevin::{_name}", _fake, lib=LIBRARY)

_define(
    "program_pack_cpu_(Tensor(a!) shared, Tensor weights, int place, bool flips_y, bool flips_x, int tile, "
    "int winograd_width) -> ()"
)
_define(f"program_score_cpu(Tensor x, {_PROGRAM}) -> Tensor")
torch.library.register_fake("fastlangevin::program_score_cpu", _fake_score, lib=LIBRARY)
_define(f"program_energy_and_score_cpu(Tensor x, {_PROGRAM}) -> (Tensor, Tensor)")
torch.library.register_fake("fastlangevin::program_energy_and_score_cpu", _fake_energy_and_score, lib=LIBRARY)
