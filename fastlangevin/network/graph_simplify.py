"""Rewrites of a graph that leave its results as they are, up to rounding."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from .graph import Call, Graph, Ref, Value, refs, replace_refs, with_ends
from .graph_liveness import last_uses, written_storages

_aten = torch.ops.aten
_LAYOUT_BOUND = {"as_strided", "as_strided_", "as_strided_copy", "view_as_complex", "view_as_real", "set_"}
_VIEWS = {_aten.view.default, _aten._unsafe_view.default}


def without_aliases(graph: Graph) -> Graph:
    """Without calls that return their first argument's own memory in the same shape, such as detach."""
    same: dict[int, int] = {}

    def current(index: int) -> int:
        return same.get(index, index)

    calls = []
    for call in graph.calls:
        args, kwargs = replace_refs((call.args, call.kwargs), lambda i: Ref(current(i)))
        writes = frozenset(map(current, call.writes))
        read = next(refs(args), None)
        is_lazy = call.name in ("_conj", "_neg_view")  # what the memory means has changed
        if call.is_single and not writes and read is not None and call.results[0] is not None and not is_lazy:
            a, b = graph.values[read], graph.values[call.results[0]]
            if dataclasses.astuple(a) == dataclasses.astuple(b):
                same[call.results[0]] = read
                continue
        calls.append(dataclasses.replace(call, args=args, kwargs=kwargs, writes=writes))
    return with_ends(dataclasses.replace(graph, calls=tuple(calls)), same)


def allows_any_layout(graph: Graph) -> bool:
    """Whether the graph is right for any layout of its tensors, after `any_layout`."""
    written = written_storages(graph)
    return not any(
        call.name in _LAYOUT_BOUND
        or (call.operator in _VIEWS and any(graph.values[r].storage in written for r in call.returned))
        for call in graph.calls
    )


def any_layout(graph: Graph) -> Graph:
    """With `reshape`, which copies if it must, for every `view`."""
    return dataclasses.replace(
        graph,
        calls=tuple(
            dataclasses.replace(c, operator=_aten.reshape.default) if c.operator in _VIEWS else c for c in graph.calls
        ),
    )


def with_silu(graph: Graph) -> Graph:
    """With silu for x·sigmoid(x), and its backward for the gradient of that product."""
    written = written_storages(graph)
    made = {r: c for c in graph.calls for r in c.results if r is not None and c.is_single}
    silus: dict[int, int] = {}  # of each sigmoid's result, its argument
    for call in graph.calls:
        if call.operator is _aten.sigmoid.default and not _touches(graph, call, written):
            x, result = call.args[0].index, _index(call.results)
            if graph.values[x].dtype == graph.values[result].dtype:  # not of integers
                silus[result] = x
    replaced: dict[int, Call] = {}
    for call in graph.calls:
        if _touches(graph, call, written) or not call.is_single:
            continue
        if call.operator is _aten.mul.Tensor and all(isinstance(a, Ref) for a in call.args):
            a, b = (arg.index for arg in call.args)
            x, s = (a, b) if silus.get(b) == a else (b, a)
            if silus.get(s) == x:
                replaced[_index(call.results)] = dataclasses.replace(call, operator=_aten.silu.default, args=(Ref(x),))
        elif call.operator is _aten.add.Tensor and not call.kwargs and all(isinstance(a, Ref) for a in call.args):
            backward = _silu_backward(call, made, silus)
            if backward is not None and all(
                _alike(graph.values[i], graph.values[_index(call.results)]) for i in backward.reads
            ):
                replaced[_index(call.results)] = backward
    return dataclasses.replace(
        graph,
        calls=tuple(
            replaced.get(c.results[0], c) if c.is_single and c.results[0] is not None else c for c in graph.calls
        ),
    )


def _silu_backward(call: Call, made: dict[int, Call], silus: dict[int, int]) -> Call | None:
    """g·s + sigmoid_backward(g·x, s) = silu_backward(g, x) for s = sigmoid(x)."""
    for first, second in (call.args, call.args[::-1]):
        product, through = made.get(first.index), made.get(second.index)
        if product is None or through is None or through.operator is not _aten.sigmoid_backward.default:
            continue
        s = through.args[1].index
        inner = made.get(through.args[0].index)
        if s not in silus or inner is None or inner.operator is not product.operator or product.name != "mul":
            continue
        x = silus[s]
        if not all(isinstance(a, Ref) for a in (*inner.args, *product.args)):
            continue
        g = {a.index for a in product.args} - {s}
        if len(g) == 1 and {a.index for a in inner.args} == g | {x} and len(product.args) == len(inner.args) == 2:
            return dataclasses.replace(call, operator=_aten.silu_backward.default, args=(Ref(g.pop()), Ref(x)))
    return None


def in_place(graph: Graph, calls: Sequence[Call], outputs: Iterable[int], outside: set[int]) -> list[Call]:
    """The calls with element-wise ones writing their result over an argument that nothing needs any more.

    Args:
        outside: values that exist before the calls.
    """
    written = written_storages(graph)
    sharing = Counter(v.storage for v in graph.values)
    rewritten = []
    for call, dying in zip(calls, last_uses(list(calls), outputs), strict=True):
        overwrite = _OVERWRITE.get(call.operator)
        result = call.results[0]
        if overwrite is not None and call.is_single and result is not None:
            for place in overwrite.places:
                a = call.args[place] if place < len(call.args) else None
                if not isinstance(a, Ref) or a.index not in dying or a.index in outside:
                    continue
                old, new = graph.values[a.index], graph.values[result]
                is_alone = sharing[old.storage] == 1 and old.storage not in written
                if is_alone and list(refs(call.args)).count(a.index) == 1 and _alike(old, new):
                    call = overwrite.rewrite(call, place)
                    break
        rewritten.append(call)
    return rewritten


@dataclasses.dataclass(frozen=True)
class _Overwrite:
    """How an operator overwrites an argument: by its variant in place, or by an output argument."""

    places: tuple[int, ...]
    rewrite: Callable[[Call, int], Call]


def _inner(operator: Any, places: tuple[int, ...] = (0,)) -> _Overwrite:
    def rewrite(call: Call, place: int) -> Call:
        args = (call.args[place], *(a for i, a in enumerate(call.args) if i != place))
        return dataclasses.replace(call, operator=operator, args=args)

    return _Overwrite(places, rewrite)


def _output(operator: Any, keyword: str) -> _Overwrite:
    def rewrite(call: Call, place: int) -> Call:
        return dataclasses.replace(call, operator=operator, kwargs={**call.kwargs, keyword: call.args[place]})

    return _Overwrite((0,), rewrite)


def _index(results: tuple[int | None, ...]) -> int:
    (index,) = results
    assert index is not None
    return index


def _alike(a: Value, b: Value) -> bool:
    return (a.shape, a.stride, a.dtype) == (b.shape, b.stride, b.dtype)


def _touches(graph: Graph, call: Call, storages: set[int]) -> bool:
    return any(graph.values[i].storage in storages for i in call.reads | call.returned)


_UNARY = (
    "neg",
    "exp",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "silu",
    "gelu",
    "elu",
    "abs",
    "square",
    "sqrt",
    "rsqrt",
)
_BACKWARD = ("sigmoid", "tanh", "leaky_relu", "silu", "gelu", "elu", "softplus", "hardtanh", "threshold")
_OVERWRITE: dict[Any, _Overwrite] = {
    **{getattr(_aten, n).default: _inner(getattr(_aten, f"{n}_").default) for n in _UNARY},
    **{
        getattr(_aten, f"{n}_backward").default: _output(getattr(_aten, f"{n}_backward").grad_input, "grad_input")
        for n in _BACKWARD
    },
    _aten.add.Tensor: _inner(_aten.add_.Tensor),
    _aten.sub.Tensor: _inner(_aten.sub_.Tensor),
    _aten.mul.Tensor: _inner(_aten.mul_.Tensor, (0, 1)),
    _aten.div.Tensor: _inner(_aten.div_.Tensor),
    _aten.div.Scalar: _inner(_aten.div_.Scalar),
    _aten.mul.Scalar: _inner(_aten.mul_.Scalar),
}
