"""Scores, and energies, of a recorded evaluation by a native program: all operators, or all steps, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..kernels.cpu import program as kernels
from ..network.effects import holder
from ..network.graph import Attribute, Call, Graph, replace_refs
from ..network.graph_exposed import functional, reading_activations
from ..network.graph_liveness import last_uses, needed, split_constant
from ..network.graph_simplify import with_silu, without_aliases
from ..network.native.program import NativeProgram, lower
from ..network.native.values import NotLowered

_aten = torch.ops.aten
_PRODUCTS = {
    *(_aten.convolution.default, _aten.convolution_backward.default, _aten.mm.default, _aten.addmm.default),
    *(_aten.bmm.default, _aten.baddbmm.default),
}


@dataclass(frozen=True)
class NativeGraph:
    """A graph whose steps are a native program.

    Attributes:
        constant: the calls that torch computes once a call of the sampler.
        sources, attributes: of the graph.
        n_samples: in a batch.
        n_products: convolutions and matrix products in a step.
    """

    program: NativeProgram
    constant: tuple[Call, ...]
    sources: dict[int, int | Tensor]
    attributes: tuple[Attribute, ...]
    n_samples: int
    n_products: int

    def bind(self, tensors: Sequence[Tensor], modules: Sequence[nn.Module]) -> kernels.Bound:
        """Computes what is constant, and assigns the attributes.

        Args:
            tensors, modules: of the dependencies of the energy and its arguments.
        """
        values = {i: tensors[s] if isinstance(s, int) else s for i, s in self.sources.items()}
        ends = {v for c, _ in self.program.constants for v in c.values} | {a.value for a in self.attributes}
        for call, dead in zip(self.constant, last_uses(list(self.constant), ends | set(values)), strict=True):
            args, kwargs = replace_refs((call.args, call.kwargs), values.__getitem__)
            results = call.operator(*args, **kwargs)
            values.update(zip(call.results, (results,) if call.is_single else results, strict=True))  # type: ignore[arg-type]
            for value in dead:
                del values[value]
        for attribute in self.attributes:
            holder(modules[attribute.module], attribute.name)[attribute.name] = values[attribute.value]
        return kernels.bind(self.program, self.n_samples, values.__getitem__)


def native_graph(graph: Graph, beside: NativeGraph | None = None) -> NativeGraph | str:
    """The native program of a graph's score, or why there is none; of its energies too beside that of the score."""
    state = graph.values[graph.state]
    if state.device.type != "cpu" or state.dtype != torch.float32:
        return f"states are {state.dtype} on {state.device.type}, not torch.float32 on cpu"
    graph = reading_activations(functional(without_aliases(graph)))
    graph = with_silu(graph)
    outputs = (graph.score, graph.energies) if beside is not None and graph.energies is not None else (graph.score,)
    graph = needed(graph, outputs)
    constant, varying = split_constant(graph)
    if any(c.writes for c in constant) or any(a.before is not None for a in graph.attributes):
        return "an evaluation changes what the next one reads"
    if {a.value for a in graph.attributes} & {r for c in varying for r in c.results}:
        return "an evaluation assigns attributes that depend on the state"
    why = kernels.unsupported()
    if why is not None:
        return why
    try:
        program = lower(graph, varying, outputs, kernels.widest_tile(), beside.program if beside else None)
    except NotLowered as error:
        return str(error)
    n_products = sum(call.operator in _PRODUCTS for call in varying)
    return NativeGraph(program, tuple(constant), graph.sources, graph.attributes, state.shape[0], n_products)
