"""Calls the operators of a backend: selects the overload, and does what the operators do not do themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from .arguments import UpdateArgs
from .schemas import LIBRARY, fill_name, update_name

_F = TypeVar("_F", bound=Callable[..., object])


def constant_when_traced(function: _F) -> _F:
    """Like torch.compiler.assume_constant_result, but does not import torch's compiler."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class Operators:
    """`fastlangevin::langevin_update_NAME_` and `noise_NAME_`, each taking its numbers as scalars or (`.tensor`) as
    tensors on the device of the tensor that is written to.
    """

    def __init__(self, name: str) -> None:
        self._names = (update_name(name), fill_name(name))
        self._update, self._fill = (getattr(torch.ops.fastlangevin, each) for each in self._names)

    def implement(self, device: str, *, update: Callable[..., None], fill: Callable[..., None]) -> None:
        """Registers Python functions for tensors on `device`; both overloads have the same parameters."""
        for name, function in zip(self._names, (update, fill), strict=True):
            for overload in ("", ".tensor"):
                LIBRARY.impl(f"{name}{overload}", function, device.upper())

    def update(self, x: Tensor, score: Tensor | None, args: UpdateArgs) -> None:
        """The fused update, in place: see `fastlangevin.langevin_update_`."""
        if score is not None and _overlaps(x, score):
            score = score.clone()  # the kernel would read elements that it has already updated
        step_size, noise_std, seed, step = numbers = args[:4]
        if _as_tensors(*numbers):
            on_device = (_float(step_size, x), _float(noise_std, x), _int(seed, x), _int(step, x))
            self._update.tensor(x, score, *on_device, *args[4:])
        else:
            self._update.default(x, score, *args)
        written(x)

    def fill(
        self, out: Tensor, seed: Tensor | int, step: Tensor | int, stream: int, offset: int, uniform: bool
    ) -> None:
        """Fills a contiguous float32 tensor with the stream's deviates."""
        if _as_tensors(seed, step):
            self._fill.tensor(out, _int(seed, out), _int(step, out), stream, offset, uniform)
        else:
            self._fill.default(out, seed, step, stream, offset, uniform)
        written(out)


def _as_tensors(*numbers: object) -> bool:
    # In torch.compile a float argument would be a constant of the graph, and each new value would recompile it.
    return torch.compiler.is_compiling() or any(isinstance(n, Tensor) for n in numbers)


def _overlaps(x: Tensor, score: Tensor) -> bool:
    """Whether the two may share memory other than element by element. A traced graph handles this itself."""
    if torch.compiler.is_compiling() or x.untyped_storage()._cdata != score.untyped_storage()._cdata:
        return False
    return x.storage_offset() != score.storage_offset() or x.stride() != score.stride()


def written(x: Tensor | tuple[Tensor, ...]) -> None:
    """Informs autograd that tensors were written to, which operators of the stable ABI do not do."""
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(x)


def _float(value: Tensor | float | None, like: Tensor) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value if value is None else value.to(like.device).contiguous()
    if not torch.compiler.is_compiling():
        return torch.full((), value, dtype=torch.float64, device=like.device)
    # Added, not filled in: inductor makes a fill value a constant, so that each new value would recompile the graph.
    return torch.zeros((), dtype=torch.float64, device=like.device) + value


def _int(value: Tensor | int, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(like.device)
    return torch.full((), value, dtype=torch.int64, device=like.device)
