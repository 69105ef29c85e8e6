"""Calls the operators that run whole chains on the CPU: all Langevin steps in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import native
from ..arguments import ChainArgs
from ..operators import written

_MOST_UPDATES = 2**24  # of single elements in one call: about one second
_MOST_MULTIPLY_ADDS = 2**33  # in one call: some tenths of a second


def run_(
    operator: str,
    x: Tensor,  # (B, d), contiguous float32
    energy: Sequence[object],
    args: ChainArgs,
    multiply_adds: int = 0,
) -> None:
    """Runs an operator of `schemas` on x, in place.

    The noise and the update are those of `langevin_update_`, bit for bit, and a chain's result depends neither on the
    number of threads nor on the other chains.

    Args:
        operator: its name.
        energy: its arguments between the state and those of the chain.
        args: with Python numbers.
        multiply_adds: of a step of one chain, where the score costs more than the update.
    """
    why = native.load_cpu()
    if why:
        raise RuntimeError(why)
    if x.dim() != 2 or x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"x must be (B, d), contiguous and float32, got {x.dtype} {tuple(x.shape)}")
    step_sizes, noise_stds, has_noise, seed, steps, *tail, _ = args
    if not len(steps) == len(step_sizes) == len(noise_stds):
        raise ValueError("steps, step_sizes and noise_stds must have the same length")
    if not steps or not len(x):
        return
    call = getattr(torch.ops.fastlangevin, operator).default
    n_steps = steps_in_one_call(x, multiply_adds)
    for k in range(0, len(steps), n_steps):  # Python handles signals between calls
        eta, sigma = list(step_sizes[k : k + n_steps]), list(noise_stds[k : k + n_steps])
        call(x, *energy, eta, sigma, has_noise, seed, int(steps[k]), *tail, int(args.order))
    written(x)


def steps_in_one_call(x: Tensor, multiply_adds: int = 0, times_longer: int = 1) -> int:
    """How many steps of the chains x a call of an operator may run before Python looks for signals.

    Args:
        multiply_adds: of a step of one chain.
        times_longer: how much longer a call may take than one of Langevin steps, where multiply-adds count.
    """
    of_products = times_longer * _MOST_MULTIPLY_ADDS // max(1, multiply_adds * len(x))
    most = min(_MOST_UPDATES // max(1, x.numel()), of_products)
    return max(1, most)
