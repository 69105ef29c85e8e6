"""The score of a convnet, a Langevin step along it, and chains of steps."""

from __future__ import annotations

import torch
from torch import Tensor

from ...arguments import ChainArgs, NoiseFirst, UpdateArgs
from .launches import Packed

_LANGEVIN = 0  # `noise.Stream.LANGEVIN`


def score(packed: Packed, x: Tensor) -> Tensor:
    """The gradient with respect to x: (B, C, H, W), contiguous float32, as x must be."""
    from ..device import on

    out = torch.empty_like(_checked(packed, x))
    if len(x):
        with on(x.device):
            workspace = packed.workspace(len(x))
            workspace.backpropagate(x)
            workspace.score(x, out)
    return out


def energy(packed: Packed, x: Tensor, offset: Tensor) -> Tensor:
    """(B,) float32: -log p, by the kernels of the way forward alone.

    log p without its constant terms is a product of float32 sums, whose parts are added up in float64.

    Args:
        offset: (1,) those constant terms, which layers after the last activation add.
    """
    from ..device import on

    if not len(_checked(packed, x)):
        return x.new_empty(0)
    with on(x.device):
        workspace = packed.workspace(len(x))
        parts = workspace.new_parts()
        for i in range(workspace.last_forward + 1):
            workspace.run(i, x, parts if i == workspace.last_forward else None)
    return _energies(packed, parts, offset)


def energy_and_score(packed: Packed, x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """`energy` and `score` of one pass."""
    from ..device import on

    out = torch.empty_like(_checked(packed, x))
    if not len(x):
        return x.new_empty(0), out
    with on(x.device):
        workspace = packed.workspace(len(x))
        parts = workspace.new_parts()
        workspace.backpropagate(x, parts=parts)
        workspace.score(x, out)
    return _energies(packed, parts, offset), out


def _energies(packed: Packed, parts: Tensor, offset: Tensor) -> Tensor:
    return (parts.sum(1, dtype=torch.float64) * packed.unscale + offset).neg_().float()


def step_(packed: Packed, x: Tensor, args: UpdateArgs) -> None:
    """One Langevin step of x in place, bit for bit the same as `score` followed by `Backend.update`.

    The first four of `args` are either Python numbers or tensors.
    """
    from ..device import on

    _checked(packed, x)
    if len(x):
        with on(x.device):
            workspace = packed.workspace(len(x))
            workspace.backpropagate(x)
            workspace.update(x, x, args)
        torch.autograd.graph.increment_version(x)


def run_chain_(packed: Packed, x: Tensor, args: ChainArgs) -> bool:
    """All steps of a chain of x in place, bit for bit those of `step_`, if a kernel between two steps is planned. The
    last step has none after it. Otherwise, and for a single step, returns False and does nothing.
    """
    from ..device import on
    from ..update import update

    _checked(packed, x)
    last = len(args.steps) - 1
    if not len(x) or last < 1:
        return False
    with on(x.device):
        workspace = packed.workspace(len(x))
        if workspace.between is None:
            return False
        if args.order != NoiseFirst.no:
            lo, hi = (args.lo, args.hi) if args.order == NoiseFirst.clamp else (None, None)
            update(x, None, _drawing(args, 0)._replace(step_size=None, grad_clip=None, lo=lo, hi=hi))
        state, other = x, workspace.other_state
        workspace.run(0, x)
        for k in range(last):
            workspace.backpropagate(state, start=1)
            drawn = k if args.order == NoiseFirst.no else k + 1
            workspace.update_and_run_first(
                state, other, _drawing(args, drawn)._replace(step_size=args.step_sizes[k]), args.order
            )
            state, other = other, state
        workspace.backpropagate(state, start=1)
        numbers = _drawing(args, last)
        workspace.update(state, x, numbers if args.order == NoiseFirst.no else numbers._replace(noise_std=None))
    torch.autograd.graph.increment_version(x)
    return True


def _drawing(args: ChainArgs, k: int) -> UpdateArgs:
    """The update of step k of a chain."""
    sigma = args.noise_stds[k] if args.has_noise else None
    key = (args.seed, args.steps[k], _LANGEVIN, args.offset)
    return UpdateArgs(args.step_sizes[k], sigma, *key, args.grad_clip, args.lo, args.hi)


def _checked(packed: Packed, x: Tensor) -> Tensor:
    if tuple(x.shape[1:]) != packed.x_shape or x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"x must be contiguous float32 of shape (B, {', '.join(map(str, packed.x_shape))})")
    return x
