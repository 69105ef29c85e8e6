"""Turns a graph into two Python functions: what is computed once a call, and what is computed at each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.triton import fused as fused_kernels
from ..network.effects import holder
from ..network.graph import Call, Graph, Ref
from ..network.graph_exposed import exposed
from ..network.graph_fusion import fuse
from ..network.graph_liveness import last_uses, needed, split_constant
from ..network.graph_simplify import allows_any_layout, any_layout, in_place, with_silu, without_aliases
from ..network.pointwise import Pointwise

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
# Elements that are copied between layouts, for each multiply-add of convolutions. Networks with up to 2e-4 were 1.15
# to 1.34 times faster channels last, and those with 3e-3 and more slower.
_MOST_COPIED = 5e-4
_CHANNELS_LAST = {"native_group_norm", "native_group_norm_backward", "native_batch_norm", "native_batch_norm_backward"}


class Program:
    """A graph as straight-line Python code, which costs less than walking it.

    Args:
        with_energies: whether steps return (energies, score), or the score alone.
        fuses: whether kernels compute several operators at once, if images are channels last.

    Attributes:
        channels_last: whether it computes in that layout.
        calls: of operators, at each step.
        fused: operators that stand for several.
        fusion: for a plan, a sentence on them.
    """

    def __init__(self, graph: Graph, with_energies: bool, fuses: bool = False) -> None:
        graph = without_aliases(graph)
        graph = needed(with_silu(graph), _outputs(graph, with_energies))
        constant, varying = split_constant(graph)
        is_free = allows_any_layout(graph)
        self.channels_last = is_free and _gains_by_channels_last(graph, varying)
        fuses = fuses and self.channels_last
        if is_free:  # convolutions in the place of gradients may lie in another order than was recorded
            graph = exposed(any_layout(graph)) if fuses else any_layout(graph)
            constant, varying = split_constant(graph)
        outputs = _outputs(graph, with_energies)
        self.graph = graph
        fixed = {*graph.sources, *(r for c in constant for r in c.results if r is not None)}
        self._carried = [
            a for a in graph.attributes if any(a.value in c.results for c in varying) or a.before is not None
        ]
        self._assigned = [a for a in graph.attributes if a not in self._carried]
        ends = (*outputs, *(a.value for a in self._carried))
        if fuses:
            varying = fuse(graph, varying, ends, fused_kernels.computes)
        self.fused = [c.operator for c in varying if isinstance(c.operator, Pointwise)]
        self.calls = varying = in_place(graph, varying, ends, {graph.state, *fixed})
        self.fusion = _fusion(self.fused, len(varying), self.channels_last)
        before = [a.before for a in self._carried]
        read = {i for c in varying for i in c.reads} | set(ends)
        self._inputs = sorted(graph.sources)
        self._passed = sorted((read & fixed) - set(before))
        writer = _Writer(self.channels_last)
        self._code = writer.code(self, constant, varying, outputs, self._weights(constant, varying))
        self._constants = writer.constants

    def _weights(self, constant: Sequence[Call], varying: Sequence[Call]) -> set[int]:
        """Fixed 4-dimensional values that convolutions of a step read: those whose layout decides theirs. Fused calls
        would copy what is not dense at each step.
        """
        if not self.channels_last:
            return set()
        readers = [c for c in varying if c.name.startswith("convolution") or c.operator in self.fused]
        found = {i for c in readers for i in c.reads if i in self._passed}
        return {i for i in found if len(self.graph.values[i].shape) == 4}

    def bind(self, tensors: Sequence[Tensor], modules: Sequence[nn.Module]) -> Step:
        """Computes what is constant, and returns the function of one step.

        Args:
            tensors, modules: of the dependencies of the energy and its arguments.
        """
        sources = (self.graph.sources[i] for i in self._inputs)
        inputs = [tensors[source] if isinstance(source, int) else source for source in sources]
        holders = [(holder(modules[a.module], a.name), a.name) for a in (*self._assigned, *self._carried)]
        namespace: dict[str, Any] = {"torch": torch, "_holders": holders, **self._constants}
        exec(self._code, namespace)
        step: Step = namespace["bind"](*inputs)
        return step


def _fusion(fused: Sequence[Pointwise], n_calls: int, channels_last: bool) -> str:
    if not channels_last:
        return "the graph engine's operators are not fused: its images are not channels last"
    n_fused, n_products = sum(o.n_calls for o in fused), sum(o.product is not None for o in fused)
    return (
        f"the graph engine runs {n_fused} of {n_fused + n_calls - len(fused)} operators as {len(fused)} fused Triton "
        f"kernels, {n_products} of them with a convolution: in fp16 and bf16, with channels in multiples of 16"
    )


def _outputs(graph: Graph, with_energies: bool) -> tuple[int, ...]:
    return (graph.energies, graph.score) if with_energies and graph.energies is not None else (graph.score,)


def _gains_by_channels_last(graph: Graph, calls: Sequence[Call]) -> bool:
    """Whether 2-D convolutions take much longer than the copies for operators that need another layout."""
    bound = [c for c in calls if c.name in _RESHAPES or c.name not in _ANY_LAYOUT | _CHANNELS_LAST]
    shapes = ([graph.values[i].shape for i in c.reads] for c in bound)
    copied = sum(max((math.prod(shape) for shape in each if len(shape) == 4), default=0) for each in shapes)
    return copied < _MOST_COPIED * sum(_multiply_adds(graph, c) for c in calls if c.name.startswith("convolution"))


def _multiply_adds(graph: Graph, call: Call) -> int:
    """Of a 2-D convolution or its input gradient, 0 for others: one for each weight and pixel of the side that windows
    are counted on, the output's but for transposed convolutions.
    """
    if call.name == "convolution_backward":
        y, x, weight, transposed = *(a.index for a in call.args[:3]), call.args[7]
    else:
        (x, weight), transposed = (a.index for a in call.args[:2]), call.args[6]
        (y,) = call.returned
    shape, kernel = graph.values[x if transposed else y].shape, graph.values[weight].shape
    return math.prod(kernel) * shape[0] * math.prod(shape[2:]) if len(kernel) == 4 else 0


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
        graph: Graph = program.graph
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
        is_fused = isinstance(call.operator, Pointwise)
        operator = self._constant(fused_kernels.Launch(call.operator) if is_fused else call.operator._op)
        args = [self._in_layout(call, a) for a in call.args]
        args += [f"{k}={self._literal(v)}" for k, v in call.kwargs.items()]
        text = f"{operator}({', '.join(args)})"
        if not call.results:
            return text
        names = ["_" if r is None or r in call.writes else f"v{r}" for r in call.results]
        return f"{names[0] if call.is_single else '(' + ', '.join(names) + ',)'} = {text}"

    def _in_layout(self, call: Call, value: Any) -> str:
        text = self._literal(value)
        is_free = call.name in _ANY_LAYOUT or isinstance(call.operator, Pointwise)
        if isinstance(value, Ref) and value.index in self._images and not is_free:
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
