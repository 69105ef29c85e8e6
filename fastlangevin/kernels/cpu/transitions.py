"""Calls the operators that run whole chains of other transitions than Langevin steps on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import native
from ..arguments import MetropolisMemory, TransitionArgs
from ..operators import written
from .whole_chain import steps_in_one_call

_TIMES_LONGER = 8  # each call evaluates its first states again


def run_(
    operator: str,
    x: Tensor,  # (B, d), contiguous float32
    energy: Sequence[object],
    memory: MetropolisMemory | Tensor,
    args: TransitionArgs,
    multiply_adds: int = 0,
) -> None:
    """Runs an operator of `schemas` on x and the memory, in place: see `BoundScore.run_transitions_`.

    The transitions are those of `reference_moves`, bit for bit, for the scores and energies that the kernel computes at
    the same states, in float32. A chain's result depends neither on the number of threads nor on the other chains.

    Args:
        operator: its name.
        energy: its arguments between the state and those of the transitions.
        memory: its energies are those of the kernels, U but for a constant; its scores are neither read nor written.
        multiply_adds: of an evaluation of one chain, where it costs more than the update.
    """
    why = native.load_cpu()
    if why:
        raise RuntimeError(why)
    if x.dim() != 2 or x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"x must be (B, d), contiguous and float32, got {x.dtype} {tuple(x.shape)}")
    if not len(args.steps) == len(args.step_sizes) == len(args.noise_stds):
        raise ValueError("steps, step_sizes and noise_stds must have the same length")
    n = len(args.steps)
    if not n or not len(x):
        return
    tested: tuple[Tensor | None, ...] = (None,) * 4
    velocity = memory if isinstance(memory, Tensor) else None
    if not isinstance(memory, Tensor):
        tested = (memory.energy, memory.log_ratio, memory.n_accepted, memory.n_rejected)
    call = getattr(torch.ops.fastlangevin, operator).default
    most = max(1, steps_in_one_call(x, multiply_adds, _TIMES_LONGER) // max(1, args.n_leapfrog))
    sizes = args.step_sizes
    for k in range(0, n, most):  # Python handles signals between calls
        here = slice(k, k + most)
        call(
            x,
            *energy,
            *tested,
            velocity,
            int(args.kind),
            list(sizes[here]),
            list(args.noise_stds[here]),
            list(args.decays[here]),
            args.n_leapfrog,
            args.temperature,
            *args.momentum,
            args.lo,
            args.hi,
            args.seed,
            int(args.steps[k]),
            args.stream,
            args.offset,
            args.test_stream,
            args.first_chain,
            k == 0 or sizes[k] != sizes[k - 1],
            k + most >= n or sizes[k + most] != sizes[k + most - 1],
        )
    written(tuple(each for each in (x, *tested, velocity) if each is not None))
