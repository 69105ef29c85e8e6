"""The "cpu" backend's operators: schemas and fakes here, implementations in `csrc/cpu` (loaded by `native`)."""

from __future__ import annotations

import torch
from torch import Tensor

from . import native

_library = torch.library.Library("fastlangevin", "FRAGMENT")
_TAIL = "SymInt stream, SymInt offset, float? grad_clip, float? lo, float? hi) -> ()"
_library.define(
    "langevin_update_cpu_(Tensor(a!) x, Tensor? score, float? step_size, float? noise_std, SymInt seed, SymInt step, "
    + _TAIL,
    tags=torch.Tag.pt2_compliant_tag,
)
_library.define(
    "langevin_update_cpu_.tensor(Tensor(a!) x, Tensor? score, Tensor? step_size, Tensor? noise_std, Tensor seed, "
    "Tensor step, " + _TAIL,
    tags=torch.Tag.pt2_compliant_tag,
)
_library.define(
    "noise_cpu_(Tensor(a!) out, Tensor seed, Tensor step, SymInt stream, SymInt offset, bool uniform) -> ()",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.register_fake("fastlangevin::langevin_update_cpu_", lib=_library)
@torch.library.register_fake("fastlangevin::langevin_update_cpu_.tensor", lib=_library)
def _(x: Tensor, score: Tensor | None, *_: object) -> None:
    if score is not None:
        torch._check(score.shape == x.shape, lambda: f"score has shape {tuple(score.shape)}, x {tuple(x.shape)}")


@torch.library.register_fake("fastlangevin::noise_cpu_", lib=_library)
def _(out: Tensor, *_: object) -> None:
    return None


def unavailable() -> str | None:
    return native.load_cpu()


# What torch.compiler.assume_constant_result does, without its import of all of torch's compiler: a traced graph takes
# the answer for a constant.
unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


def update(
    x: Tensor,
    score: Tensor | None,
    step_size: Tensor | float | None,
    noise_std: Tensor | float | None,
    seed: Tensor | int,
    step: Tensor | int,
    stream: int,
    offset: int,
    grad_clip: float | None,
    lo: float | None,
    hi: float | None,
) -> None:
    """The fused update, in place: see `fastlangevin.langevin_update_`."""
    if score is not None and _overlaps(x, score):
        score = score.clone()  # the kernel would read elements that it has already moved
    tail = (stream, offset, grad_clip, lo, hi)
    numbers = (step_size, noise_std, seed, step)
    # Inside torch.compile a float argument would be a constant of the graph, and each new value a recompile.
    if torch.compiler.is_compiling() or any(isinstance(n, Tensor) for n in numbers):
        torch.ops.fastlangevin.langevin_update_cpu_.tensor(
            *(x, score, _float(step_size), _float(noise_std), _int(seed), _int(step), *tail)
        )
    else:
        torch.ops.fastlangevin.langevin_update_cpu_.default(x, score, *numbers, *tail)
    _written(x)


def fill(out: Tensor, seed: Tensor | int, step: Tensor | int, stream: int, offset: int, uniform: bool) -> None:
    """Fills a contiguous float32 tensor with the stream's deviates."""
    torch.ops.fastlangevin.noise_cpu_(out, _int(seed), _int(step), stream, offset, uniform)
    _written(out)


def _overlaps(x: Tensor, score: Tensor) -> bool:
    """Whether the two may share memory other than element by element. A traced graph sees to that by itself."""
    if torch.compiler.is_compiling() or x.untyped_storage()._cdata != score.untyped_storage()._cdata:
        return False
    return x.storage_offset() != score.storage_offset() or x.stride() != score.stride()


def _written(x: Tensor) -> None:
    """Tells autograd what operators of the stable ABI do not: that x was written to."""
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(x)


def _float(value: Tensor | float | None) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value
    # Added, not filled in: inductor makes a constant of a fill value, and so each new one a recompile.
    return torch.zeros((), dtype=torch.float64) + value


def _int(value: Tensor | int) -> Tensor:
    return value if isinstance(value, Tensor) else torch.full((), value, dtype=torch.int64)
