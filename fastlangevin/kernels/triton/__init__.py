"""The "triton" backend: the same kernels for any GPU that Triton supports, compiled at first use.

With TRITON_INTERPRET=1 set before the first use, it runs on CPU tensors in Triton's interpreter, for tests.
"""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

from ..arguments import UpdateArgs
from ..move_operators import MoveOperators
from ..operators import Operators, constant_when_traced

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if _INTERPRETED else "cuda"


@constant_when_traced
def unsupported() -> str | None:
    """Why its kernels cannot run here, or None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not _INTERPRETED and not torch.cuda.is_available():
        return "no GPU is visible"
    return None


def _update(x: Tensor, score: Tensor | None, *arguments: object) -> None:
    from . import update

    update.update(x, score, UpdateArgs(*arguments))  # type: ignore[arg-type]


def _fill(out: Tensor, *arguments: object) -> None:
    from . import update

    update.fill(out, *arguments)  # type: ignore[arg-type]


def _velocity_move(*arguments: object) -> None:
    from . import moves

    moves.velocity_move(*arguments)  # type: ignore[arg-type]


def _mala_test(*arguments: object) -> None:
    from . import moves

    moves.mala_test(*arguments)  # type: ignore[arg-type]


def _hmc_test(*arguments: object) -> None:
    from . import moves

    moves.hmc_test(*arguments)  # type: ignore[arg-type]


operators = Operators("triton")
operators.implement(DEVICE, update=_update, fill=_fill)

move_operators = MoveOperators("triton")
move_operators.implement(DEVICE, velocity_move=_velocity_move, mala_test=_mala_test, hmc_test=_hmc_test)
