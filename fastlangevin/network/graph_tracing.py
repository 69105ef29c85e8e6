"""Decides whether one recorded evaluation of a target may stand for all, and records it."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from . import bytecode
from .dependencies import Dependencies
from .effects import Snapshot
from .errors import NotRecognised
from .graph import Attribute, Graph
from .graph_recorder import GraphRecorder, PythonWatcher
from .inputs import Inputs
from .purity import Impure, Purity
from .target import Target
from .tracing import uncompiled

Evaluate = Callable[[Tensor], "tuple[Tensor | None, Tensor]"]


def dependencies_of(target: Target, inputs: Inputs) -> Dependencies:
    """What an evaluation reads: the tensors of a graph's sources, and everything else that a recording depends on."""
    return Dependencies((target.function, *inputs))


def trace_graph(target: Target, evaluate: Evaluate, x: Tensor, inputs: Inputs, dependencies: Dependencies) -> Graph:
    """The calls to torch's operators that `evaluate` makes at states like x.

    The function runs once, at x. Afterwards the tensors and modules that it reads are as they were.

    Args:
        evaluate: a state to (energies or None, scores), by running the target.
        dependencies: `dependencies_of` target and inputs.

    Raises:
        NotRecognised: another evaluation may do something else, or has effects that are not operations on tensors;
            the message gives the reason. Errors of the energy itself are raised as they are.
    """
    if any(is_lazy(t) for t in dependencies.tensors):
        raise NotRecognised("a lazy layer has no weights before its first evaluation")
    structure = dependencies.structure()
    purity = Purity(x.device.type, records_all=True)
    recorder = GraphRecorder(x, dependencies.tensors)
    watcher = PythonWatcher(purity, recorder)
    try:
        purity.check_callable(target.function)
        purity.check_inputs(inputs)
        snapshot = Snapshot(dependencies)
        try:
            with uncompiled, purity.watching(), watcher, recorder:
                energies, score = evaluate(x)
            recorder.raise_if_declined()
            assigned = [_attribute(recorder, *found) for found in snapshot.assigned()]
        except Exception:
            recorder.raise_if_declined()  # the error may be the energy's own answer to a refusal
            raise
        finally:
            recorder.restore()
            snapshot.restore()
    except Impure as error:
        raise NotRecognised(str(error)) from None
    if target.kind != "score" and recorder.writes_to(recorder.state):
        raise NotRecognised("the energy writes to its argument")
    if dependencies_of(target, inputs).structure() != structure:
        raise NotRecognised("an evaluation of the energy changes a Python value that it reads")
    return recorder.graph(score, energies, assigned)


def _attribute(recorder: GraphRecorder, module: int, name: str, new: Tensor, old: Tensor) -> Attribute:
    before = recorder.index_if_read(old)
    if before is not None and (new.shape, new.dtype) != (old.shape, old.dtype):
        raise NotRecognised(f"an evaluation gives the attribute {name}, which it reads, another shape or dtype")
    return Attribute(module, name, recorder.index(new), before)


def why_impure(target: Target, device_type: str) -> str | None:
    """Why the code of a target may not be recorded, found by reading it alone; None if nothing is found."""
    try:
        Purity(device_type, records_all=True).check_callable(target.function)
    except Impure as error:
        return str(error)
    return None


def is_impure_itself(target: Target) -> bool:
    """Whether the code of a function, or of a module's `forward`, is impure whatever it reads. Where `why_impure` has
    found a reason, this says in a moment that there still is one.
    """
    function: Any = target.function
    if isinstance(function, nn.Module):
        function = None if "forward" in vars(function) else type(function).forward
    if not isinstance(function, types.FunctionType):
        return False
    found = bytecode.read(function.__code__)
    return found.impure is not None or found.to_first is not None
