"""Fuses calls on images into calls that stand for several."""

from __future__ import annotations

import graphlib
import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence

import torch

from .fused_call import Group, is_image, member
from .graph import Call, Graph
from .graph_liveness import written_storages
from .pointwise import spread
from .products import Product


def fuse(
    graph: Graph,
    calls: Sequence[Call],
    outputs: Iterable[int],
    is_product: Callable[[Product, torch.dtype], bool] = lambda product, dtype: False,
) -> list[Call]:
    """The calls, with a fused one (`Pointwise`) for those that one kernel computes, in an order that keeps every
    dependency. Calls whose results nothing needs are left out.

    Calls that read or write memory which some call overwrites stay as they are, in their order.

    Args:
        calls: of the graph, in order.
        outputs: values that are needed after the calls.
        is_product: whether a kernel computes a product, of tensors of a type, together with what follows.
    """
    return _Fusion(graph, calls, is_product).calls(outputs)


class _Fusion:
    """Groups of calls that each become one. Calls are known by their place, groups by their first call's."""

    def __init__(self, graph: Graph, calls: Sequence[Call], is_product: Callable[[Product, torch.dtype], bool]) -> None:
        self._graph, self._calls = graph, calls
        self._made = {r: i for i, c in enumerate(calls) for r in c.returned - c.writes}
        written = written_storages(graph)
        self._bound = {
            i for i, c in enumerate(calls) if any(graph.values[v].storage in written for v in c.reads | c.returned)
        }
        self._spread = {
            v: source
            for i, c in enumerate(calls)
            if i not in self._bound and (source := spread(c)) is not None
            for v in c.returned
            if is_image(graph, v) and graph.values[v].shape[2:] == tuple(2 * n for n in graph.values[source].shape[2:])
        }
        found = {i: member(graph, c, self._spread, is_product) for i, c in enumerate(calls) if i not in self._bound}
        self._members = {i: m for i, m in found.items() if m is not None}
        self._needs = [{self._made[v] for v in c.reads if v in self._made} - {i} for i, c in enumerate(calls)]
        bound = sorted(self._bound)
        for before, after in itertools.pairwise(bound):
            self._needs[after].add(before)
        self._of = list(range(len(calls)))
        self._groups = {i: [i] for i in self._of}
        for i, m in self._members.items():
            for value in m.values:
                if self._made.get(value) in self._members:
                    self._join(i, self._made[value])

    def _join(self, i: int, j: int) -> None:
        """Puts the groups of two calls together if one kernel can compute them, and nothing has to come between."""
        first, second = sorted((self._of[i], self._of[j]))
        if first == second or self._is_between(first, second):
            return
        merged = sorted(self._groups[first] + self._groups[second])
        if self._group(merged).fits():
            self._groups[first] = merged
            del self._groups[second]
            for k in merged:
                self._of[k] = first

    def _group(self, places: Iterable[int]) -> Group:
        return Group(self._graph, [self._members[k] for k in places], self._spread)

    def _needed(self, group: int) -> set[int]:
        """The groups that a group depends on."""
        return {self._of[n] for k in self._groups[group] for n in self._needs[k]} - {group}

    def _is_between(self, a: int, b: int) -> bool:
        """Whether a third group depends on one of two, and the other depends on it."""
        for start, goal in ((a, b), (b, a)):
            waiting, seen = self._needed(start) - {goal}, set()
            while waiting:
                group = waiting.pop()
                if group == goal:
                    return True
                seen.add(group)
                waiting |= self._needed(group) - seen
        return False

    def _order(self) -> list[int]:
        """The groups, each after those that it depends on, and else in the order of their first calls."""
        sorter = graphlib.TopologicalSorter({group: self._needed(group) for group in self._groups})
        sorter.prepare()
        order: list[int] = []
        ready: list[int] = []
        while sorter.is_active():
            for group in sorter.get_ready():
                heapq.heappush(ready, group)
            order.append(heapq.heappop(ready))
            sorter.done(order[-1])
        return order

    def calls(self, outputs: Iterable[int]) -> list[Call]:
        needed, kept = set(outputs), list[Call]()
        for first in reversed(self._order()):
            places = self._groups[first]
            fused = None
            if first in self._members and self._group(places).is_worth_it:
                fused = self._group(places).call(needed)
            for call in reversed([self._calls[k] for k in places]) if fused is None else [fused]:
                if call.returned & needed or first in self._bound or not call.results:
                    kept.append(call)
                    needed |= call.reads
        return kept[::-1]
