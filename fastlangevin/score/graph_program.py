"""Turns a graph into two Python functions: what is computed once a call, and what is computed at each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..network.effects import holder
from ..network.graph import Call, Graph, Ref
from ..network.graph_liveness import last_uses, needed, split_constant
from ..network.graph_simplify import allows_any_layout, any_layout, in_place, with_silu, without_aliases

Step = Callable[[Tensor], Any]

# Operators that are right and fast for inputs of any layout, each with its own. The kernels of others rely on what
# autograd's formulas do before: such copies are not recorded where the recorded tensors had the layout already.
_ANY_LAYOUT = {
    *("convolution", "convolution_backward", "avg_pool2d", "avg_pool2d_backward", "_adaptive_avg_pool2d"),
    *(
        "add",
        "sub",
        "rsub",
        "mul",
        "div",
        "neg",
        "exp",
        "log",
        "abs",
        "sgn",
        "pow",
        "square",
        "sqrt",
        "rsqrt",
        "reciprocal",
    ),
    *("reciprocal", "sigmoid", "sigmoid_backward", "tanh", "tanh_backward", "relu", "threshold_backward", "leaky_relu"),
    *("leaky_relu_backward", "silu", "silu_backward", "gelu", "gelu_backward", "elu", "elu_backward", "softplus"),
    *("softplus_backward", "hardtanh", "hardtanh_backward", "clamp", "clamp_min", "clamp_max", "where", "maximum"),
    *("minimum", "ge", "gt", "le", "lt", "eq", "ne", "sum", "mean", "var", "logsumexp", "_softmax", "cat", "clone"),
    *("_softmax_backward_data", "t", "transpose", "permute", "expand", "unsqueeze", "squeeze", "select", "slice"),
    *("reshape", "mm", "bmm", "addmm", "baddbmm", "_to_copy", "full_like", "zeros_like", "ones_like", "copy_"),
    *("pixel_shuffle", "constant_pad_nd", "flip"),
    *("add_", "sub_", "mul_", "div_", "relu_", "leaky_relu_", "silu_", "fill_", "zero_"),
}
_RESHAPES = {"view", "_unsafe_view", "reshape"}
_MOST_COPIED = 0.1  # of the elements that convolutions read; more copies between layouts cost more than they gain
_CHANNELS_LAST = {"native_group_norm", "native_group_norm_backward", "native_batch_norm", "native_batch_norm_backward"}


class Program:
    """A graph as straight-line Python code, which costs less than walking it.

    Args:
        with_energies: whether steps return (energies, score), or the score alone.

    Attributes:
        channels_last: whether it computes in that layout.
        n_calls: operators per step.
    """

    def __init__(self, graph: Graph, with_energies: bool) -> None:
        graph = without_aliases(graph)
        outputs = (graph.energies, graph.score) if with_energies and graph.energies is not None else (graph.score,)
        graph = needed(with_silu(graph), outputs)
        constant, varying = split_constant(graph)
        self.channels_last = allows_any_layout(graph) and _gains_by_channels_last(graph, varying)
        if self.channels_last:
            graph = any_layout(graph)
            constant, varying = split_constant(graph)
        self._graph = graph
        fixed = {*graph.sources, *(r for c in constant for r in c.results if r is not None)}
        self._carried = [
            a for a in graph.attributes if any(a.value in c.results for c in varying) or a.before is not None
        ]
        self._assigned = [a for a in graph.attributes if a not in self._carried]
        ends = (*outputs, *(a.value for a in self._carried))
        varying = in_place(graph, varying, ends, {graph.state, *fixed})
        self.n_calls = len(varying)
        before = [a.before for a in self._carried]
        read = {i for c in varying for i in c.reads} | set(ends)
        self._inputs = sorted(graph.sources)
        self._passed = sorted((read & fixed) - set(before))
        writer = _Writer(self.channels_last)
        self._code = writer.code(self, constant, varying, outputs, self._weights(constant, varying))
        self._constants = writer.constants

    def _weights(self, constant: Sequence[Call], varying: Sequence[Call]) -> set[int]:
        """Fixed 4-dimensional values that convolutions of a step read: those whose layout decides theirs."""
        if not self.channels_last:
            return set()
        found = {i for c in varying if c.name.startswith("convolution") for i in c.reads if i in self._passed}
        return {i for i in found if len(self._graph.values[i].shape) == 4}

    def bind(self, tensors: Sequence[Tensor], modules: Sequence[nn.Module]) -> Step:
        """Computes what is constant, and returns the function of one step.

        Args:
            tensors, modules: of the dependencies of the energy and its arguments.
        """
        sources = (self._graph.sources[i] for i in self._inputs)
        inputs = [tensors[source] if isinstance(source, int) else source for source in sources]
        holders = [(holder(modules[a.module], a.name), a.name) for a in (*self._assigned, *self._carried)]
        namespace: dict[str, Any] = {"torch": torch, "_holders": holders, **self._constants}
        exec(self._code, namespace)
        step: Step = namespace["bind"](*inputs)
        return step


def _gains_by_channels_last(graph: Graph, calls: Sequence[Call]) -> bool:
    """Whether 2-D convolutions read much more than has to be copied for operators that need another layout."""

    def n_elements(call: Call) -> int:
        shapes = [graph.values[i].shape for i in call.reads]
        return max((math.prod(shape) for shape in shapes if len(shape) == 4), default=0)

    convolutions = sum(n_elements(c) for c in calls if c.name.startswith("convolution"))
    bound = [c for c in calls if c.name in _RESHAPES or c.name not in _ANY_LAYOUT | _CHANNELS_LAST]
    return sum(n_elements(c) for c in bound) < _MOST_COPIED * convolutions


class _Writer:
    """Writes the source of a program."""

    def __init__(self, channels_last: bool) -> None:
        self.constants: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        self._channels_last = channels_last
        self._images: set[int] = set()

    def code(
        self, program: Any, constant: Sequence[Call], varying: Sequence[Call], outputs: Sequence[int], weights: set[int]
    ) -> Any:
        graph: Graph = program._graph
        if self._channels_last:
            self._images = {i for i, v in enumerate(graph.values) if len(v.shape) == 4}
        lines = [f"def bind({', '.join(f'v{i}' for i in program._inputs)}):"]
        ends = {*program._passed, *(a.value for a in program._assigned)}
        for call, dead in zip(constant, last_uses(list(constant), ends), strict=True):
            lines.append(f"    {self._call(call)}")
            lines += self._delete(dead - set(program._inputs), "    ")
        lines += [f"    v{i} = v{i}.contiguous(memory_format=torch.channels_last)" for i in sorted(weights)]
        n_assigned = len(program._assigned)
        for k, a in enumerate(program._assigned):
            lines.append(f"    _holders[{k}][0][_holders[{k}][1]] = v{a.value}")
        lines.append(f"    def step(v{graph.state}):")
        if self._channels_last and len(graph.values[graph.state].shape) == 4:
            lines.append(f"        v{graph.state} = v{graph.state}.contiguous(memory_format=torch.channels_last)")
        else:
            lines.append(f"        v{graph.state} = v{graph.state}.contiguous()")
        for k, a in enumerate(program._carried, n_assigned):
            if a.before is not None:
                lines.append(f"        v{a.before} = _holders[{k}][0][_holders[{k}][1]]")
        ends = {*outputs, *(a.value for a in program._carried), *program._passed, graph.state}
        for call, dead in zip(varying, last_uses(list(varying), ends), strict=True):
            lines.append(f"        {self._call(call)}")
            lines += self._delete(dead, "        ")
        for k, a in enumerate(program._carried, n_assigned):
            lines.append(f"        _holders[{k}][0][_holders[{k}][1]] = v{a.value}")
        lines.append(f"        return {', '.join(f'v{i}' for i in outputs)}")
        lines.append("    return step")
        self.source = "\n".join(lines)
        program.source = self.source
        return compile(self.source, "<fastlangevin graph>", "exec")

    def _call(self, call: Call) -> str:
        operator = self._constant(call.operator._op)
        args = [self._in_layout(call, a) for a in call.args]
        args += [f"{k}={self._literal(v)}" for k, v in call.kwargs.items()]
        text = f"{operator}({', '.join(args)})"
        if not call.results:
            return text
        names = ["_" if r is None or r in call.writes else f"v{r}" for r in call.results]
        return f"{names[0] if call.is_single else '(' + ', '.join(names) + ',)'} = {text}"

    def _in_layout(self, call: Call, value: Any) -> str:
        text = self._literal(value)
        if isinstance(value, Ref) and value.index in self._images and call.name not in _ANY_LAYOUT:
            if call.name in _CHANNELS_LAST:
                return f"{text}.contiguous(memory_format=torch.channels_last)"
            if value.index not in call.writes:
                return f"{text}.contiguous()"
        return text

    def _delete(self, dead: Iterable[int], indent: str) -> list[str]:
        return [f"{indent}del {', '.join(f'v{i}' for i in sorted(dead))}"] if dead else []

    def _literal(self, value: Any) -> str:
        if isinstance(value, Ref):
            return f"v{value.index}"
        if isinstance(value, list):
            return f"[{', '.join(map(self._literal, value))}]"
        if isinstance(value, tuple):
            return f"({', '.join(map(self._literal, value))},)"
        if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
            return repr(value)
        return self._constant(value)

    def _constant(self, value: Any) -> str:
        name = self._names.get(id(value))
        if name is None:
            name = self._names[id(value)] = f"k{len(self._names)}"
            self.constants[name] = value
        return name
