"""Decides whether one recorded evaluation of a target may stand for all, and records it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .dependencies import Dependencies
from .errors import NotRecognised
from .graph import Attribute, Graph
from .graph_recorder import GraphRecorder, PythonWatcher
from .inputs import Inputs
from .purity import Impure, Purity
from .target import Target
from .tracing import uncompiled

Evaluate = Callable[[Tensor], "tuple[Tensor | None, Tensor]"]


def trace_graph(target: Target, evaluate: Evaluate, x: Tensor, inputs: Inputs, dependencies: Dependencies) -> Graph:
    """The calls to torch's operators that `evaluate` makes at states like x.

    The function runs once, at x. Afterwards the tensors and modules that it reads are as they were.

    Args:
        evaluate: a state to (energies or None, scores), by running the target.
        dependencies: of the target's function and `inputs`.

    Raises:
        NotRecognised: another evaluation may do something else, or has effects that are not operations on tensors;
            the message gives the reason. Errors of the energy itself are raised as they are.
    """
    structure = dependencies.structure()
    purity = Purity(x.device.type, records_all=True)
    recorder = GraphRecorder(x, dependencies.tensors)
    before = [_attributes(m) for m in dependencies.modules]
    try:
        purity.check_callable(target.function)
        purity.check_inputs(inputs)
        try:
            with uncompiled, purity.watching(), PythonWatcher(purity), recorder:
                energies, score = evaluate(x)
            assigned = _assigned(dependencies.modules, before, recorder)
        finally:
            recorder.restore()
            _restore(dependencies.modules, before)
    except Impure as error:
        raise NotRecognised(str(error)) from None
    if Dependencies((target.function, inputs)).structure() != structure:
        raise NotRecognised("an evaluation of the energy changes a Python value that it reads")
    return recorder.graph(score, energies, assigned)


def why_impure(target: Target, device_type: str) -> str | None:
    """Why the code of a target may not be recorded, found by reading it alone; None if nothing is found."""
    try:
        Purity(device_type, records_all=True).check_callable(target.function)
    except Impure as error:
        return str(error)
    return None


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {**vars(module), **module._buffers, **module._parameters}


def _assigned(
    modules: Sequence[nn.Module], before: Sequence[dict[str, Any]], recorder: GraphRecorder
) -> list[Attribute]:
    """The tensors that the evaluation has assigned to attributes of modules."""
    assigned = []
    for i, (module, old) in enumerate(zip(modules, before, strict=True)):
        new = _attributes(module)
        for name in old.keys() | new.keys():
            if name in old and name in new and new[name] is old[name]:
                continue
            if name not in new or not isinstance(new[name], Tensor) or name not in old:
                raise NotRecognised(f"an evaluation changes the attribute {name} of a {type(module).__name__}")
            assigned.append(Attribute(i, name, recorder.index(new[name]), recorder.index_if_read(old[name])))
    return assigned


def _restore(modules: Sequence[nn.Module], before: Sequence[dict[str, Any]]) -> None:
    for module, old in zip(modules, before, strict=True):
        for name in _attributes(module).keys() - old.keys():
            delattr(module, name)
        for name, value in old.items():
            held = next((d for d in (module._buffers, module._parameters) if name in d), vars(module))
            if held.get(name) is not value:
                held[name] = value
