"""Rewrites after which more calls can be fused: each leaves the results as they are."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import torch

from .graph import Call, Graph, Ref, Value, replace_refs, with_ends
from .graph_liveness import written_storages

_aten = torch.ops.aten
_FUNCTIONAL: dict[Any, Any] = {
    _aten.add_.Tensor: _aten.add.Tensor,
    _aten.sub_.Tensor: _aten.sub.Tensor,
    _aten.mul_.Tensor: _aten.mul.Tensor,
    _aten.div_.Tensor: _aten.div.Tensor,
    _aten.relu_.default: _aten.relu.default,
    _aten.leaky_relu_.default: _aten.leaky_relu.default,
    _aten.silu_.default: _aten.silu.default,
    _aten.sigmoid_.default: _aten.sigmoid.default,
    _aten.masked_fill_.Scalar: _aten.masked_fill.Scalar,
    _aten.logical_and_.default: _aten.logical_and.default,
}


def exposed(graph: Graph) -> Graph:
    """With all of the rewrites below."""
    return reading_activations(without_repeated_casts(separate_bias(functional(graph))))


def functional(graph: Graph) -> Graph:
    """With `add` for an `add_` to a tensor that a call of this graph made, and that shares its memory with no other.

    Later calls then read the new value; those before are not concerned.
    """
    sharing = Counter(v.storage for v in graph.values)
    values, made = list(graph.values), {r for c in graph.calls if not c.writes for r in c.returned}
    current: dict[int, int] = {}

    def newest(index: int) -> int:
        return current.get(index, index)

    calls = []
    for call in graph.calls:
        args, kwargs = replace_refs((call.args, call.kwargs), lambda i: Ref(newest(i)))
        operator = _FUNCTIONAL.get(call.operator)
        written = next(iter(call.writes), -1)
        if operator is not None and written in made and sharing[values[written].storage] == 1:
            others = [values[a.index] for a in args[1:] if isinstance(a, Ref)]
            shape, dtype = values[written].shape, values[written].dtype
            if all(v.dtype in (dtype, torch.bool) and np.broadcast_shapes(v.shape, shape) == shape for v in others):
                current[written] = _add(values, values[written])
                calls.append(Call(operator, args, kwargs, (current[written],), is_single=True))
                continue
        writes = frozenset(map(newest, call.writes))
        results = tuple(r if r is None or r not in call.writes else newest(r) for r in call.results)
        calls.append(dataclasses.replace(call, args=args, kwargs=kwargs, writes=writes, results=results))
    return with_ends(dataclasses.replace(graph, values=tuple(values), calls=tuple(calls)), current)


def separate_bias(graph: Graph) -> Graph:
    """With the bias of a 2-D convolution added by a call of its own, as torch does on CUDA."""
    values, calls = list(graph.values), []
    for call in graph.calls:
        bias = call.args[2] if call.operator is _aten.convolution.default else None
        if bias is None or len(values[call.results[0]].shape) != 4:  # type: ignore[index]
            calls.append(call)
            continue
        image = values[call.results[0]]  # type: ignore[index]
        shape = (1, image.shape[1], 1, 1)
        row = len(values)
        values.append(dataclasses.replace(values[bias.index], shape=shape, stride=(shape[1], 1, 1, 1)))
        product = _add(values, image)
        args = (*call.args[:2], None, *call.args[3:])
        calls += (
            Call(_aten.reshape.default, (bias, list(shape)), {}, (row,), is_single=True),
            dataclasses.replace(call, args=args, results=(product,)),
            Call(_aten.add.Tensor, (Ref(product), Ref(row)), {}, call.results, is_single=True),
        )
    return dataclasses.replace(graph, values=tuple(values), calls=tuple(calls))


def without_repeated_casts(graph: Graph) -> Graph:
    """With one conversion of a value to a type where there are several, as autocast makes for each reader."""
    written = written_storages(graph)
    found: dict[tuple[int, str], int] = {}
    same: dict[int, int] = {}
    calls = []
    for call in graph.calls:
        args, kwargs = replace_refs((call.args, call.kwargs), lambda i: Ref(same.get(i, i)))
        call = dataclasses.replace(call, args=args, kwargs=kwargs)
        result = call.results[0] if call.operator is _aten._to_copy.default else None
        if result is not None and not any(graph.values[i].storage in written for i in call.reads | {result}):
            first = found.setdefault((args[0].index, str(kwargs)), result)
            if first != result:
                same[result] = first
                continue
        calls.append(call)
    return with_ends(dataclasses.replace(graph, calls=tuple(calls)), same)


def reading_activations(graph: Graph) -> Graph:
    """With gradients of LeakyReLU read at its result, or that in another floating-point type, in place of its argument,
    which then need not be kept: the sign is the same, for slopes above zero.

    Of another type, results may have been rounded to zero: those of an argument within rounding of the kink.
    """
    written = written_storages(graph)
    results: dict[int, int] = {}
    calls = []
    for call in graph.calls:
        if any(graph.values[i].storage in written for i in call.reads | call.returned):
            calls.append(call)
            continue
        if call.operator is _aten.leaky_relu.default and len(call.args) > 1 and call.args[1] > 0:
            results[call.args[0].index] = call.results[0]  # type: ignore[assignment]
        elif call.operator is _aten._to_copy.default and call.args[0].index in results.values():
            if graph.values[call.results[0]].dtype.is_floating_point:  # type: ignore[index]
                source = next(k for k, v in results.items() if v == call.args[0].index)
                results[source] = call.results[0]  # type: ignore[assignment]
        elif call.operator is _aten.leaky_relu_backward.default and call.args[1].index in results:
            gradient, x, *rest = call.args
            call = dataclasses.replace(call, args=(gradient, Ref(results[x.index]), *rest))
        calls.append(call)
    return dataclasses.replace(graph, calls=tuple(calls))


def _add(values: list[Value], like: Value) -> int:
    """Another value like one, with memory of its own."""
    values.append(dataclasses.replace(like, storage=1 + max(v.storage for v in values)))
    return len(values) - 1
