"""The base class of what watches every operator that torch's dispatcher is asked for."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class OperatorMode(TorchDispatchMode):
    """A `TorchDispatchMode` that does not import torch's compiler at its first operator, which takes a second.

    torch wraps `__torch_dispatch__` so that the compiler does not compile it, and the wrapper imports the compiler. It
    is not needed: torch.compile compiles nothing in which such a mode is active.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
