"""The score of any energy whose evaluation is only operations on tensors, by the operators that it calls."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import BackendUnavailable
from ..kernels.arguments import ChainArgs, MetropolisMemory, TransitionArgs, TransitionKind
from ..kernels.cpu import program as native_kernels
from ..kernels.triton import fused as fused_kernels
from ..network.dependencies import Dependencies
from ..network.errors import NotRecognised
from ..network.graph import Graph
from ..network.graph_convolutions import with_fast_convolutions
from ..network.graph_jacobian import is_piecewise_linear
from ..network.graph_liveness import outer_storages, written_storages
from ..network.graph_tracing import dependencies_of, trace_graph, why_impure
from ..network.inputs import Inputs
from ..network.target import Target
from . import cpu_precision
from .autograd import AutogradScore
from .base import Explanation, ScoreEngine
from .graph_program import Program
from .native_graph import NativeGraph, native_graph

_KEPT = 16  # recordings per engine


class Recording:
    """A recorded evaluation, and the programs that are made from it when they are needed.

    Args:
        precision: that it was recorded in.
        device: that states are on.
    """

    def __init__(self, graph: Graph, precision: str, device: torch.device) -> None:
        self.precision = precision
        self.graph = with_fast_convolutions(graph) if device.type == "cpu" else graph
        self._unfused = fused_kernels.unsupported(device)
        self.is_piecewise_linear = is_piecewise_linear(graph)
        outer = outer_storages(graph)
        self._read = {i: graph.values[v].storage for v, i in graph.sources.items() if isinstance(i, int)}
        self._writes = bool(outer & written_storages(graph))

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the tensors share memory as those did that were recorded, if the evaluation writes to some."""
        if not self._writes:
            return True
        pairs = {(storage, tensors[i].untyped_storage()._cdata) for i, storage in self._read.items()}
        return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})

    @functools.cached_property
    def score(self) -> Program:
        return Program(self.graph, with_energies=False, fuses=self._unfused is None)

    @functools.cached_property
    def native(self) -> NativeGraph | str:
        """The score as a native program, or why there is none."""
        if self._unfused is None:
            return "operators are fused"
        if self.precision != "fp32":
            return f"native programs compute in fp32, not in {self.precision}"
        return native_graph(self.graph)

    @functools.cached_property
    def native_with_energies(self) -> NativeGraph | str:
        """Energies and scores as a native program, or why there is none."""
        return native_graph(self.graph, self.native) if isinstance(self.native, NativeGraph) else self.native

    @property
    def fusion(self) -> str:
        """For a plan: which operators are computed together, or why none are."""
        native = self.native
        if isinstance(native, NativeGraph):
            return f"the graph engine computes with a native program: {native.program.n_instructions} instructions"
        if self.graph.values[self.graph.state].device.type == "cpu" and self._unfused is not None:
            return f"the graph engine computes with torch's operators, not with a native program: {native}"
        unfused = self._unfused
        return self.score.fusion if unfused is None else f"the graph engine's operators are not fused: {unfused}"

    @functools.cached_property
    def energies_and_score(self) -> Program:
        return Program(self.graph, with_energies=True, fuses=self._unfused is None)


class Situation:
    """What a recording depends on: the shapes of a call, and everything that the energy reads.

    Attributes:
        key: equal for two calls if a recording of one is valid for the other.
    """

    def __init__(self, target: Target, x: Tensor, inputs: Inputs) -> None:
        self.dependencies = dependencies_of(target, inputs)
        self.key: Hashable = (x.shape, x.dtype, x.device, self.dependencies.structure())


class GraphScore(AutogradScore):
    """The score of a recorded evaluation. Energies alone, and second derivatives, are computed by autograd.

    Weights are read, and what depends on them alone is computed, once per call.

    Attributes:
        reasons: for a plan, sentences on the operators that are computed together, and on the precision.
    """

    name = "graph"

    def __init__(
        self,
        target: Target,
        inputs: Inputs,
        recording: Recording,
        dependencies: Dependencies,
        reasons: Sequence[str],
    ) -> None:
        super().__init__(target, recording.precision, inputs)
        self._recording, self._dependencies = recording, dependencies
        self.is_piecewise_linear, self.reasons = recording.is_piecewise_linear, [recording.fusion, *reasons]
        with torch.no_grad():
            self._step = self._bound_step()

    def _bound_step(self) -> Callable[[Tensor], Tensor]:
        return self._bound(self._recording.score)

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self._step(x)

    def energy_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        if self._recording.graph.energies is None:
            return None, self(x)
        with torch.no_grad():
            energies, score = self._energies_and_score(x)
        return energies, score

    def linearize(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor | None]]:
        if self.is_piecewise_linear:
            return self(x), lambda v: None
        return super().linearize(x)

    @functools.cached_property
    def _energies_and_score(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        return self._bound(self._recording.energies_and_score)

    def _bound(self, program: Program) -> Callable[[Tensor], Any]:
        tensors = [t.detach() for t in self._dependencies.tensors]
        return program.bind(tensors, self._dependencies.modules)


class NativeGraphScore(GraphScore):
    """The score by a native program, which also runs whole chains, and energies beside it by another program, or by
    torch's operators where there is none.
    """

    updates_with = "cpu"

    def _bound_step(self) -> Callable[[Tensor], Tensor]:
        native = self._recording.native
        assert isinstance(native, NativeGraph)
        self._program = self._bound_native(native)
        return lambda x: native_kernels.score(self._program, x.contiguous())

    def energy_and_score(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        if self._program_with_energies is None:
            return super().energy_and_score(x)[0], self(x)
        with torch.no_grad():
            return native_kernels.energy_and_score(self._program_with_energies, x.contiguous())

    @functools.cached_property
    def _program_with_energies(self) -> native_kernels.Bound | None:
        native = self._recording.native_with_energies
        if isinstance(native, str) or self._recording.graph.energies is None:
            return None
        return self._bound_native(native)

    def _bound_native(self, native: NativeGraph) -> native_kernels.Bound:
        with torch.no_grad():
            return native.bind([t.detach() for t in self._dependencies.tensors], self._dependencies.modules)

    def run_chain_(self, x: Tensor, args: ChainArgs) -> bool:
        if not x.is_contiguous() or x.is_neg():
            return False
        native_kernels.run_(self._program, x, args)
        return True

    def runs_transitions(self, x: Tensor, kind: TransitionKind) -> bool:
        return not x.is_neg() and self._program_of(kind) is not None

    def run_transitions_(self, x: Tensor, memory: MetropolisMemory | Tensor, args: TransitionArgs) -> None:
        program = self._program_of(args.kind)
        assert program is not None
        native_kernels.run_transitions_(program, x, memory, args)

    def _program_of(self, kind: TransitionKind) -> native_kernels.Bound | None:
        return self._program if kind == TransitionKind.underdamped else self._program_with_energies


class GraphEngine(ScoreEngine):
    """The score as a straight line of torch's operators, recorded from one evaluation of the energy and its gradient.

    Without the Python code of the energy and without an autograd graph: what depends on weights alone is computed once
    per call, results that only weight gradients need are not computed, tensors are overwritten where nothing needs
    them, and images are kept channels last.

    A recording is valid as long as everything that the energy reads keeps its structure: Python values, and the shapes
    and types of tensors. Values of tensors may change.

    Raises (by `bind`):
        BackendUnavailable: one evaluation may not stand for all; the message gives the reason.
    """

    name = "graph"

    def __init__(self, target: Target, precision: str) -> None:
        super().__init__(target, precision)
        self._recordings: OrderedDict[Hashable, dict[str, Recording | str]] = OrderedDict()  # by precision
        self._lock = threading.Lock()
        self._explanation: Explanation | None = None

    def explain(self, device: torch.device, shape: tuple[int, ...] | None = None) -> Explanation:
        return self._explanation or super().explain(device, shape)

    def bind(self, x: Tensor, inputs: Inputs) -> GraphScore:
        try:
            score = self.recognise(x, inputs, self.situation(x, inputs))
        except NotRecognised as error:
            raise BackendUnavailable(f"engine='graph' cannot be used for this {self.target.kind}: {error}") from None
        self._explanation = Explanation(self.name, score.precision, score.reasons)
        return score

    def situation(self, x: Tensor, inputs: Inputs) -> Situation:
        """The situation of a call.

        Raises:
            NotRecognised: nothing is recorded yet, and the code of the energy alone shows that it may not be. What such
                code reads may lead through whole libraries.
        """
        if not self._recordings and (reason := why_impure(self.target, x.device.type)) is not None:
            raise NotRecognised(reason)
        return Situation(self.target, x, inputs)

    def recognise(self, x: Tensor, inputs: Inputs, situation: Situation, n_chains: int | None = None) -> GraphScore:
        """As `bind`, for the situation of the call.

        Args:
            n_chains: for which the faster precision is chosen. None: those of x.

        Raises:
            NotRecognised: one evaluation may not stand for all.
        """
        ways, reasons = cpu_precision.ways(self.precision, x.device), cpu_precision.reasons(self.precision, x.device)
        found = self._recorded(ways[-1], x, inputs, situation)
        if len(ways) > 1 and (why := _why_bfloat16(found, n_chains or len(x))) is not None:
            found, reasons = self._recorded(ways[0], x, inputs, situation), [*reasons, f"fp32 not used: {why}"]
        score = NativeGraphScore if isinstance(found.native, NativeGraph) else GraphScore
        return score(self.target, inputs, found, situation.dependencies, reasons)

    def _recorded(self, precision: str, x: Tensor, inputs: Inputs, situation: Situation) -> Recording:
        with self._lock:
            recordings = self._recordings.setdefault(situation.key, {})
            self._recordings.move_to_end(situation.key)
            if len(self._recordings) > _KEPT:
                self._recordings.popitem(last=False)
            found = recordings.get(precision)
            if found is None or (isinstance(found, Recording) and not found.fits(situation.dependencies.tensors)):
                try:
                    found = self._record(precision, x, inputs, situation.dependencies)
                except NotRecognised as error:
                    found = str(error)
                recordings[precision] = found
        if isinstance(found, str):
            raise NotRecognised(found)
        return found

    def _record(self, precision: str, x: Tensor, inputs: Inputs, dependencies: Dependencies) -> Recording:
        if x.numel() == 0:
            raise NotRecognised("there are no chains")
        evaluate = AutogradScore(self.target, precision, inputs).energy_and_score
        x = x.detach().clone(memory_format=torch.contiguous_format)
        return Recording(trace_graph(self.target, evaluate, x, inputs, dependencies), precision, x.device)

    def __getstate__(self) -> dict[str, Any]:
        return {"target": self.target, "precision": self.precision}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _why_bfloat16(recording: Recording, n_chains: int) -> str | None:
    """Why torch's operators in bfloat16 are faster than a recording in float32, or None if they are not."""
    native = recording.native
    if isinstance(native, str):
        return f"torch's operators are faster in bfloat16, and there is no native program: {native}"
    program = native.program
    return cpu_precision.why_bfloat16(n_chains * program.multiply_adds, native.n_products, n_chains * program.others)
