"""Native programs on the CPU: scores, and whole chains, of recorded energies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...network.native.program import VECTOR_TAIL, NativeProgram
from ...network.native.values import Packing
from .. import native
from ..arguments import ChainArgs, MetropolisMemory, TransitionArgs
from . import transitions, whole_chain


def unsupported() -> str | None:
    """Why programs cannot run, or None if they can. May compile or load the native library."""
    return native.load_cpu()


def widest_tile() -> int:
    """Output channels that the kernels of the instruction set in force compute at a time. Others give the same bits."""
    return 64 if native.cpu_capability() in ("amx", "avx512") else 16


@dataclass(frozen=True)
class Bound:
    """A program with its constants.

    Attributes:
        code, shared, per_sample: tensors that the kernels read.
        multiply_adds: of a step of a sample.
    """

    code: Tensor
    shared: Tensor
    per_sample: Tensor
    multiply_adds: int


def bind(program: NativeProgram, n_samples: int, value: Callable[[int], Tensor]) -> Bound:
    """Computes what is constant; call it again when weights have changed.

    Args:
        value: of each fixed value of the graph, by index.
    """
    code = program.code
    lanes, n_rows = program.lanes, -(-n_samples // program.lanes)
    shared = torch.zeros(program.shared_words + VECTOR_TAIL)
    per_sample = torch.zeros(n_rows * program.per_sample_words + VECTOR_TAIL)
    rows = per_sample[: n_rows * program.per_sample_words].view(n_rows, program.per_sample_words)
    for constant, place in program.constants:
        values = [value(v) for v in constant.values]
        if isinstance(constant.make, Packing):
            _pack(shared, place, constant.make, *values)
            continue
        made = constant.make(*values)
        if constant.is_per_sample:
            size = constant.size // lanes
            numbers = F.pad(made.reshape(n_samples, size), (0, 0, 0, n_rows * lanes - n_samples))
            row = numbers.view(n_rows, lanes, size).transpose(1, 2).reshape(n_rows, constant.size)
            rows[:, place : place + constant.size] = row
        else:
            shared[place : place + constant.size] = made.reshape(-1)
    return Bound(code, shared, per_sample, program.multiply_adds)


def _pack(shared: Tensor, place: int, packing: Packing, weight: Tensor) -> None:
    weights, flips_y, flips_x = packing.taps(weight.float())
    pack = torch.ops.fastlangevin.program_pack_cpu_.default
    pack(shared, weights, place, flips_y, flips_x, packing.tile, packing.winograd_width)


def score(program: Bound, x: Tensor) -> Tensor:
    """The scores at x, (B, *event) contiguous float32: a new tensor. Each depends on its sample alone."""
    return torch.ops.fastlangevin.program_score_cpu.default(x, program.code, program.shared, program.per_sample)


def energy_and_score(program: Bound, x: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) energies at x and the scores, as `score`, by a program that computes both."""
    operator = torch.ops.fastlangevin.program_energy_and_score_cpu.default
    energy, score = operator(x, program.code, program.shared, program.per_sample)
    return energy, score


def run_(program: Bound, x: Tensor, args: ChainArgs) -> None:
    """All steps of the chains x, (B, *event) contiguous float32, in place. See `whole_chain.run_`."""
    tensors = (program.code, program.shared, program.per_sample)
    whole_chain.run_("program_chain_cpu_", x.view(len(x), -1), tensors, args, program.multiply_adds)


def run_transitions_(program: Bound, x: Tensor, memory: MetropolisMemory | Tensor, args: TransitionArgs) -> None:
    """Other transitions of the chains of `run_`, in place: with Metropolis tests, by a program that computes energies.
    See `transitions.run_`.
    """
    tensors = (program.code, program.shared, program.per_sample)
    transitions.run_(
        "program_transitions_cpu_",
        x.view(len(x), -1) if len(x) else x.flatten(1),
        tensors,
        memory,
        args,
        program.multiply_adds,
    )
