"""What of a graph is needed, and what of it is the same at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from .graph import Call, Graph


def written_storages(graph: Graph) -> set[int]:
    """The storages that some call writes to."""
    return {graph.values[i].storage for call in graph.calls for i in call.writes}


def outer_storages(graph: Graph) -> set[int]:
    """The storages of tensors that exist before an evaluation and after it."""
    return {graph.values[i].storage for i, source in graph.sources.items() if isinstance(source, int)}


def needed(graph: Graph, outputs: Iterable[int]) -> Graph:
    """The graph without calls that neither the outputs depend on nor tensors outside of it."""
    written = written_storages(graph)
    live = set(outputs) | {a.value for a in graph.attributes}
    live_storages = outer_storages(graph) | {graph.values[i].storage for i in live}
    kept: set[int] = set()
    n_kept = -1
    while n_kept != len(kept):  # a storage that is found to be live makes earlier and later writes to it live
        n_kept = len(kept)
        for i, call in reversed(list(enumerate(graph.calls))):
            writes = {graph.values[w].storage for w in call.writes}
            if i not in kept and (
                live.intersection(r for r in call.results if r is not None) or writes & live_storages
            ):
                kept.add(i)
                live |= call.reads
                live_storages |= {s for r in call.reads if (s := graph.values[r].storage) in written}
    return dataclasses.replace(graph, calls=tuple(c for i, c in enumerate(graph.calls) if i in kept))


def split_constant(graph: Graph) -> tuple[list[Call], list[Call]]:
    """The calls whose results are the same at every step as long as the network is, and the others.

    A call is constant unless it depends on the state, or on memory that calls of each step write to.
    """
    varying = {graph.state} | {a.before for a in graph.attributes if a.before is not None}
    storages = outer_storages(graph) & written_storages(graph)
    storages.add(graph.values[graph.state].storage)
    n_before = -1
    while n_before != len(varying) + len(storages):
        n_before = len(varying) + len(storages)
        for call in graph.calls:
            if _varies(graph, call, varying, storages):
                varying |= call.returned
                storages.update(graph.values[w].storage for w in call.writes)
    constant = [c for c in graph.calls if not _varies(graph, c, varying, storages)]
    return constant, [c for c in graph.calls if _varies(graph, c, varying, storages)]


def _varies(graph: Graph, call: Call, varying: set[int], storages: set[int]) -> bool:
    touched = call.reads | call.returned
    return bool(varying & call.reads) or any(graph.values[v].storage in storages for v in touched)


def last_uses(calls: list[Call], outputs: Iterable[int]) -> list[frozenset[int]]:
    """For each call, the values that neither a later call reads nor an output is."""
    seen = set(outputs)
    uses: list[frozenset[int]] = []
    for call in reversed(calls):
        touched = call.reads | call.returned
        uses.append(touched - seen)
        seen |= touched
    return uses[::-1]
