"""A recorded evaluation: the calls to torch's operators that turn a state into energies and a score, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ref:
    """Stands for value number `index` of a graph among the arguments of its calls."""

    index: int


@dataclass(frozen=True)
class Value:
    """What is known of a tensor before it exists.

    Attributes:
        storage: a number that tensors share which share memory.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    storage: int
    device: torch.device


@dataclass(frozen=True)
class Call:
    """One call of an operator.

    Attributes:
        operator: an overload, such as `torch.ops.aten.add.Tensor`, or a `Pointwise` (fused calls).
        args, kwargs: with a `Ref` for each tensor, also inside lists and tuples.
        results: the value of each result, None for one that is not a tensor.
        is_single: whether the operator returns the only result itself, not in a tuple.
        writes: the arguments that it overwrites.
    """

    operator: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[int | None, ...]
    is_single: bool
    writes: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """The operator's name, without its namespace and overload."""
        return str(getattr(self.operator, "overloadpacket", self.operator).__name__)

    @property
    def returned(self) -> frozenset[int]:
        return frozenset(r for r in self.results if r is not None)

    @property
    def reads(self) -> frozenset[int]:
        return frozenset(refs((self.args, self.kwargs)))


@dataclass(frozen=True)
class Attribute:
    """An attribute of a module that an evaluation assigns, as a hook does.

    Attributes:
        module: its place in `Dependencies.modules`.
        value: what is assigned.
        before: the value that it had, None if the evaluation does not read it.
    """

    module: int
    name: str
    value: int
    before: int | None


@dataclass(frozen=True)
class Graph:
    """A straight line of calls.

    Attributes:
        values: by index.
        calls: in the order in which they were made.
        state: the value of the state.
        sources: of every other value that no call returns: its place in `Dependencies.tensors`, or the tensor itself if
            it is made from Python values.
        score: the value of ∇ log p.
        energies: the value of the (B,) energies; None for a target that is a score.
        attributes: what an evaluation assigns to modules.
    """

    values: tuple[Value, ...]
    calls: tuple[Call, ...]
    state: int
    sources: dict[int, int | Tensor]
    score: int
    energies: int | None
    attributes: tuple[Attribute, ...] = ()


def refs(value: Any) -> Iterator[int]:
    """The indices of all `Ref`s in nested lists, tuples and dicts."""
    if isinstance(value, Ref):
        yield value.index
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from refs(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from refs(item)


def replace_refs(value: Any, new: Callable[[int], Any]) -> Any:
    """The same nested lists, tuples and dicts with `new(index)` for each `Ref`."""
    if isinstance(value, Ref):
        return new(value.index)
    if isinstance(value, (list, tuple)):
        return type(value)(replace_refs(item, new) for item in value)
    if isinstance(value, dict):
        return {key: replace_refs(item, new) for key, item in value.items()}
    return value


def with_ends(graph: Graph, new: Mapping[int, int]) -> Graph:
    """With other values, by index, for those that are needed after an evaluation."""
    return replace(
        graph,
        score=new.get(graph.score, graph.score),
        energies=None if graph.energies is None else new.get(graph.energies, graph.energies),
        attributes=tuple(replace(a, value=new.get(a.value, a.value)) for a in graph.attributes),
    )
