"""Whether the score of a graph is constant wherever it is differentiable, as for piecewise linear energies."""

from __future__ import annotations

from .graph import Call, Graph, refs
from .graph_liveness import written_storages

# The arguments that an operator reads only to choose a branch, by place: its derivative with respect to them is zero.
_BRANCHING: dict[str, tuple[int, ...]] = {
    "threshold_backward": (1,),
    "leaky_relu_backward": (1,),
    "hardtanh_backward": (1,),
    "max_pool2d_with_indices_backward": (1, 7),
    "sgn": (0,),
    "sign": (0,),
    **dict.fromkeys(("ge", "gt", "le", "lt", "eq", "ne"), (0, 1)),
    "where": (0,),
    # A convolution or a pool reads only the shape of its input to compute the gradient with respect to it.
    "convolution_backward": (1,),
    "avg_pool2d_backward": (1,),
    "_adaptive_avg_pool2d_backward": (1,),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"), (0,)),
}


def is_piecewise_linear(graph: Graph) -> bool:
    """Whether no differentiable path leads from the state to the score. False where it is not known."""
    depends = {graph.state} | {a.before for a in graph.attributes if a.before is not None}
    written = written_storages(graph)
    storages: set[int] = set()
    n_before = -1
    while n_before != len(depends) + len(storages):
        n_before = len(depends) + len(storages)
        for call in graph.calls:
            read = _differentiable(graph, call)
            if read & depends or any(graph.values[i].storage in storages for i in read | call.returned):
                depends |= call.returned
                touched = {graph.values[i].storage for i in call.returned | call.writes}
                storages |= touched & written
    return graph.score not in depends


def _differentiable(graph: Graph, call: Call) -> frozenset[int]:
    """The values that the call reads in a way whose derivative may not be zero."""
    skipped = _BRANCHING.get(call.name, ())
    if call.name == "convolution_backward" and call.args[-1][1]:
        skipped = ()  # its gradient with respect to the weight is linear in its input
    if any(graph.values[i].dtype.is_complex for i in call.reads):
        skipped = ()  # sgn(z) = z / |z|
    return frozenset(refs([[a for i, a in enumerate(call.args) if i not in skipped], call.kwargs]))
