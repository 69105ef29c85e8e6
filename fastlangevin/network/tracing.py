"""Reads the layers of an energy by running it once on a tensor that records the operations on it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

import torch

from . import operations
from .errors import NotRecognised, WrongShape
from .inputs import Inputs
from .purity import Impure
from .recorder import Recorder
from .sequential import Sequential
from .target import Target


def trace(target: Target, shape: Sequence[int], dtype: torch.dtype, device: torch.device, inputs: Inputs) -> Sequential:
    """The layers of a target's log-density at states (B, *event), with the current weights of the network.

    The function runs once, on a stand-in for a state that has its shape and no data. All operations on the stand-in
    must be supported, each result must be used once, and the checks of `purity` must pass.

    Raises:
        NotRecognised: one of these conditions is not met, or the function raised an error.
    """
    if target.kind == "score":
        raise NotRecognised("a score was given, only energies and log-densities are recognised")
    if len(shape) < 2:
        raise NotRecognised(f"states must have shape (B, *event), got {tuple(shape)}")
    parameter = target.parameter()
    shape = (max(shape[0], 1), *shape[1:])
    recorder = Recorder(shape, dtype if parameter is None else parameter.dtype, device, operations.apply)
    try:
        with torch.inference_mode(False), torch.enable_grad(), uncompiled, recorder.purity.watching():
            recorder.purity.check_callable(target.function)
            recorder.purity.check_inputs(inputs)
            output = target.function(recorder.input, *inputs.args, **inputs.kwargs)
    except Impure as error:
        raise NotRecognised(str(error)) from None
    except NotRecognised:
        raise
    except Exception as error:  # raised by the energy: autograd raises it again in full
        raise WrongShape(
            f"the energy raised {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        ) from error
    else:
        return recorder.finish(output, 1.0 if target.kind == "log_density" else -1.0)
    finally:
        recorder.input = recorder.last = None  # a reference cycle would keep the weights alive


class _Uncompiled:
    """A context in which functions wrapped by torch.compile run uncompiled. The setting is process-wide: the first
    thread to enter sets it and the last to leave resets it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stance: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0 and "torch._dynamo" in sys.modules:
                self._stance = torch.compiler.set_stance("force_eager")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._stance is not None:
                self._stance.__exit__(None, None, None)
                self._stance = None


uncompiled = _Uncompiled()
